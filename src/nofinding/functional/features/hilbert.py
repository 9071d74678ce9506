"""Orders in which to walk over a grid: along Hilbert's curve, which never jumps.

Hilbert, Mathematische Annalen 38, 1891. Neighbours on the walk are neighbours on the grid, and
what is near on the grid is mostly near on the walk, too, as along no scan line by line.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["directions", "hilbert_curve", "hilbert_order"]


def hilbert_curve(level: int) -> Int64[Tensor, "n 2"]:
    """(row, column) of each cell of a 2^level square, along the curve.

    It begins in the upper left corner and ends in the upper right one.
    """
    curve = torch.zeros(1, 2, dtype=torch.int64)
    for depth in range(level):
        half = 2**depth
        right, down = torch.tensor([0, half]), torch.tensor([half, 0])
        # Four smaller curves, down, right and up again; the first and the last are mirrored at a
        # diagonal, so that each begins beside the end of the one before it.
        first, last = curve.flip(1), half - 1 - curve.flip(1)
        curve = torch.cat([first, curve + down, curve + down + right, last + right])
    return curve


def hilbert_order(side: int) -> Int64[Tensor, " side*side"]:
    """Cells of a square grid, numbered line by line, in the order of the curve.

    A side that is no power of two is taken out of the curve of the next one, whose cells outside
    are left out: every cell is visited once, but the walk then jumps over what is missing. Raises
    ValueError for a side below 1.
    """
    if side < 1:
        raise ValueError(f"side {side}: give 1 or more")
    curve = hilbert_curve((side - 1).bit_length())
    curve = curve[(curve < side).all(dim=1)]
    return curve[:, 0] * side + curve[:, 1]


def directions(side: int, count: int = 8) -> Int64[Tensor, "count side*side"]:
    """Orders of the cells of a square grid: the curve and its quarter turns, there and back.

    `count`: 2 (the curve, there and back), 4 (and a quarter turn of it) or 8 (and all its turns).
    From a side of 2 on no two are alike. The curve walked backwards is its own mirror image, so a
    transposed or mirrored one is none but these. Raises ValueError for another count.
    """
    if count not in (2, 4, 8):
        raise ValueError(f"{count} directions: give 2, 4 or 8")
    grid = torch.arange(side * side).reshape(side, side)
    order = hilbert_order(side)
    ways = [torch.rot90(grid, turn).flatten()[order] for turn in range(count // 2)]
    return torch.stack([*ways, *(way.flip(0) for way in ways)])
