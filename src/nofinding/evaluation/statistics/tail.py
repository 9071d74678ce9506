"""How far beyond all calibration films a film lies: an extrapolation, and marked as one.

n calibration films can say p <= 1 / (n + 1), and nothing beyond. Where n allows, a generalised
Pareto distribution is fitted to the highest of them (J. Pickands, Ann. Stat. 3, 1975; S. Coles, An
Introduction to Statistical Modeling of Extreme Values, 2001, section 4.3), with the interval of
its profile likelihood. That the tail has this form is an assumption, which a p-value is not.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["TAIL_LEAST", "Tail", "TailEstimate", "fit_tail"]

TAIL_LEAST = 100
"""Calibration films that a tail estimate takes."""
EXCESSES = 20  # at least so many of the highest films, and a tenth of all
# Scores have no upper end nearby: of 20 films a tail without bounds would see one just above them.
SHAPES = np.linspace(-0.15, 1, 47) + 1e-4  # never 0, where the formula is a limit
SCALES = np.exp(np.linspace(-2.0, 2.0, 81))  # times the mean excess
SUPPORTED = 1.920729  # half of the 95 % quantile of chi-squared with one degree of freedom
FLOOR = 1e-6
"""No estimate below this is given: nothing supports its size."""


class TailEstimate(NamedTuple):
    """The share of normal films that score as high, extrapolated, with its 95 % interval."""

    p: float
    low: float
    high: float

    def __str__(self) -> str:
        p, low, high = (f"{v:.2g}" if v >= FLOOR else f"below {FLOOR:g}" for v in self)
        return f"{p} (95 % interval {low} to {high})"


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto distribution of what lies above `start`, as a grid of likelihoods."""

    start: float
    share: float
    """Of the calibration films, above `start`."""
    excesses: int
    mean: float
    likelihood: Float[np.ndarray, "x s"]
    """Logarithm, less its maximum, of each shape and scale."""

    def __call__(self, score: float) -> TailEstimate:
        """The share of normal films that score at least `score`, which is above `start`."""
        scale = SCALES[None] * self.mean
        base = np.maximum(1 + SHAPES[:, None] * (score - self.start) / scale, 0)
        with np.errstate(divide="ignore"):
            log_beyond = -np.log(base) / SHAPES[:, None]  # of those above `start`
        log_beyond = np.where(base > 0, log_beyond, -np.inf)
        # The median of the likelihood: its mean is ruled by the heaviest tails, its maximum, of few
        # films, by an upper end just above the highest of them.
        order = np.argsort(log_beyond, axis=None)
        weight = np.exp(self.likelihood).flat[order].cumsum()
        half = order[np.searchsorted(weight, weight[-1] / 2)]
        middle = max(float(log_beyond.flat[half]), -690.0)
        inside = log_beyond[self.likelihood >= -SUPPORTED]
        # The share above `start` is itself uncertain: its error is added in quadrature.
        error = 1.959964 * np.sqrt((1 - self.share) / self.excesses)
        p = self.share * np.exp(middle)
        low = p * np.exp(-np.hypot(max(middle - inside.min(), 0), error))
        high = p * np.exp(np.hypot(max(inside.max() - middle, 0), error))
        return TailEstimate(float(p), float(low), float(min(high, 1)))


def fit_tail(calibration: Float[np.ndarray, " n"]) -> Tail | None:
    """Gives the tail of these scores; None of fewer than TAIL_LEAST, or where the highest of them
    hardly differ."""
    n = len(calibration)
    if n < TAIL_LEAST:
        return None
    falling = np.sort(calibration)[::-1]
    k = max(EXCESSES, n // 10)
    start = float(falling[k])
    excess = falling[:k] - start
    if len(np.unique(excess)) < k // 2 or excess[0] <= 0:
        return None
    mean = float(excess.mean())
    scaled = excess[None] / (SCALES[:, None] * mean)  # (scales, k)
    base = 1 + SHAPES[:, None, None] * scaled[None]  # (shapes, scales, k)
    possible = (base > 0).all(axis=2)
    logs = np.log(np.where(base > 0, base, 1)).sum(axis=2)
    likelihood = -k * np.log(SCALES)[None] - (1 + 1 / SHAPES[:, None]) * logs
    likelihood = np.where(possible, likelihood, -np.inf)
    return Tail(start, k / n, k, mean, likelihood - likelihood.max())
