"""DeLong's variance of an AUROC, and the paired test of two, by midranks.

E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44 (1988) 837-845; computed as in
X. Sun, W. Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393, in O(n log n). Films are
taken as independent: with several films a patient the interval is too narrow, and the patient
bootstrap of `intervals.py` is the one to believe.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm, rankdata

from nofinding.evaluate.intervals import Estimate

__all__ = ["PairedTest", "delong", "delong_interval", "delong_test"]


class PairedTest(NamedTuple):
    """Two AUROCs of the same films, compared."""

    first: float
    second: float
    difference: float  # first - second
    low: float  # 95 % interval of the difference
    high: float
    z: float
    p_value: float  # two-sided


def delong(
    scores: Float[np.ndarray, "k n"], abnormal: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
    """Gives the AUROC of k scores of the same films, and their covariance matrix.

    Needs at least two films of each class, without which there is no variance (NaN).
    """
    positive, negative = scores[:, abnormal], scores[:, ~abnormal]
    m, n = positive.shape[1], negative.shape[1]
    among_all = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    # Share of the normal films below each abnormal one, and of abnormal above each normal one;
    # eq. 5 of Sun & Xu (structural components V10 and V01), ties counting half.
    v10 = (among_all[:, :m] - rankdata(positive, axis=1)) / n
    v01 = 1 - (among_all[:, m:] - rankdata(negative, axis=1)) / m
    if min(m, n) < 2:
        return v10.mean(axis=1), np.full((len(scores), len(scores)), np.nan)
    covariance = np.cov(v10) / m + np.cov(v01) / n
    return v10.mean(axis=1), np.atleast_2d(covariance)


def delong_interval(score: Float[np.ndarray, " n"], abnormal: Bool[np.ndarray, " n"]) -> Estimate:
    """Gives the AUROC with DeLong's normal 95 % interval, cut to 0..1."""
    area, covariance = delong(score[None], abnormal)
    half = norm.ppf(0.975) * np.sqrt(covariance[0, 0])
    low, high = np.clip([area[0] - half, area[0] + half], 0, 1)
    return Estimate(float(area[0]), float(low), float(high), 0)


def delong_test(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    abnormal: Bool[np.ndarray, " n"],
) -> PairedTest:
    """Tests whether two scores of the same films have the same AUROC.

    Scores that order the films alike have difference 0 and p = 1.
    """
    areas, covariance = delong(np.stack([first, second]), abnormal)
    gap = float(areas[0] - areas[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    error = float(np.sqrt(np.maximum(variance, 0)))  # rounding may leave -1e-19; NaN stays NaN
    if error == 0:
        z = 0.0 if abs(gap) < 1e-12 else float(np.copysign(np.inf, gap))
    else:
        z = gap / error
    half = float(norm.ppf(0.975)) * error
    p_value = float(2 * norm.sf(abs(z)))
    return PairedTest(float(areas[0]), float(areas[1]), gap, gap - half, gap + half, z, p_value)
