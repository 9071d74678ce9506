"""DeLong's variance of an AUROC, and the paired test of two, by midranks.

E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44 (1988) 837-845; computed as in
X. Sun, W. Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393, in O(n log n). Films of one
patient resemble each other: where patients are given, the variance is the clustered one of
N. A. Obuchowski, Biometrics 53 (1997) 567-578, which is DeLong's where each patient has one film.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from scipy.stats import t as student

from nofinding.evaluation.statistics.metrics import Estimate

__all__ = ["Areas", "PairedTest", "areas_of", "delong", "delong_interval", "delong_test"]


class PairedTest(NamedTuple):
    """Two AUROCs of the same films, compared."""

    first: float
    second: float
    difference: float  # first - second
    low: float  # 95 % interval of the difference
    high: float
    z: float
    p_value: float  # two-sided


class Areas(NamedTuple):
    """The AUROCs of k scores of the same films, and the three terms of their covariance."""

    area: Float[np.ndarray, " k"]
    of_abnormal: Float[np.ndarray, "k k"]  # S10 / m
    of_normal: Float[np.ndarray, "k k"]  # S01 / n
    of_both: Float[np.ndarray, "k k"]  # (S11 + S11') / (m n): patients with films of both kinds
    patients_abnormal: float  # infinite where films count as independent
    patients_normal: float

    @property
    def covariance(self) -> Float[np.ndarray, "k k"]:
        """Of the k AUROCs; NaN where there is no variance to estimate."""
        total: Float[np.ndarray, "k k"] = self.of_abnormal + self.of_normal + self.of_both
        return total

    def combined(self, weight: Float[np.ndarray, " k"]) -> tuple[float, float, float]:
        """Gives the weighted sum of the AUROCs, its standard error, and the error's degrees of
        freedom.

        These are Satterthwaite's, of the sums over patients with abnormal and with normal films:
        with few patients the normal distribution rejects 6 to 7 % at a nominal 5 %. Where films
        count as independent they are infinite, as DeLong has it.
        """
        # Rounding may leave -1e-19; NaN stays NaN.
        error = float(np.sqrt(np.maximum(weight @ self.covariance @ weight, 0)))
        ill, well = (float(weight @ s @ weight) for s in (self.of_abnormal, self.of_normal))
        spread = ill**2 / (self.patients_abnormal - 1) + well**2 / (self.patients_normal - 1)
        freedom = (ill + well) ** 2 / spread if spread > 0 else np.inf
        return float(weight @ self.area), error, freedom


def areas_of(
    scores: Float[np.ndarray, "k n"],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"] | None = None,
) -> Areas:
    """Gives the AUROC of k scores of the same films, with what their intervals are made of.

    `patient` numbers the patient of each film; without it films count as independent. Needs
    abnormal films of at least two patients and normal films of two, without which there is no
    variance (NaN).
    """
    positive, negative = scores[:, abnormal], scores[:, ~abnormal]
    m, n = positive.shape[1], negative.shape[1]
    among_all = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    # Share of the normal films below each abnormal one, and of abnormal above each normal one;
    # eq. 5 of Sun & Xu (structural components V10 and V01), ties counting half.
    v10 = (among_all[:, :m] - rankdata(positive, axis=1)) / n
    v01 = 1 - (among_all[:, m:] - rankdata(negative, axis=1)) / m
    area = v10.mean(axis=1)
    own = np.arange(m + n) if patient is None else patient
    everyone, number = np.unique(
        np.concatenate([own[abnormal], own[~abnormal]]), return_inverse=True
    )
    ill, well = len(np.unique(number[:m])), len(np.unique(number[m:]))
    if min(ill, well) < 2:
        none = np.full((len(scores), len(scores)), np.nan)
        return Areas(area, none, none, none, np.inf, np.inf)
    # Sums over each patient's films, Obuchowski 1997, section 3.
    x, y = (np.zeros((len(scores), len(everyone))) for _ in range(2))
    np.add.at(x.T, number[:m], (v10 - area[:, None]).T)
    np.add.at(y.T, number[m:], (v01 - area[:, None]).T)
    s10 = ill / ((ill - 1) * m) * x @ x.T
    s01 = well / ((well - 1) * n) * y @ y.T
    s11 = len(everyone) / (len(everyone) - 1) * x @ y.T
    counted = (np.inf, np.inf) if patient is None else (ill, well)
    return Areas(area, s10 / m, s01 / n, (s11 + s11.T) / (m * n), *counted)


def delong(
    scores: Float[np.ndarray, "k n"],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]]:
    """Gives the AUROC of k scores of the same films, and their covariance matrix."""
    areas = areas_of(scores, abnormal, patient)
    return areas.area, areas.covariance


def delong_interval(
    score: Float[np.ndarray, " n"],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"] | None = None,
) -> Estimate:
    """Gives the AUROC with DeLong's symmetric 95 % interval, cut to 0..1."""
    area, error, freedom = areas_of(score[None], abnormal, patient).combined(np.ones(1))
    half = float(student.ppf(0.975, freedom)) * error
    low, high = np.clip([area - half, area + half], 0, 1)
    return Estimate(area, float(low), float(high), 0)


def delong_test(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"] | None = None,
) -> PairedTest:
    """Tests whether two scores of the same films have the same AUROC.

    `patient` numbers the patient of each film; without it films count as independent. Scores
    that order the films alike have difference 0 and p = 1.
    """
    areas = areas_of(np.stack([first, second]), abnormal, patient)
    gap, error, freedom = areas.combined(np.array([1.0, -1.0]))
    if error == 0:
        z = 0.0 if abs(gap) < 1e-12 else float(np.copysign(np.inf, gap))
    else:
        z = gap / error
    half = float(student.ppf(0.975, freedom)) * error
    p_value = float(2 * student.sf(abs(z), freedom))
    one, other = (float(area) for area in areas.area)
    return PairedTest(one, other, gap, gap - half, gap + half, z, p_value)
