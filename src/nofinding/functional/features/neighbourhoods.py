"""Maps of features as patches on one grid, and a map of distances back on the film."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nofinding.functional.image.blur import gaussian_blur

__all__ = ["enlarge", "join", "neighbourhoods", "pool_channels", "rows"]

Maps = Float[Tensor, "b c h w"]


def pool_channels(x: Float[Tensor, "b c h w"], dimension: int) -> Float[Tensor, "b d h w"]:
    """Every cell's vector brought to `dimension` numbers, each the average of a run of it."""
    b, c, h, w = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(1, b * h * w, c)
    pooled = F.adaptive_avg_pool1d(flat, dimension)
    return pooled.reshape(b, h, w, dimension).permute(0, 3, 1, 2)


def neighbourhoods(maps: Maps, size: int = 3, dimension: int = 0) -> Float[Tensor, "b d h w"]:
    """Each cell together with the cells around it: PatchCore's locally aware patch features.

    Roth et al. 2022, eq. 1 and 2. With `dimension` 0 every channel is averaged over size x size
    cells; else the size * size * c numbers of a neighbourhood are averaged in runs down to
    `dimension`, channel by channel, as the authors' program does. Outside the map all is 0.
    """
    if dimension == 0:
        return F.avg_pool2d(maps, size, 1, size // 2)
    b, _, h, w = maps.shape
    parts = F.unfold(maps, size, padding=size // 2)  # (b, c * size * size, h * w)
    return pool_channels(parts.reshape(b, -1, h, w), dimension)


def join(maps: Sequence[Maps], mode: str = "bilinear") -> Float[Tensor, "b d h w"]:
    """All maps on the grid of the first, one behind the other. `mode`: bilinear or nearest."""
    size = maps[0].shape[-2:]
    corners = None if mode == "nearest" else False
    grown = [
        x if x.shape[-2:] == size else F.interpolate(x, size=size, mode=mode, align_corners=corners)
        for x in maps
    ]
    return torch.cat(grown, 1)


def rows(maps: Float[Tensor, "b d h w"]) -> Float[Tensor, "b n d"]:
    """The vectors of all cells, row by row of the grid."""
    return maps.flatten(2).transpose(1, 2)


def enlarge(
    map: Float[Tensor, "b 1 i j"], size: Sequence[int], sigma: float = 0.0
) -> Float[Tensor, "b 1 h w"]:
    """A coarse map on the film's grid: interpolated linearly, then blurred."""
    grown = F.interpolate(map, size=tuple(size), mode="bilinear", align_corners=False)
    return gaussian_blur(grown, sigma, border="mirror")
