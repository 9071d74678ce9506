"""Perlin's gradient noise: smooth, random, and of one size of bump (Perlin, SIGGRAPH 2002)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from nofinding.functional.noise import uniform

__all__ = ["fade", "perlin"]


def fade(t: Tensor) -> Tensor:
    """6 t^5 - 15 t^4 + 10 t^3: from 0 to 1, with no slope and no curvature at either end."""
    return t * t * t * (t * (6 * t - 15) + 10)


def perlin(
    size: tuple[int, int], cells: tuple[int, int], rows: Sequence[Generator]
) -> Float[Tensor, "b 1 h w"]:
    """Gradient noise of `size` (h, w) over a lattice of `cells` (down, across), from -1 to 1.

    At each corner of the lattice stands a random unit vector; a pixel's value is what the four
    around it say of its offset from them, blended by `fade`. It is 0 at the corners, of mean 0,
    and has hardly any power far from the lattice's own frequency. Pixel i of h lies at
    i * cells / h, so that the corners fall on pixels where h is a multiple of the cells.
    """
    angle = 2 * math.pi * uniform((cells[0] + 1, cells[1] + 1), rows)
    down, across = angle.sin(), angle.cos()
    y, x = (torch.arange(n) * (c / n) for n, c in zip(size, cells, strict=True))
    iy, ix = y.long(), x.long()
    fy, fx = (y - iy)[:, None], (x - ix)[None]  # offset from the corner above, left

    def says(dy: int, dx: int) -> Float[Tensor, "b h w"]:
        """The corner's vector times the offset from it."""
        corner = (slice(None), (iy + dy)[:, None], (ix + dx)[None])
        return down[corner] * (fy - dy) + across[corner] * (fx - dx)

    top = says(0, 0) + fade(fx) * (says(0, 1) - says(0, 0))
    low = says(1, 0) + fade(fx) * (says(1, 1) - says(1, 0))
    # The largest value of unit vectors is sqrt(1/2), in the middle of a cell.
    return (math.sqrt(2) * (top + fade(fy) * (low - top)))[:, None]
