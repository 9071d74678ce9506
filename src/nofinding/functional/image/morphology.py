"""Maps grown, shrunk and with their gaps filled (grey-value morphology, square windows)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["close", "dilate", "erode"]

Map = Float[Tensor, "b c h w"]


def dilate(maps: Map, radius: int) -> Map:
    """The largest value within `radius` pixels in either direction; nothing lies beyond the border.

    A mask of zeros and ones grows by so many pixels.
    """
    return F.max_pool2d(maps, 2 * radius + 1, stride=1, padding=radius) if radius else maps


def erode(maps: Map, radius: int) -> Map:
    """The smallest value within `radius` pixels; what lies beyond the border does not count."""
    return -dilate(-maps, radius)


def close(maps: Map, radius: int) -> Map:
    """Gaps narrower than the window take the value around them; nothing gets smaller."""
    return erode(dilate(maps, radius), radius)
