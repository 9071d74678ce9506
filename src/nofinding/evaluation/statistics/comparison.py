"""Many methods on the same films: what can be said of their differences, and what cannot.

A method may have several seeds. Its number is the mean over them, measured on every bootstrap
draw of patients, so that the interval is of that mean; the spread over seeds stands beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import friedmanchisquare, rankdata, studentized_range
from scipy.stats import t as student

from nofinding.evaluation.statistics.delong import areas_of
from nofinding.evaluation.statistics.intervals import (
    DRAWS,
    Estimate,
    bootstrap,
    measured,
    patient_index,
    with_logit,
)
from nofinding.evaluation.statistics.metrics import METRICS, area_under_roc, count
from nofinding.evaluation.statistics.subgroups import LEAST, UNKNOWN, age_band, sex, view
from nofinding.types import Exam

__all__ = [
    "Contrast",
    "Ranks",
    "Subset",
    "agreement",
    "contrast",
    "disagreed_most",
    "holm",
    "mean_auroc",
    "mean_metrics",
    "mean_rank",
    "ranks_over",
    "subsets",
]

Scores = Float[np.ndarray, "s n"]  # a row a seed, a column a film; higher is more anomalous


def mean_metrics(
    scores: Scores,
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Gives every metric of METRICS, averaged over seeds, with its interval, as `measure` does."""

    def statistic(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c m"]:
        each = []
        for score in scores:
            counts = count(score, abnormal, weight)
            each.append(np.stack([metric(counts) for metric in METRICS.values()], axis=-1))
        return np.asarray(np.mean(each, axis=0))

    return measured(statistic, scores, abnormal, patient, draws=draws, seed=seed)


def mean_auroc(
    scores: Scores,
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Gives the AUROC alone, averaged over seeds, with its clustered logit interval."""

    def statistic(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c 1"]:
        each = [area_under_roc(count(score, abnormal, weight)) for score in scores]
        return np.asarray(np.mean(each, axis=0))[:, None]

    resampled = bootstrap(statistic, patient, draws=draws, seed=seed)[0]
    return with_logit(resampled, scores, abnormal, patient)


class Contrast(NamedTuple):
    """How much the first method's mean AUROC exceeds the second's."""

    difference: float
    low: float  # 95 % interval
    high: float
    p_value: float  # two-sided, of this comparison alone


def contrast(
    first: Scores,
    second: Scores,
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"] | None = None,
) -> Contrast:
    """Tests two methods on the same films: DeLong's covariance of all their seeds' AUROCs, with
    weights 1 / seeds for the first and - 1 / seeds for the second.

    With one seed each it is the paired DeLong test. `patient` numbers the patient of each film,
    and the variance is the clustered one; without it films count as independent. A difference of
    0 without variance has p = 1; fewer than two patients of a class give NaN.
    """
    areas = areas_of(np.concatenate([first, second]), abnormal, patient)
    weight = np.concatenate(
        [np.full(len(first), 1 / len(first)), np.full(len(second), -1 / len(second))]
    )
    gap, error, freedom = areas.combined(weight)
    if error == 0:
        return Contrast(gap, gap, gap, 1.0 if abs(gap) < 1e-12 else 0.0)
    half = float(student.ppf(0.975, freedom)) * error
    p_value = float(2 * student.sf(abs(gap / error), freedom))
    return Contrast(gap, gap - half, gap + half, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Gives the p-values corrected for their number (Holm 1979), in the order given.

    Rejecting those at or below a level keeps the chance of any false rejection at that level.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    running = 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - place) * p_values[index]))
        corrected[index] = running
    return [float(p) for p in corrected]


class Ranks(NamedTuple):
    """Methods ranked on several cohorts (Demsar, JMLR 7, 2006); rank 1 is the best."""

    mean: dict[str, float]  # best first
    cohorts: int
    critical: float  # difference of mean ranks that is significant at 5 % (Nemenyi)
    p_value: float  # of "all methods are alike" (Friedman)


def ranks_over(auroc: Mapping[str, Mapping[str, float]]) -> Ranks | None:
    """Gives the mean ranks over cohorts, `auroc[cohort][method]`, of the methods that have a number
    on every cohort; None with fewer than two cohorts or three methods, which say nothing."""
    cohorts = list(auroc.values())
    common = [name for name in cohorts[0] if all(name in c for c in cohorts)] if cohorts else []
    if len(cohorts) < 2 or len(common) < 3:
        return None
    table = np.array([[c[name] for name in common] for c in cohorts])
    ranks = rankdata(-table, axis=1)
    k, n = len(common), len(cohorts)
    # Nemenyi: the studentised range with infinite degrees of freedom, over the root of 2.
    q = float(studentized_range.ppf(0.95, k, np.inf)) / np.sqrt(2)
    mean = dict(sorted(zip(common, ranks.mean(0).tolist(), strict=True), key=lambda item: item[1]))
    p = float(friedmanchisquare(*table.T).pvalue)
    return Ranks(mean, n, float(q * np.sqrt(k * (k + 1) / (6 * n))), p)


def mean_rank(scores: Scores) -> Float[np.ndarray, " n"]:
    """Gives each film's rank among the films, 0 (most normal) to 1, averaged over seeds."""
    n = scores.shape[1]
    return np.asarray((rankdata(scores, axis=1) - 1).mean(0) / max(1, n - 1))


def agreement(scores: Mapping[str, Scores]) -> Float[np.ndarray, "k k"]:
    """Gives Spearman's correlation of every two methods over the films (of their mean ranks)."""
    ranks = np.stack([rankdata(mean_rank(s)) for s in scores.values()])
    with np.errstate(invalid="ignore", divide="ignore"):  # a method that says one thing of all
        correlations = np.corrcoef(ranks)
    return np.asarray(np.nan_to_num(np.atleast_2d(correlations)))


def disagreed_most(scores: Mapping[str, Scores], films: int) -> list[int]:
    """Gives the films whose ranks the methods differ most about (by their standard deviation)."""
    spread = np.stack([mean_rank(s) for s in scores.values()]).std(0)
    return [int(i) for i in np.argsort(-spread, kind="stable")[:films]]


@dataclass(frozen=True, slots=True)
class Subset:
    """Films that get a row of their own: those with a finding, beside all normal ones, or those
    of a group of patients."""

    kind: str  # finding, sex, age, view
    name: str
    member: Bool[np.ndarray, " n"]
    n_normal: int
    n_abnormal: int

    @property
    def too_few(self) -> bool:
        return min(self.n_normal, self.n_abnormal) < LEAST

    def auroc(
        self,
        scores: Scores,
        abnormal: Bool[np.ndarray, " n"],
        patient: Int[np.ndarray, " n"],
        *,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> Estimate | None:
        """Gives the AUROC within it; None where it has too few films of either kind."""
        if self.too_few:
            return None
        own = patient_index([str(number) for number in patient[self.member]])
        return mean_auroc(
            scores[:, self.member], abnormal[self.member], own, draws=draws, seed=seed
        )


def subsets(exams: Sequence[Exam], abnormal: Bool[np.ndarray, " n"]) -> list[Subset]:
    """Gives a subset per finding, and per sex, age band and view where they are known."""
    groups: list[Subset] = []
    names = sorted({name for exam in exams for name in exam.findings or ()})
    for name in names if len(names) > 1 else ():
        has = np.array([name in (exam.findings or ()) for exam in exams])
        groups.append(_subset("finding", name, ~abnormal | has, abnormal))
    for kind, of in (("sex", sex), ("age", age_band), ("view", view)):
        group = np.array([of(exam) for exam in exams])
        for name in sorted(set(group.tolist()) - {UNKNOWN}):
            groups.append(_subset(kind, name, group == name, abnormal))
    return groups


def _subset(
    kind: str, name: str, member: Bool[np.ndarray, " n"], abnormal: Bool[np.ndarray, " n"]
) -> Subset:
    return Subset(
        kind, name, member, int((member & ~abnormal).sum()), int((member & abnormal).sum())
    )
