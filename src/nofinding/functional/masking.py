"""The two checkerboards of Diff3M, and how they fade as noise grows."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["checkerboards", "combine", "fade"]


def checkerboards(height: int, width: int) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Two masks that share no pixel and cover all: (row + column) odd, and its complement."""
    rows = torch.arange(height)[:, None]
    columns = torch.arange(width)[None, :]
    odd = ((rows + columns) % 2).float()[None]
    return odd, 1 - odd


def fade(
    mask: Float[Tensor, "1 h w"], noise_level: Float[Tensor, " b"]
) -> Float[Tensor, "b 1 h w"]:
    """Lets masked pixels back in as noise drowns them: the mask at 0, all ones at 1.

    `noise_level` is t / T, in [0, 1]. Diff3M, eq. 1.
    """
    s = noise_level[:, None, None, None]
    return mask + (1 - mask) * s


def combine(
    from_first: Float[Tensor, "b 1 h w"],
    from_second: Float[Tensor, "b 1 h w"],
    first: Float[Tensor, "b 1 h w"],
    second: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, "b 1 h w"]:
    """The regenerated image: what each mask hid, as seen from the other's pixels (eq. 3).

    `from_first` is what the network made of the image behind the `first` (faded) mask. The
    weights are the other, faded mask, so that they sum to 1 only where there is no noise.
    """
    return from_first * second + from_second * first
