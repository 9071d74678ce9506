"""Maps without their finest detail."""

from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["gaussian_blur"]


def gaussian_blur(maps: Float[Tensor, "b c h w"], sigma: float) -> Float[Tensor, "b c h w"]:
    """Each map under a Gaussian of this standard deviation, in pixels; 0 leaves it as it is.

    The window ends at four standard deviations, and the border's values go on beyond it:
    scipy.ndimage.gaussian_filter with mode="nearest".
    """
    if sigma <= 0:
        return maps
    radius = ceil(4 * sigma - 0.5)
    offset = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    weights = torch.exp(-0.5 * (offset / sigma).square())
    weights = weights / weights.sum()
    b, c, h, w = maps.shape
    # One map a row: the same window for every channel.
    x = F.pad(maps.reshape(b * c, 1, h, w), [radius] * 4, mode="replicate")
    x = F.conv2d(F.conv2d(x, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    return x.reshape(b, c, h, w)
