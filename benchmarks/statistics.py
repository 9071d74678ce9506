"""Simulations behind docs/calibration.md and the tables of `bench`: does 5 % mean 5 %?

    python benchmarks/statistics.py

Paired tests with several films a patient, AUROC intervals for few films, tail estimates.
"""

import argparse

import numpy as np
from scipy import stats

from nofinding.evaluation.statistics.area_interval import auroc_interval
from nofinding.evaluation.statistics.delong import delong_test
from nofinding.evaluation.statistics.tail import fit_tail


def rejections(icc: float, patients: int, trials: int, seed: int = 0) -> tuple[float, float]:
    """Shares rejected at 5 % of equally good scores: clustered, and with films as independent."""
    rng = np.random.default_rng(seed)
    clustered = naive = 0
    for _ in range(trials):
        patient = np.repeat(np.arange(patients), rng.integers(1, 8, patients))
        abnormal = rng.random(len(patient)) < rng.beta(1, 1, patients)[patient]
        own = rng.normal(size=(3, patients))[:, patient]
        noise = np.sqrt(icc) * own + np.sqrt(1 - icc) * rng.normal(size=(3, len(patient)))
        first, second = abnormal + noise[0] + noise[1:]
        clustered += delong_test(first, second, abnormal, patient).p_value <= 0.05
        naive += delong_test(first, second, abnormal).p_value <= 0.05
    return clustered / trials, naive / trials


def coverage(films: int, area: float, trials: int, seed: int = 0) -> float:
    """How often the AUROC interval of half abnormal films covers."""
    rng = np.random.default_rng(seed)
    abnormal = np.arange(films) < films // 2
    lift = np.sqrt(2) * stats.norm.ppf(area)
    covered = 0
    for _ in range(trials):
        score = rng.normal(size=films) + lift * abnormal
        result = auroc_interval(score[None], abnormal, np.arange(films))
        covered += result.low <= area <= result.high
    return covered / trials


def tails(films: int, share: float, trials: int, seed: int = 0) -> tuple[float, float]:
    """How often the tail's interval covers the true share beyond, and the median estimate."""
    rng = np.random.default_rng(seed)
    law = stats.gamma(3)
    collected = [fit_tail(law.rvs(films, random_state=rng)) for _ in range(trials)]
    said = [tail(float(law.isf(share))) for tail in collected if tail is not None]
    covered = [e.low <= share <= e.high for e in said]
    return float(np.mean(covered)), float(np.median([e.p for e in said]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    trials = parser.parse_args().trials
    for patients in (30, 60, 100):
        for icc in (0.0, 0.3, 0.6, 0.9):
            print("paired test", patients, icc, *rejections(icc, patients, trials), flush=True)
    for films in (20, 40, 100, 400):
        for area in (0.6, 0.8, 0.9, 0.97, 0.99):
            print("auroc", films, area, coverage(films, area, trials), flush=True)
    for films in (100, 200, 400):
        for share in (1e-3, 1e-4):
            print("tail", films, share, *tails(films, share, trials // 10), flush=True)


if __name__ == "__main__":
    main()
