"""Random patches of a grid: what masked diffusion noises."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from nofinding.functional.noise import uniform

__all__ = ["patch_masks"]


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
        kept = int(grid[0] * grid[1] * (1 - most * float(uniform((), [row]))))
        mask = torch.zeros(grid[0] * grid[1])
        mask[torch.randperm(len(mask), generator=row)[:kept]] = 1
        masks.append(mask.reshape(grid).repeat_interleave(high, 0).repeat_interleave(wide, 1))
    return torch.stack(masks)[:, None]
