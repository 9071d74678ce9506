"""What of the record a method looked at, by field."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from nofinding.evaluation.statistics.bounded_interval import expanded_interval
from nofinding.evaluation.statistics.intervals import DRAWS, Estimate, resampled
from nofinding.evaluation.table import Scored

__all__ = ["PREFIX", "FieldAttention", "attention_by_field"]

PREFIX = "attention."


@dataclass(frozen=True, slots=True)
class FieldAttention:
    """The weight of one field, 0 to 1, over the films on which it was recorded."""

    field: str
    recorded: int
    mean: Estimate
    top_tenth: Estimate  # over those of them among the tenth of films with the highest scores


def attention_by_field(
    scored: Scored, *, draws: int = DRAWS, seed: int = 0
) -> list[FieldAttention]:
    """Gives a row per column attention.*, the heaviest first, as in the paper's Table 3.

    A film without the field weighs it 0 by construction, so only films that have it count.
    """
    n = len(scored.score)
    top = np.zeros(n, dtype=bool)
    top[np.argsort(-scored.score, kind="stable")[: -(-n // 10)]] = True
    rows = []
    for column, weight in scored.components.items():
        if not column.startswith(PREFIX):
            continue
        field = column.removeprefix(PREFIX)
        in_record = np.array([field in exam.ehr for exam in scored.exams])
        recorded = np.isfinite(weight) & (in_record | ~in_record.any())
        if recorded.any():
            means = _means(weight, recorded, top, scored, draws, seed)
            rows.append(FieldAttention(field, int(recorded.sum()), *means))
    return sorted(rows, key=lambda row: -row.mean.value)


def _means(
    weight: Float[np.ndarray, " n"],
    recorded: Bool[np.ndarray, " n"],
    top: Bool[np.ndarray, " n"],
    scored: Scored,
    draws: int,
    seed: int,
) -> list[Estimate]:
    value, groups = np.where(recorded, weight, 0), (recorded, recorded & top)

    def statistic(times: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c 2"]:
        with np.errstate(invalid="ignore"):
            means = [
                (times @ (value * among)) / (times @ among.astype(np.float64)) for among in groups
            ]
        return np.stack(means, axis=-1)

    means, drawn = resampled(statistic, scored.patient, draws=draws, seed=seed)
    return [
        expanded_interval(float(mean), drawn[:, i], len(np.unique(scored.patient[among])))
        for i, (mean, among) in enumerate(zip(means, groups, strict=True))
    ]
