"""95 % intervals by resampling patients, for any metric: of numbers between 0 and 1 by the spread
that the draws have on the logit scale (`bounded_interval`), an AUROC's by `area_interval`.

Films of one patient resemble each other, so patients are drawn, not films (plain draws with
replacement, not stratified: prevalence varies between draws as it would between hospitals).
A draw is a weight per film, the number of times that its patient was drawn; the statistic is
computed for all draws at once. A draw in which the statistic does not exist (for example, one
without an abnormal film: NaN) is left out, and `Estimate.draws` says how many were kept.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from nofinding.evaluation.statistics.area_interval import auroc_interval
from nofinding.evaluation.statistics.bounded_interval import (
    bounded_interval,
    expanded_interval,
    least_spreads,
)
from nofinding.evaluation.statistics.metrics import METRICS, Estimate, Metric, count

__all__ = [
    "DRAWS",
    "Estimate",
    "bootstrap",
    "difference",
    "measure",
    "measured",
    "patient_index",
    "resampled",
    "share_intervals",
    "with_logit",
]

DRAWS = 2000
CELLS = 4_000_000  # draws x films that are held in memory at once: 32 MB an array


def patient_index(patients: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Gives each film the number of its patient, 0 to the number of patients - 1."""
    return np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1]


def _weights(
    patient: Int[np.ndarray, " n"], draws: int, seed: int
) -> Iterator[Float[np.ndarray, "c n"]]:
    rng = np.random.default_rng(seed)
    patients = int(patient.max()) + 1
    chunk = max(1, CELLS // len(patient))
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=size)
        yield drawn[:, patient].astype(np.float64)


def bootstrap(
    statistic: Callable[[Float[np.ndarray, "c n"]], Float[np.ndarray, "c m"]],
    patient: Int[np.ndarray, " n"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Estimate]:
    """Gives `m` estimates with percentile intervals (Efron & Tibshirani 1993, ch. 13).

    `statistic` turns film weights, one row a draw, into `m` numbers a draw; the value itself is
    the statistic of all weights 1. Equal `seed` and `patient` give equal draws, so that two
    statistics can be compared draw by draw. `draws=0` gives NaN intervals.
    """
    value, drawn = resampled(statistic, patient, draws=draws, seed=seed)
    return [_estimate(float(v), drawn[:, i]) for i, v in enumerate(value)]


def resampled(
    statistic: Callable[[Float[np.ndarray, "c n"]], Float[np.ndarray, "c m"]],
    patient: Int[np.ndarray, " n"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "d m"]]:
    """Gives the `m` numbers, and each draw's."""
    value = statistic(np.ones((1, len(patient))))[0]
    parts = [statistic(weights) for weights in _weights(patient, draws, seed)]
    return value, np.concatenate([np.empty((0, len(value))), *parts])


def share_intervals(
    statistic: Callable[[Float[np.ndarray, "c n"]], Float[np.ndarray, "c m"]],
    patient: Int[np.ndarray, " n"],
    patients: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Estimate]:
    """Gives `m` estimates between 0 and 1, each a mean over so many patients, with intervals on the
    logit scale."""
    value, drawn = resampled(statistic, patient, draws=draws, seed=seed)
    return [bounded_interval(float(v), drawn[:, i], patients, None) for i, v in enumerate(value)]


def _estimate(value: float, drawn: Float[np.ndarray, " d"]) -> Estimate:
    finite = drawn[np.isfinite(drawn)]
    # With most draws undefined, the rest are a selection, not a sample.
    if not np.isfinite(value) or len(finite) == 0 or 2 * len(finite) < len(drawn):
        return Estimate(value, np.nan, np.nan, len(finite))
    low, high = np.percentile(finite, [2.5, 97.5])
    return Estimate(value, float(low), float(high), len(finite))


def measure(
    score: Float[np.ndarray, " n"],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Gives every metric of METRICS with its interval, which holds for few films and high values
    too: the AUROC's by the clustered logit, the others' by the spread of the patient bootstrap on
    the logit scale."""

    def statistic(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c m"]:
        counts = count(score, abnormal, weight)
        return np.stack([metric(counts) for metric in METRICS.values()], axis=-1)

    return measured(statistic, score[None], abnormal, patient, draws=draws, seed=seed)


def measured(
    statistic: Callable[[Float[np.ndarray, "c n"]], Float[np.ndarray, "c m"]],
    scores: Float[np.ndarray, "s n"],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Gives the metrics of METRICS, in their order what `statistic` gives, with the intervals of
    `measure`; `scores` are averaged over, a row each."""
    value, drawn = resampled(statistic, patient, draws=draws, seed=seed)
    named = dict(zip(METRICS, value.tolist(), strict=True))
    patients, least = least_spreads(named["auroc"], abnormal, patient)
    estimates = {
        name: bounded_interval(named[name], drawn[:, place], patients, least.get(name))
        for place, name in enumerate(METRICS)
    }
    return estimates | {"auroc": with_logit(estimates["auroc"], scores, abnormal, patient)}


def with_logit(
    resampled: Estimate,
    scores: Float[np.ndarray, "s n"],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
) -> Estimate:
    """Gives the AUROC with its logit interval where the bootstrap has drawn at all."""
    if resampled.draws == 0:
        return resampled
    exact = auroc_interval(scores, abnormal, patient)
    return resampled._replace(low=exact.low, high=exact.high)


def difference(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
    *,
    metric: Metric = METRICS["auroc"],
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Gives metric(first) - metric(second) of the same films, both measured on every draw.

    The percentiles of the draws are taken as far out as a mean over the patients of the rarer kind
    asks for: plain ones cover 88 to 95 % at 40 films (benchmarks/results/statistics.md).
    """

    def statistic(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c 1"]:
        one, other = (metric(count(score, abnormal, weight)) for score in (first, second))
        return (one - other)[:, None]

    value, drawn = resampled(statistic, patient, draws=draws, seed=seed)
    fewer = min(len(np.unique(patient[kind])) for kind in (abnormal, ~abnormal))
    return expanded_interval(float(value[0]), drawn[:, 0], fewer)
