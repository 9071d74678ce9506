"""Conformal p-values of anomaly scores, and whether they keep their promise.

A p-value of 0.05 promises that at most 5 % of *normal* films of the kind that calibrated it are
as anomalous (V. Vovk et al., Algorithmic Learning in a Random World, 2005; S. Bates et al.,
Testing for outliers with conformal p-values, Ann. Stat. 51, 2023, eq. 2). Where the films that
are judged differ from those in a known way, each calibration film counts by its weight
(R. Tibshirani et al., Conformal prediction under covariate shift, NeurIPS 2019, eq. 7).
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

__all__ = [
    "LEVELS",
    "Share",
    "called",
    "clopper_pearson",
    "effective_n",
    "hashed",
    "least_n",
    "p_values",
    "share",
    "weighted_p_values",
]

LEVELS = (0.01, 0.05, 0.10)


class Share(NamedTuple):
    """k of n films, with the exact 95 % interval of k / n."""

    k: int
    n: int
    value: float
    low: float
    high: float


def hashed(image_id: str) -> str:
    """Gives the name under which run.json lists a calibration film: sha256, first 16 digits."""
    return hashlib.sha256(image_id.encode()).hexdigest()[:16]


def p_values(
    scores: Float[np.ndarray, " m"],
    calibration: Float[np.ndarray, " n"],
    *,
    ids: Sequence[str] | None = None,
    calibration_ids: Sequence[str] | None = None,
) -> Float[np.ndarray, " m"]:
    """Gives p = (1 + #{calibration films at least as anomalous}) / (1 + n), in (0, 1].

    Where `ids` and `calibration_ids` are both given, a film that is itself in the calibration
    set is left out of it (n becomes n - 1): compared with itself it would look more normal than
    it is. `calibration_ids` must be in the order of `calibration` and unique.
    """
    rising = np.sort(calibration)
    at_least = len(rising) - np.searchsorted(rising, scores, side="left")
    n = np.full(len(scores), len(rising))
    if ids is not None and calibration_ids is not None:
        own = {name: float(s) for name, s in zip(calibration_ids, calibration, strict=True)}
        for i, name in enumerate(ids):
            if name in own:
                n[i] -= 1
                at_least[i] -= own[name] >= scores[i]
    return np.asarray((1 + at_least) / (1 + n), dtype=np.float64)


def least_n(level: float) -> int:
    """Gives how many calibration films p <= level takes: 19 for 0.05, 99 for 0.01.

    The smallest p there is, that of a film above all n others, is 1 / (1 + n).
    """
    return math.ceil(round(1 / level, 9)) - 1


def weighted_p_values(
    scores: Float[np.ndarray, " m"],
    weights: Float[np.ndarray, " m"],
    calibration: Float[np.ndarray, " n"],
    calibration_weights: Float[np.ndarray, " n"],
    *,
    ids: Sequence[str],
    calibration_ids: Sequence[str],
) -> Float[np.ndarray, " m"]:
    """Gives p = (w + sum of w_i over films at least as anomalous) / (w + sum of all w_i).

    w is the film's own weight and w_i that of calibration film i: how much likelier a film with
    its record is among the films judged than among those that calibrate. With equal weights it
    is `p_values`. A film that is in the calibration set is left out of it there.
    """
    row = {name: i for i, name in enumerate(calibration_ids)}
    p = np.empty(len(scores))
    for i, (score, own, name) in enumerate(zip(scores, weights, ids, strict=True)):
        others = calibration_weights.copy()
        if name in row:
            others[row[name]] = 0
        p[i] = (own + others[calibration >= score].sum()) / (own + others.sum())
    return p


def effective_n(weights: Float[np.ndarray, " n"]) -> float:
    """Gives how many equally weighted films know as much: (sum w)^2 / sum w^2 (Kish 1965)."""
    total = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total if total > 0 else 0.0


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Gives the exact binomial interval of k / n (Clopper & Pearson, Biometrika 1934)."""
    from scipy.stats import beta

    if n == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return low, high


def called(p_value: Float[np.ndarray, " n"], among: Bool[np.ndarray, " n"], level: float) -> Share:
    """Gives the share of the films `among` that are called at `level`: those with p <= level.

    Among normal films it is the false-positive rate, which should be about `level` or below;
    among abnormal films, the sensitivity. The slack admits p = 0.1 that was written as decimals.
    """
    return share(int((p_value[among] <= level + 1e-9).sum()), int(among.sum()))


def share(k: int, n: int) -> Share:
    """Gives k / n with its exact 95 % interval; NaN where n is 0."""
    low, high = clopper_pearson(k, n)
    return Share(k, n, k / n if n else float("nan"), low, high)
