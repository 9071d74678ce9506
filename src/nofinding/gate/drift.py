"""Are these films like the normal films that calibrate the p-value? A permutation test.

Each film is a point: its features along the eight directions in which normal films vary most,
and four plain measures. The energy distance between two sets of points (Szekely and Rizzo 2013)
is 0 only for equal distributions. Of each set only the half with the lower scores is compared,
so that some disease among the films does not look like another scanner.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nofinding.gate.feature_extractor import CHANNELS, Look

__all__ = ["ALARM", "DRIFT_LEAST", "EFFECT", "Coordinates", "Drift", "compared", "drawn", "drift"]

DIRECTIONS = 8
DRIFT_LEAST = 30
"""Films that the test takes, on either side."""
DRIFT_MOST = 400
"""Films that it looks at, on either side."""
DRAWS = 999
ALARM = 0.01
"""The p-value from which films count as different."""
EFFECT = 0.10
"""The effect from which the difference is that between sites rather than that of disease."""


class Coordinates(NamedTuple):
    """Where a film lies among the normal ones."""

    centre: Float[Tensor, " c"]
    directions: Float[Tensor, "c k"]  # principal ones, scaled to unit spread
    plain_centre: Float[Tensor, " 4"]
    plain_spread: Float[Tensor, " 4"]

    @classmethod
    def of(cls, features: Look) -> "Coordinates":
        """Those of these films."""
        pooled = features.pooled[:, :CHANNELS]
        centre = pooled.mean(0)
        _, values, turned = torch.linalg.svd((pooled - centre).double(), full_matrices=False)
        k = min(DIRECTIONS, len(values))
        spread = values[:k] / len(pooled) ** 0.5
        directions = (turned[:k] / spread.clamp_min(1e-8)[:, None]).T.float().contiguous()
        spread_plain, mean_plain = torch.std_mean(features.plain, dim=0)
        return cls(centre, directions, mean_plain, spread_plain.clamp_min(1e-8))

    def __call__(self, features: Look) -> Float[np.ndarray, "n k"]:
        """The films' points."""
        where = (features.pooled[:, :CHANNELS] - self.centre) @ self.directions
        plain = (features.plain - self.plain_centre) / self.plain_spread
        return np.asarray(torch.cat([where, plain], dim=1).double().numpy())


class Drift(NamedTuple):
    """What the test found."""

    p: float
    effect: float  # energy distance over the mean distance between the sets: 0 alike, 1 apart
    n: int
    n_reference: int

    @property
    def alarming(self) -> bool:
        """Whether these films differ as films of another site do."""
        return self.p <= ALARM and self.effect >= EFFECT

    def line(self) -> str | None:
        """What the user must be told, if anything."""
        if self.p > ALARM:
            return None
        if self.alarming:
            return (
                f"these films look unlike those it was fitted on (drift p = {self.p:.3g}, effect "
                f"{self.effect:.2f}): their p-values are not to be trusted"
            )
        return (
            f"these films differ somewhat from those it was fitted on (drift p = {self.p:.3g}, "
            f"effect {self.effect:.2f}), as films with much disease do"
        )


def drift(
    reference: Float[np.ndarray, "n k"],
    reference_scores: Float[np.ndarray, " n"],
    films: Float[np.ndarray, "m k"],
    scores: Float[np.ndarray, " m"],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Drift:
    """Tests whether `films` come from where `reference` does; points and scores, one patient each.

    Exact under exchangeability: every permutation is halved by score anew. Sets larger than
    DRIFT_MOST are drawn from, by `seed`.
    """
    rng = np.random.default_rng(seed)
    first, second = drawn(rng, len(reference)), drawn(rng, len(films))
    return compared(
        reference[first], reference_scores[first], films[second], scores[second], rng, draws
    )


def drawn(rng: np.random.Generator, n: int) -> Int[np.ndarray, " q"]:
    """Which of n films are compared: all, or DRIFT_MOST; first those of the reference are drawn."""
    return np.sort(rng.permutation(n)[:DRIFT_MOST])


def compared(
    reference: Float[np.ndarray, "n k"],
    reference_scores: Float[np.ndarray, " n"],
    films: Float[np.ndarray, "m k"],
    scores: Float[np.ndarray, " m"],
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Drift:
    """The test itself, on sets that were drawn already."""
    points = np.concatenate([reference, films])
    score = np.concatenate([reference_scores, scores])
    apart = distances(points)
    n = len(reference)

    def statistic(order: Int[np.ndarray, " q"]) -> tuple[float, float]:
        a, b = _lower_half(order[:n], score), _lower_half(order[n:], score)
        between = 2 * apart[np.ix_(a, b)].mean()
        within = apart[np.ix_(a, a)].mean() + apart[np.ix_(b, b)].mean()
        return between - within, between

    statistic_found, between = statistic(np.arange(len(points)))
    drawn = [statistic(rng.permutation(len(points)))[0] for _ in range(draws)]
    reached = int((np.array(drawn) >= statistic_found - 1e-12).sum())
    effect = statistic_found / between if between > 0 else 0.0
    return Drift((1 + reached) / (1 + draws), float(effect), len(films), n)


def distances(points: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n n"]:
    """Euclidean distance of every pair."""
    squares = np.square(points).sum(axis=1)
    gram = squares[:, None] + squares - 2 * points @ points.T
    return np.asarray(np.sqrt(np.maximum(gram, 0)))


def _lower_half(
    rows: Int[np.ndarray, " n"], score: Float[np.ndarray, " q"]
) -> Int[np.ndarray, " h"]:
    return rows[np.argsort(score[rows], kind="stable")[: (len(rows) + 1) // 2]]
