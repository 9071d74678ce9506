"""What is hidden of a film: the two checkerboards of Diff3M, patches, rectangles, frequencies."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from nofinding.functional.noise import integers, uniform

__all__ = ["checkerboards", "combine", "fade", "low_band", "patches", "rectangles", "without_band"]


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

    `noise_level` is t / T, in [0, 1]. Diff3M, eq. 3.
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


def patches(side: int, a_side: int) -> Bool[Tensor, "p 1 side side"]:
    """The film cut into `a_side` x `a_side` squares, row by row: a mask each, that share no pixel
    and cover all. Raises ValueError where the side is no multiple of their number."""
    if a_side < 1 or side % a_side:
        raise ValueError(f"{a_side} patches along a side of {side} pixels")
    place = torch.arange(side) // (side // a_side)
    number = place[:, None] * a_side + place[None, :]
    return torch.eq(number, torch.arange(a_side**2)[:, None, None])[:, None]


def rectangles(
    side: int, rows: Sequence[Generator], *, most: int, sizes: tuple[float, float]
) -> Bool[Tensor, "b 1 side side"]:
    """For each row 0 to `most` rectangles anywhere in the film, both sides of each drawn from
    `sizes`, in shares of the film's side."""
    count = integers(0, most + 1, rows)
    place = torch.arange(side)
    hidden = torch.zeros(len(rows), side, side, dtype=torch.bool)
    for number in range(most):
        # The same draws whether or not this row has so many, so that rows stay apart.
        high, wide, top, left = uniform((4,), rows).unbind(1)
        spans = []
        for size, start in ((high, top), (wide, left)):
            length = ((sizes[0] + (sizes[1] - sizes[0]) * size) * side).round().clamp(min=1)
            first = (start * (side - length + 1)).floor()
            spans.append((place >= first[:, None]) & (place < (first + length)[:, None]))
        hidden |= spans[0][:, :, None] & spans[1][:, None, :] & (number < count)[:, None, None]
    return hidden[:, None]


def low_band(side: int, reach: Int64[Tensor, " b"]) -> Bool[Tensor, "b 1 side side"]:
    """Which coefficients of `torch.fft.fft2` have at most `reach` cycles a side, both ways."""
    cycles = (torch.fft.fftfreq(side) * side).round().abs()
    within = cycles <= reach[:, None]
    band: Tensor = within[:, :, None] & within[:, None, :]
    return band[:, None]


def without_band(
    film: Float[Tensor, "b 1 h w"], band: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """The film without the frequencies of the band, which has with each also its opposite."""
    spectrum = torch.fft.fft2(film.float())  # there is no such transform of bfloat16
    filtered: Tensor = torch.fft.ifft2(spectrum * ~band).real
    return filtered.to(film)
