"""Simulations behind docs/calibration.md and the tables of `evaluate` and `bench`: does 5 % mean
5 %, and do 95 % intervals cover 95 %?

    python benchmarks/simulations.py --out benchmarks/results/statistics.md

About two minutes of one core. `--parts` makes some of the tables alone.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from nofinding.evaluation.statistics.bounded_interval import expanded_interval
from nofinding.evaluation.statistics.delong import delong_test
from nofinding.evaluation.statistics.intervals import bootstrap, difference, measure
from nofinding.evaluation.statistics.metrics import METRICS, count
from nofinding.evaluation.statistics.strata import Partition, Stratum, mondrian_p_values
from nofinding.evaluation.statistics.tail import fit_tail

LEVEL = 0.05
ICCS = (0.0, 0.3, 0.6, 0.9)
AREAS = (0.6, 0.8, 0.9, 0.97, 0.99)
SHOWN = tuple(METRICS)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def error(trials: int, share: float) -> float:
    """1.96 standard errors of a share of so many trials, in points."""
    return 196 * float(np.sqrt(share * (1 - share) / trials))


def rejections(
    icc: float, patients: int, whole: bool, trials: int, seed: int = 0
) -> tuple[float, float]:
    """Shares rejected at 5 % of equally good scores: clustered, and with films as independent."""
    rng = np.random.default_rng(seed)
    clustered = naive = 0
    for _ in range(trials):
        patient = np.repeat(np.arange(patients), rng.integers(1, 8, patients))
        ill = rng.random(patients) < 0.5
        abnormal = (
            ill[patient] if whole else rng.random(len(patient)) < rng.beta(1, 1, patients)[patient]
        )
        own = rng.normal(size=(3, patients))[:, patient]
        noise = np.sqrt(icc) * own + np.sqrt(1 - icc) * rng.normal(size=(3, len(patient)))
        first, second = abnormal + noise[0] + noise[1:]
        clustered += delong_test(first, second, abnormal, patient).p_value <= LEVEL
        naive += delong_test(first, second, abnormal).p_value <= LEVEL
    return clustered / trials, naive / trials


def paired(trials: int) -> Iterator[str]:
    yield "## Paired test with several films a patient"
    yield ""
    yield f"Share of equally good scores rejected at 5 %; 1 to 7 films a patient, {trials} trials, "
    yield f"error {error(trials, LEVEL):.1f} points. *Mixed*: a patient has films of both kinds; "
    yield "*whole*: all films of a patient are of one kind. In brackets: films as independent."
    yield ""
    yield "| patients | design | " + " | ".join(f"ICC {icc:g}" for icc in ICCS) + " |"
    yield "|---|---|" + "---|" * len(ICCS)
    for patients in (30, 100):
        for whole in (False, True):
            cells = [rejections(icc, patients, whole, trials) for icc in ICCS]
            shown = " | ".join(f"{percent(own)} ({percent(plain)})" for own, plain in cells)
            yield f"| {patients} | {'whole' if whole else 'mixed'} | {shown} |"


GROUPS = [Stratum(s, v, a) for s in "FM" for v in ("PA", "AP") for a in ("18-39", "40-59", "60+")]
SHARES = np.array([0.20, 0.16, 0.13, 0.11, 0.09, 0.08, 0.06, 0.05, 0.04, 0.03, 0.03, 0.02])


def mondrian(trials: int, films: int = 200, judged: int = 100) -> Iterator[str]:
    rng = np.random.default_rng(0)
    shift = rng.normal(size=len(GROUPS))
    tally = {"cells of one group": [0, 0], "pooled cells": [0, 0], "record like none": [0, 0]}
    for _ in range(trials):
        own, other = (rng.choice(len(GROUPS), n, p=SHARES) for n in (films, judged))
        strata, asked = [GROUPS[i] for i in own], [GROUPS[i] for i in other]
        p, _ = mondrian_p_values(
            rng.normal(shift[other]), asked, rng.normal(shift[own]), strata,
            ids=[f"j{i}" for i in range(judged)], calibration_ids=[f"c{i}" for i in range(films)],
        )  # fmt: skip
        partition = Partition.of(strata)
        for stratum, one in zip(asked, p, strict=True):
            cell = partition.cell_of(stratum)
            kind = "record like none" if cell is None else "pooled cells"
            if cell is not None and len(partition.cells[cell]) == 1:
                kind = "cells of one group"
            tally[kind][0] += one <= LEVEL
            tally[kind][1] += 1
    yield "## Mondrian p-values with small groups"
    yield ""
    yield f"Twelve groups of 2 to 20 % of the films, normal scores shifted by group, {films} "
    yield f"calibration films; {trials} calibration sets of {judged} judged normal films each. The "
    yield "partition is fixed by the counts of the calibration films. Share of normal films with "
    yield "p <= 0.05, which may be below 5 % (p takes steps of 1 / (films of the cell + 1))."
    yield ""
    yield "| films in | p <= 0.05 | films |"
    yield "|---|---|---|"
    for kind, (calls, n) in tally.items():
        yield f"| {kind} | {percent(calls / max(1, n))} | {n:,} |"


def truth(lift: float, prevalence: float) -> dict[str, float]:
    """The metrics of normal scores, 0 and `lift`, over all films that there could be."""
    grid = np.linspace(-6, 12, 200_001)
    alarms, calls = stats.norm.sf(grid), stats.norm.sf(grid - lift)

    def precision(share: float) -> float:
        called = share * calls + (1 - share) * alarms
        return float(-np.trapezoid(share * calls / np.maximum(called, 1e-300), calls))

    own = {"auroc": float(stats.norm.cdf(lift / np.sqrt(2)))}
    own |= {"ap": precision(prevalence), "ap_balanced": precision(0.5)}
    for name, share in (("sensitivity_at_90", 0.1), ("sensitivity_at_95", 0.05)):
        own[name] = float(stats.norm.sf(stats.norm.isf(share) - lift))
    return own


def coverage(
    films: int, ill: int, area: float, per: int, icc: float, trials: int, draws: int = 400
) -> dict[str, tuple[float, float]]:
    """How often the interval of each metric covers: ours, and percentiles."""
    rng = np.random.default_rng(0)
    abnormal, patient = np.arange(films) < ill, np.arange(films) // per
    lift = float(np.sqrt(2) * stats.norm.ppf(area))
    right = truth(lift, ill / films)
    hits = {name: [0, 0] for name in SHOWN}
    for trial in range(trials):
        own = rng.normal(size=films // per)[patient]
        score = np.sqrt(icc) * own + np.sqrt(1 - icc) * rng.normal(size=films) + lift * abnormal

        def every(weight: np.ndarray, score: np.ndarray = score) -> np.ndarray:
            counts = count(score, abnormal, weight)
            return np.stack([metric(counts) for metric in METRICS.values()], axis=-1)

        plain = bootstrap(every, patient, draws=draws, seed=trial)
        ours = measure(score, abnormal, patient, draws=draws, seed=trial)
        for name, other in zip(SHOWN, plain, strict=True):
            hits[name][0] += ours[name].low <= right[name] <= ours[name].high
            hits[name][1] += other.low <= right[name] <= other.high
    return {name: (a / trials, b / trials) for name, (a, b) in hits.items()}


def intervals(trials: int) -> Iterator[str]:
    yield "## Intervals of `evaluate` and `bench`"
    yield ""
    yield f"Coverage of the 95 % intervals, {trials} trials, error {error(trials, 0.95):.1f} "
    yield "points at 95 %. In brackets: the percentile bootstrap, which these intervals replaced."
    yield ""
    yield "| films, abnormal | AUROC | " + " | ".join(SHOWN) + " |"
    yield "|---|---|" + "---|" * len(SHOWN)
    for films, ill, per, icc in ((40, 20, 1, 0.0), (40, 8, 1, 0.0), (80, 40, 2, 0.5)):
        many = "" if per == 1 else f", {per} a patient, ICC {icc:g}"
        for area in AREAS:
            cells = coverage(films, ill, area, per, icc, trials)
            shown = " | ".join(f"{a:.3f} ({b:.3f})" for a, b in cells.values())
            yield f"| {films}, {ill}{many} | {area:g} | {shown} |"


def means(trials: int, draws: int = 1000) -> Iterator[str]:
    yield "## Dice and other means over few films"
    yield ""
    yield "Each film's Dice is 0 with chance 0.3, else beta(2, 3): the mean is 0.28. Coverage of "
    yield f"the 95 % interval, {trials} trials; in brackets plain percentiles."
    yield ""
    yield "| films with a lesion | coverage |"
    yield "|---|---|"
    rng = np.random.default_rng(0)
    for films in (5, 10, 20, 50):
        ours = plain = 0
        for _ in range(trials):
            dice = rng.beta(2, 3, films) * (rng.random(films) < 0.7)
            drawn = dice[rng.integers(0, films, (draws, films))].mean(axis=1)
            own = expanded_interval(float(dice.mean()), drawn, films)
            low, high = np.percentile(drawn, [2.5, 97.5])
            ours += own.low <= 0.28 <= own.high
            plain += low <= 0.28 <= high
        yield f"| {films} | {ours / trials:.3f} ({plain / trials:.3f}) |"


def apart(
    first: np.ndarray, second: np.ndarray, abnormal: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """The difference of two AUROC for each row of weights."""
    one, other = (METRICS["auroc"](count(x, abnormal, weight)) for x in (first, second))
    return np.asarray((one - other)[:, None])


def differences(trials: int, draws: int = 400) -> Iterator[str]:
    yield "## Differences between two methods on the same films"
    yield ""
    yield "Two AUROC of normal scores that correlate at 0.6 within the normal and the abnormal "
    yield f"films. Coverage of the 95 % interval of their difference, {trials} trials, error "
    yield f"{error(trials, 0.95):.1f} points at 95 %; in brackets plain percentiles."
    yield ""
    yield "| films, abnormal | AUROC | coverage |"
    yield "|---|---|---|"
    for films, ill in ((40, 20), (40, 8), (248, 136)):
        abnormal, patient = np.arange(films) < ill, np.arange(films)
        for areas in ((0.75, 0.7), (0.9, 0.85), (0.97, 0.95), (0.97, 0.8)):
            rng, right = np.random.default_rng(0), areas[0] - areas[1]
            lifts = np.sqrt(2) * stats.norm.ppf(areas)
            ours = plain = 0
            for trial in range(trials):
                both = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], films)
                first, second = (both + lifts * abnormal[:, None]).T

                own = difference(first, second, abnormal, patient, draws=draws, seed=trial)
                other = bootstrap(
                    partial(apart, first, second, abnormal), patient, draws=draws, seed=trial
                )[0]
                ours += own.low <= right <= own.high
                plain += other.low <= right <= other.high
            shown = f"{ours / trials:.3f} ({plain / trials:.3f})"
            yield f"| {films}, {ill} | {areas[0]:g}, {areas[1]:g} | {shown} |"


def tails(trials: int) -> Iterator[str]:
    yield "## Tail estimate"
    yield ""
    yield f"Coverage of the 95 % interval of the share beyond, and the median estimate; {trials} "
    yield f"trials, error {error(trials, 0.95):.1f} points at 95 %. Scores are gamma(3)."
    yield ""
    yield "| calibration films | true share | coverage | median estimate |"
    yield "|---|---|---|---|"
    law, rng = stats.gamma(3), np.random.default_rng(0)
    for films in (100, 200, 400):
        fitted = [fit_tail(law.rvs(films, random_state=rng)) for _ in range(trials)]
        for share in (1e-3, 1e-4):
            level = float(law.isf(share))
            estimates = [tail(level) for tail in fitted if tail is not None]
            covered = float(np.mean([e.low <= share <= e.high for e in estimates]))
            middle = float(np.median([e.p for e in estimates]))
            yield f"| {films} | {share:g} | {covered:.3f} | {middle:.1e} |"


PARTS: dict[str, tuple[Callable[[int], Iterator[str]], int]] = {
    "paired": (paired, 1500),
    "mondrian": (mondrian, 600),
    "intervals": (intervals, 400),
    "means": (means, 1000),
    "differences": (differences, 400),
    "tails": (tails, 150),
}
"""Each table, and how many trials it takes."""


def main() -> None:
    """Makes the tables, and writes them once all are made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# Statistics by simulation",
        "",
        "Tables by `benchmarks/simulations.py`; shorter in the tests. Errors are 1.96 standard",
        "errors of the simulation.",
    ]
    for name in options.parts:
        make, trials = PARTS[name]
        begin = time.process_time()
        lines.append("")
        for line in make(trials):
            print(line, flush=True)
            lines.append(line.rstrip())
        lines += ["", f"({time.process_time() - begin:.0f} s of processor time)"]
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
