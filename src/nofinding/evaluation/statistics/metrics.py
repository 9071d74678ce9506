"""How well a score separates abnormal films from normal ones, as plain counts.

Everything starts from `Counts`: how many abnormal and how many normal films lie at or above
each threshold. Films may carry weights (how often a bootstrap draw took them), with any number
of draws as leading axes, so that the point estimate and its interval are one piece of code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

__all__ = [
    "METRICS",
    "Counts",
    "Estimate",
    "Metric",
    "area_under_roc",
    "average_precision",
    "balanced_average_precision",
    "count",
    "precision_recall",
    "rates",
    "sensitivity_at",
    "threshold_at",
]


class Estimate(NamedTuple):
    """A number and its 95 % interval; the interval is NaN where too few draws define it."""

    value: float
    low: float
    high: float
    draws: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Films at or above each threshold. Tied scores share a threshold, so order never matters."""

    threshold: Float[np.ndarray, " k"]  # strictly falling; the first is +inf: nothing is above it
    abnormal: Float[np.ndarray, "*draws k"]  # rising from 0 to the number of abnormal films
    normal: Float[np.ndarray, "*draws k"]  # rising from 0 to the number of normal films


Metric: TypeAlias = Callable[[Counts], Float[np.ndarray, "*draws"]]


def count(
    score: Float[np.ndarray, " n"],
    abnormal: Bool[np.ndarray, " n"],
    weight: Float[np.ndarray, "*draws n"] | None = None,
) -> Counts:
    """Gives the counts at every distinct score; higher scores are more anomalous.

    `weight` is how often each film counts (default: once).
    """
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    weight = np.ones(len(score)) if weight is None else weight
    films = weight[..., order]
    last_of_tie = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    return Counts(
        threshold=np.append(np.inf, falling[last_of_tie]),
        abnormal=_running(films * abnormal[order], last_of_tie),
        normal=_running(films * ~abnormal[order], last_of_tie),
    )


def _running(
    films: Float[np.ndarray, "*draws n"], last_of_tie: np.ndarray
) -> Float[np.ndarray, "*draws k"]:
    total = films.cumsum(axis=-1)[..., last_of_tie]
    return np.concatenate([np.zeros_like(total[..., :1]), total], axis=-1)


def rates(
    counts: Counts,
) -> tuple[Float[np.ndarray, "*draws k"], Float[np.ndarray, "*draws k"]]:
    """Gives the ROC curve: (false-positive rate, sensitivity) at every threshold, both 0 to 1.

    A class without films gives NaN.
    """
    with np.errstate(invalid="ignore"):
        return counts.normal / counts.normal[..., -1:], counts.abnormal / counts.abnormal[..., -1:]


def precision_recall(
    counts: Counts,
) -> tuple[Float[np.ndarray, "*draws k"], Float[np.ndarray, "*draws k"]]:
    """Gives (precision, recall) at every threshold; precision is 1 where nothing is called."""
    called = counts.abnormal + counts.normal
    precision = np.divide(counts.abnormal, called, out=np.ones_like(called), where=called > 0)
    return precision, rates(counts)[1]


def area_under_roc(counts: Counts) -> Float[np.ndarray, "*draws"]:
    """Gives the chance that an abnormal film scores above a normal one, a tie counting half."""
    false_positive, sensitivity = rates(counts)
    return np.asarray(np.trapezoid(sensitivity, false_positive, axis=-1))


def average_precision(counts: Counts) -> Float[np.ndarray, "*draws"]:
    """Gives the precision averaged over the abnormal films, without interpolation.

    It depends on the prevalence: a score without information has AP equal to the prevalence.
    NaN unless there are films of both classes, as for every metric here.
    """
    precision, recall = precision_recall(counts)
    area = (np.diff(recall, axis=-1) * precision[..., 1:]).sum(axis=-1)
    return np.where(counts.normal[..., -1] > 0, area, np.nan)


def balanced_average_precision(counts: Counts) -> Float[np.ndarray, "*draws"]:
    """Gives the average precision that the same score has where half of the films are abnormal.

    Each class is weighted to one half, so that sets of different prevalence can be compared;
    a score without information has 0.5.
    """
    false_positive, sensitivity = rates(counts)
    return average_precision(counts=Counts(counts.threshold, sensitivity, false_positive))


def _allowed(counts: Counts, specificity: float) -> Bool[np.ndarray, "*draws k"]:
    # The slack is far below one film: it only undoes the rounding of 1 - 0.9.
    return counts.normal <= (1 - specificity + 1e-9) * counts.normal[..., -1:]


def sensitivity_at(counts: Counts, specificity: float) -> Float[np.ndarray, "*draws"]:
    """Gives the share of abnormal films found by the lowest threshold of at least `specificity`.

    No interpolation between thresholds: every value is one that a reader could have had.
    """
    _, sensitivity = rates(counts)
    # rates are NaN without films of a class; a maximum would hide that for the normal class
    best = np.where(_allowed(counts, specificity), sensitivity, 0).max(axis=-1)
    return np.where((counts.normal[..., -1] > 0) & (counts.abnormal[..., -1] > 0), best, np.nan)


def threshold_at(counts: Counts, specificity: float) -> float:
    """Gives the lowest score at or above which a film may be called at that specificity."""
    return float(counts.threshold[_allowed(counts, specificity)].min())


METRICS: Mapping[str, Metric] = {
    "auroc": area_under_roc,
    "ap": average_precision,
    "ap_balanced": balanced_average_precision,
    "sensitivity_at_90": lambda counts: sensitivity_at(counts, 0.90),
    "sensitivity_at_95": lambda counts: sensitivity_at(counts, 0.95),
}
"""The numbers of every table, in the order of its columns."""
