"""What a detection rule gives for what it costs: every rule, at several numbers of steps.

One set of weights serves all points. AUROC with 95 % patient-bootstrap intervals on labelled
films, GFLOP (torch's counter) and processor seconds a film in batches of 16.

usage: python benchmarks/frontier.py MODEL --films SOURCE:PATH --out DIR
           [--split val] [--most 0] [--steps 10 25 50] [--threads 1]
Writes DIR/NAME.csv, DIR/NAME.md and DIR/NAME.png, where NAME is that of the model's folder.
"""

import argparse
import csv
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from films import Labelled, gflop_of, labelled
from matplotlib.figure import Figure

from nofinding.evaluation.statistics.intervals import measure
from nofinding.methods.base.protocol import HasRules
from nofinding.model.bundle import Model, load_model, with_rule

BATCH = 16


def point(model: Model, judged: Labelled, seed: int) -> list[dict[str, Any]]:
    """Cost of the model's rule, and what each part of its score tells."""
    detector, films = model.detector, judged.films
    columns: list[dict[str, np.ndarray]] = []
    seconds = []
    for start in range(0, len(films), BATCH):
        batch = films.batch(range(start, min(start + BATCH, len(films))))
        start = time.process_time()  # of all threads; another program's load is not in it
        scores = detector.score(batch, seed=seed)
        seconds.append((time.process_time() - start) / len(batch.ids))
        parts = {**scores.components, "score": scores.score}
        columns.append({name: part.double().numpy() for name, part in parts.items()})
    cost = {
        "network_calls": detector.network_calls,
        "gflop": gflop_of(detector, films),
        "seconds": median(seconds),
    }
    rows = []
    for name in columns[0]:
        if not name.startswith("attention."):
            value = np.concatenate([part[name] for part in columns])
            auroc = measure(value, judged.abnormal, judged.patient)["auroc"]
            interval = {"auroc": auroc.value, "low": auroc.low, "high": auroc.high}
            rows.append({**cost, "part": name, **interval})
    return rows


def drawn(rows: list[dict[str, Any]], title: str) -> Figure:
    """AUROC against GFLOP a film, a line a rule; bars are the intervals."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for rule in dict.fromkeys(row["rule"] for row in rows):
        own = sorted((r for r in rows if r["rule"] == rule), key=lambda r: r["gflop"])
        value = [r["auroc"] for r in own]
        bars = [[r["auroc"] - r["low"] for r in own], [r["high"] - r["auroc"] for r in own]]
        axes.errorbar(
            [r["gflop"] for r in own], value, bars, marker="o", capsize=2, lw=1, label=rule
        )
    axes.axhline(0.5, color="grey", lw=0.8, ls=":")
    axes.set(xscale="log", xlabel="GFLOP a film", ylabel="AUROC (95 % interval)", title=title)
    axes.legend(frameon=False, fontsize=8)
    return figure


def table(rows: list[dict[str, Any]], head: str) -> str:
    """The points whose part is the score."""
    lines = [
        head,
        "",
        "| rule | steps | calls | GFLOP | CPU s a film | AUROC |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        interval = f"{r['auroc']:.3f} ({r['low']:.3f} to {r['high']:.3f})"
        cost = f"{r['network_calls']} | {r['gflop']:.1f} | {r['seconds']:.3f}"
        lines.append(f"| {r['rule']} | {r['steps']} | {cost} | {interval} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--films", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--most", type=int, default=0, help="films at most; 0: all")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25, 50])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stored = load_model(options.model)
    assert isinstance(stored.detector, HasRules), f"{stored.detector.name} has one way of scoring"
    judged = labelled(stored, options.films, options.split, options.most)
    rows: list[dict[str, Any]] = []
    for steps in options.steps:
        for rule in stored.detector.RULES:
            measured = point(with_rule(stored, rule, steps), judged, options.seed)
            rows += [{"rule": rule, "steps": steps, **row} for row in measured]
            print(rows[-1], flush=True)
            write(rows, judged, options.model.name, options.split, options.out)


def write(rows: list[dict[str, Any]], judged: Labelled, name: str, split: str, out: Path) -> None:
    """All that is known so far: a run of hours that is cut short leaves its points."""
    n, sick = len(judged.films), int(judged.abnormal.sum())
    head = f"{name}, split {split}: {n - sick} normal, {sick} abnormal films"
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    scores = [row for row in rows if row["part"] == "score"]
    order = list(dict.fromkeys(row["rule"] for row in rows))
    scores.sort(key=lambda row: (order.index(row["rule"]), row["steps"]))
    (out / f"{name}.md").write_text(table(scores, head))
    drawn(scores, head).savefig(out / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
