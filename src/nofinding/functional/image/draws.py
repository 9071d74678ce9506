"""Numbers and smooth fields for painting on one film, all from one generator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

__all__ = ["Draws", "softened"]

Map = Float[Tensor, "h w"]


@dataclass(frozen=True)
class Draws:
    """Chance for one film: the same generator, the same painting."""

    generator: Generator

    def span(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log(self, low: float, high: float) -> float:
        """Log-uniform in [low, high)."""
        return math.exp(self.span(math.log(low), math.log(high)))

    def normal(self) -> float:
        """Standard normal."""
        return float(torch.randn((), generator=self.generator))

    def chance(self, share: float) -> bool:
        """True in this share of draws."""
        return self.span(0, 1) < share

    def among(self, weights: Sequence[float]) -> int:
        """An index, with these weights."""
        at = self.span(0, sum(weights))
        for index, weight in enumerate(weights):
            at -= weight
            if at < 0:
                return index
        return len(weights) - 1

    def field(self, bumps: int, high: int, wide: int) -> Map:
        """A smooth field of about unit spread with this many bumps along a side."""
        draws = torch.randn(1, 1, bumps, bumps, generator=self.generator)
        smooth = F.interpolate(draws, size=(high, wide), mode="bicubic", align_corners=False)
        return smooth[0, 0]

    def place(self, share: Map) -> tuple[int, int] | None:
        """Row and column, drawn with these shares; None where all are 0."""
        flat = share[::2, ::2].flatten()
        if float(flat.sum()) <= 0:
            return None
        index = int(torch.multinomial(flat, 1, generator=self.generator))
        wide = share[::2, ::2].shape[1]
        return 2 * (index // wide), 2 * (index % wide)


def softened(x: Map, side: int) -> Map:
    """The mean of the square of `side` (odd) pixels around each place."""
    pad = side // 2
    rows = F.avg_pool2d(x[None, None], (side, 1), 1, (pad, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, pad), count_include_pad=False)[0, 0]
