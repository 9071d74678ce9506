"""Maps without their finest detail."""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Border", "gaussian_blur"]

# What lies beyond the border, in scipy's words: d c b a | a b c d (reflect), d c b | a b c d
# (mirror), a a a | a b c d (nearest).
Border: TypeAlias = Literal["nearest", "reflect", "mirror"]
TRUNCATE = 4.0  # standard deviations that the window reaches to either side


def gaussian_blur(
    maps: Float[Tensor, "b c h w"], sigma: float, border: Border = "nearest"
) -> Float[Tensor, "b c h w"]:
    """Each map under a Gaussian of this standard deviation, in pixels; 0 leaves it as it is.

    scipy.ndimage.gaussian_filter with `mode` as the border, whatever the size of the map.
    """
    if sigma <= 0:
        return maps
    down, across = (_weights(side, sigma, border).to(maps) for side in maps.shape[-2:])
    blurred: Tensor = down @ maps @ across.T
    return blurred


def _weights(side: int, sigma: float, border: Border) -> Float[Tensor, "side side"]:
    """Row i: the weights of all pixels of a line in the blurred pixel i."""
    radius = int(TRUNCATE * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    place = torch.arange(side)[:, None] + offset
    if border == "nearest":
        place = place.clamp(0, side - 1)
    elif border == "reflect":
        place = place % (2 * side)
        place = torch.where(place < side, place, 2 * side - 1 - place)
    else:
        period = max(2 * side - 2, 1)
        place = place % period
        place = torch.where(place < side, place, period - place)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, place, (weights / weights.sum()).expand(side, -1)).float()
