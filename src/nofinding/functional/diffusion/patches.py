"""Patches of a grid: drawn at random for masked diffusion to noise, or a picture cut and joined."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from nofinding.functional.noise import uniform

__all__ = ["cut", "joined", "patch_masks", "surroundings"]


def patch_masks(
    side: int,
    rows: Sequence[Generator],
    *,
    sizes: Sequence[int],
    chances: Sequence[float],
    most: float,
) -> Float[Tensor, "b 1 side side"]:
    """1 where a position stays as it is, 0 in the patches that are noised (MAD-AD, section 2).

    Each row draws the height and the width of its patches from `sizes`, with `chances`, and the
    share of patches that are noised from U(0, `most`). Sizes must divide `side`.
    """
    masks = []
    weights = torch.tensor(chances, dtype=torch.float64)
    for row in rows:
        high, wide = (sizes[int(torch.multinomial(weights, 1, generator=row))] for _ in range(2))
        grid = (side // high, side // wide)
        visible_cells = int(grid[0] * grid[1] * (1 - most * float(uniform((), [row]))))
        mask = torch.zeros(grid[0] * grid[1])
        mask[torch.randperm(len(mask), generator=row)[:visible_cells]] = 1
        masks.append(mask.reshape(grid).repeat_interleave(high, 0).repeat_interleave(wide, 1))
    return torch.stack(masks)[:, None]


def cut(x: Float[Tensor, "b c h w"], grid: int) -> Float[Tensor, "b p c i j"]:
    """The grid x grid pieces of a picture, row by row. Its sides must be multiples of `grid`."""
    b, c, h, w = x.shape
    pieces = x.reshape(b, c, grid, h // grid, grid, w // grid)
    return pieces.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def joined(pieces: Float[Tensor, "b p c i j"], grid: int) -> Float[Tensor, "b c h w"]:
    """The picture that `cut` took apart."""
    apart = pieces.reshape(len(pieces), grid, grid, *pieces.shape[2:])  # (b, grid, grid, c, i, j)
    return apart.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def surroundings(x: Float[Tensor, "b p c"], grid: int) -> Float[Tensor, "b p 8 c"]:
    """The eight neighbours of each place of the grid, itself left out; zeros beyond its edge."""
    rows = F.pad(x.reshape(len(x), grid, grid, -1), (0, 0, 1, 1, 1, 1))
    steps = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    around = [rows[:, i : i + grid, j : j + grid].flatten(1, 2) for i, j in steps]
    return torch.stack(around, dim=2)
