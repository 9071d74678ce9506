"""Who a film is compared with: sex, age band and view, and what to do where they shift.

Two answers for films that differ from those which calibrate the p-value. Mondrian: compare with
calibration films of the same cell of a fixed partition of sex, age band and view, and so keep the
promise within each cell (V. Vovk et al., Algorithmic Learning in a Random World, 2005, section
4.5). Weighted: let each calibration film count by how much likelier its record is among the films
that are judged.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nofinding.evaluation.statistics.conformal import p_values
from nofinding.evaluation.statistics.partition import LEAST, Partition
from nofinding.evaluation.statistics.stratum import AGE_BANDS, ALL, Stratum

__all__ = [
    "AGE_BANDS",
    "ALL",
    "LEAST",
    "UNLIKE",
    "Partition",
    "Stratum",
    "mondrian_p_values",
    "record_weights",
]

STRENGTH = 1.0  # inverse of the penalty on the logistic regression's standardised weights
UNLIKE = "none: the largest p of "
"""Begins what stands for a stratum where no calibration film has such a record."""


def mondrian_p_values(
    scores: Float[np.ndarray, " m"],
    strata: Sequence[Stratum],
    calibration: Float[np.ndarray, " n"],
    calibration_strata: Sequence[Stratum],
    *,
    ids: Sequence[str],
    calibration_ids: Sequence[str],
    least: int = LEAST,
    partition: Partition | None = None,
) -> tuple[Float[np.ndarray, " m"], list[str]]:
    """Gives p-values within the cell of the film's own record, and the name of that cell.

    `partition` is by default that of the calibration films, with `least` in each cell. A film
    whose record no calibration film has is compared with every cell that it may be of, and gets
    the largest p: it keeps the promise of any one of them that it is like. A film that calibrates
    is left out of its own cell.
    """
    fixed = Partition.of(calibration_strata, least) if partition is None else partition
    cell = np.array([_cell(fixed, stratum) for stratum in calibration_strata], dtype=np.int64)
    p = np.zeros(len(scores))
    used = [""] * len(scores)
    for stratum in dict.fromkeys(strata):
        rows = np.array([i for i, own in enumerate(strata) if own == stratum])
        own_cell = fixed.cell_of(stratum)
        cells = fixed.like(stratum) if own_cell is None else (own_cell,)
        if own_cell is not None:
            name = fixed.name(own_cell)
        elif len(cells) == 1:
            name = f"{UNLIKE}{fixed.name(cells[0])}"
        else:
            name = f"{UNLIKE}{len(cells)} groups"
        for number in cells:
            members = np.flatnonzero(cell == number)
            within = p_values(
                scores[rows],
                calibration[members],
                ids=[ids[i] for i in rows.tolist()],
                calibration_ids=[calibration_ids[j] for j in members.tolist()],
            )
            p[rows] = np.maximum(p[rows], within)
        for row in rows.tolist():
            used[row] = name
    return p, used


def _cell(partition: Partition, stratum: Stratum) -> int:
    number = partition.cell_of(stratum)
    if number is None:
        raise ValueError(f"the partition has no cell for {stratum}")
    return number


def record_weights(
    calibration: Sequence[Stratum], target: Sequence[Stratum]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Gives how much likelier each record is among `target` than among `calibration`.

    The odds of a penalised logistic regression that tells the two apart by sex, view and age
    band, "not recorded" being a value of its own, times n / m (S. Bickel et al., JMLR 10, 2009).
    Calibration films first, then those of the target. All 1 where the records are alike.
    """
    from sklearn.linear_model import LogisticRegression

    rows = [*calibration, *target]
    columns = [
        [float(getattr(row, key) == value) for row in rows]
        for key in Stratum._fields
        for value in sorted({getattr(row, key) for row in rows})
    ]
    table = np.array(columns).T
    spread = table.std(axis=0)
    table = (table - table.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    n, m = len(calibration), len(target)
    if table.shape[1] == 0:
        return np.ones(n), np.ones(m)
    label = np.arange(n + m) >= n
    net = LogisticRegression(C=STRENGTH, max_iter=1000).fit(table, label)
    weights = np.exp(net.decision_function(table)) * n / m
    return weights[:n], weights[n:]
