"""Pairs of a normal and an abnormal film that look alike in what says nothing of disease.

Where normal and abnormal films differ in scanner, exposure or mask, a score that sees only that
seems to see disease. Among pairs of equal brightness, equal black area, and the same view and
source size, it cannot.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from nofinding.data.batch import Films
from nofinding.types import Exam

__all__ = ["CALIPER", "covariates", "matched_pairs"]

CALIPER = 0.25  # standard deviations, over brightness and black area
BLACK = 0.03  # of the grey range


def covariates(films: Films) -> Float[np.ndarray, "n 2"]:
    """Share of the film that is not black, and the mean grey of that share, both 0 to 1."""
    rows = []
    for i in range(len(films)):
        grey = (films.batch([i]).image[0, 0].numpy() + 1) / 2
        visible = grey > BLACK
        rows.append((visible.mean(), grey[visible].mean() if visible.any() else 0.0))
    return np.array(rows).reshape(-1, 2)


def matched_pairs(
    exams: Sequence[Exam], abnormal: Bool[np.ndarray, " n"], about: Float[np.ndarray, "n 2"]
) -> Int[np.ndarray, " m"]:
    """Indices, rising, of the films that have a partner: of all pairings within the caliper, the
    closest one, each film in one pair at most. Sizes ("@320" at the end of an id) do not mix."""
    scaled = (about - about.mean(0)) / about.std(0).clip(1e-9)
    kind = [(r.view, r.image_id.rpartition("@")[2] if "@" in r.image_id else "") for r in exams]
    partners: list[int] = []
    for stratum in sorted(set(kind), key=str):
        here = np.array([k == stratum for k in kind])
        low, high = np.flatnonzero(here & ~abnormal), np.flatnonzero(here & abnormal)
        if not len(low) or not len(high):
            continue
        far = np.sqrt(((scaled[low][:, None] - scaled[high][None]) ** 2).sum(-1))
        i, j = linear_sum_assignment(np.where(far < CALIPER, far, 1e3))
        close = far[i, j] < CALIPER
        partners += [*low[i[close]].tolist(), *high[j[close]].tolist()]
    return np.array(sorted(partners), dtype=np.int64)
