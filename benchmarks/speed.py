"""Seconds and memory of scoring a film: every model, by every runtime and precision that it has.

All are timed in turns, in one process, and the medians are printed: a busy machine then slows all
of them alike. Seconds do not include reading films; converting for OpenVINO is stated by itself.

usage: python benchmarks/speed.py MODEL [MODEL...] --films SOURCE:PATH
           [--split val] [--rounds 5] [--threads 1] [--agree 0] [--out FILE.md]
--agree N also scores N labelled films each way, and compares with float32 torch.
"""

import argparse
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
import torch
from films import Labelled, gflop_of, labelled, seconds_of

from nofinding.errors import UserError
from nofinding.evaluation.statistics.intervals import measure
from nofinding.model.bundle import Model, load_model
from nofinding.model.runtime_parity import rank_correlation, use_runtime
from nofinding.runtime import Engine, Portable, Precision, Runtime

BATCHES = (1, 16)
RUNTIMES = [
    Runtime(engine=engine, precision=precision)
    for engine, precision in product(get_args(Engine), get_args(Precision))
]


@dataclass
class Way:
    """A model run in one way, and what was measured of it."""

    model: Model
    films: Labelled
    runtime: Runtime
    name: str
    gflop: float
    warm_up: float = 0.0
    """Seconds of the first batches beyond the median one: conversion, mostly."""
    seconds: dict[int, list[float]] = field(default_factory=lambda: {b: [] for b in BATCHES})
    memory: float = 0.0
    """Peak of the process, MiB."""


def ways_of(folder: Path, options: argparse.Namespace) -> list[Way]:
    """Each way in which the model can be run here. A copy of the model each."""
    ways = []
    for runtime in RUNTIMES:
        model = load_model(folder)
        if not runtime.is_reference and not isinstance(model.detector, Portable):
            continue
        judged = labelled(model, options.films, options.split, max(options.agree, max(BATCHES)))
        gflop = gflop_of(model.detector, judged.films)  # before: torch's counter sees only torch
        try:
            use_runtime(model.detector, runtime)
            model.detector.score(judged.films.batch([0]))
        except UserError as error:
            print(f"{folder.name}: {error}")
            continue
        name = f"{model.detector.name} | {folder.name} | {runtime.engine} {runtime.precision}"
        ways.append(Way(model, judged, runtime, name, gflop))
    return ways


def once(way: Way, rows: int) -> float:
    """Seconds of a batch; notes the peak of the process's memory."""
    batch = way.films.films.batch(range(rows))
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # from here on, a new peak
    took = seconds_of(lambda: way.model.detector.score(batch))
    way.memory = max(way.memory, peak())
    return took


def peak() -> float:
    """The process's highest resident memory since the last reset, MiB; NaN off Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else float("nan")


def agreement(ways: list[Way]) -> list[str]:
    """Scores of the same films each way, against the first way, which is the reference."""
    lines, reference = [], np.empty(0)
    for way in ways:
        films = way.films.films
        score = torch.cat(
            [
                way.model.detector.score(films.batch(range(i, min(i + 16, len(films))))).score
                for i in range(0, len(films), 16)
            ]
        )
        values = score.double().numpy()
        reference = values if way.runtime.is_reference else reference
        e = measure(values, way.films.abnormal, way.films.patient)["auroc"]
        off = np.abs(values - reference).max() / np.abs(reference).max()
        interval = f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})"
        rank = rank_correlation(values, reference)
        lines.append(f"| {way.name} | {len(films)} | {rank:.4f} | {off:.1e} | {interval} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--films", nargs="+", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--agree", type=int, default=0, help="films to compare scores on; 0: none")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    groups = [ways_of(folder, options) for folder in options.models]
    ways = [way for group in groups for way in group]
    for way in ways:
        way.warm_up = sum(once(way, rows) for rows in BATCHES)
    for _, rows, way in product(range(options.rounds), BATCHES, ways):
        way.seconds[rows].append(once(way, rows) / rows)
    lines = [
        "| method | model | runtime | calls | GFLOP | s a film, 1 at once | 16 at once | films/s "
        "| first, s | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for way in ways:
        one, many = (median(way.seconds[rows]) for rows in BATCHES)
        first = way.warm_up - one - many * max(BATCHES)
        lines.append(
            f"| {way.name} | {way.model.detector.network_calls} | {way.gflop:.1f} | {one:.3f} | "
            f"{many:.3f} | {1 / many:.1f} | {max(0.0, first):.1f} | {way.memory:.0f} |"
        )
    print("\n".join(lines), flush=True)
    if options.agree:
        lines += [
            "",
            "| method | model | runtime | films | Spearman | largest difference | AUROC |",
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        for group in groups:
            lines += agreement(group)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
