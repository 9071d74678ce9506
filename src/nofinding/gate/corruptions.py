"""Films that must not be scored, made from films that may: turned, inverted, cropped.

A mirrored film is not among them: it counts as upright, since hearts on the right exist and a
lost side marker is not to be told from the pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["REASONS", "SPOILT", "UPRIGHT"]

Film = Float[Tensor, "1 s s"]
BLACK = -1.0

REASONS = (
    "",  # upright
    "lies on its side (turned by 90 degrees)",
    "stands on its head (turned by 180 degrees, or flipped)",
    "is inverted (air bright, bone dark)",
    "shows only a part of the chest (one lung, or half of the film)",
)
"""Why a film is refused, by class; class 0 is not."""


def _square(part: Float[Tensor, "1 h w"], size: int) -> Film:
    """The part stretched to a square film."""
    return F.interpolate(
        part[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )[0]


def _beside(film: Film, index: int) -> Film:
    """One lung: left or right half, padded with black, cut to a square, or stretched."""
    size = film.shape[-1]
    half = size // 2
    part = film[:, :, :half] if index % 2 else film[:, :, half:]
    how = index // 2 % 3
    if how == 0:
        spoilt = torch.full_like(film, BLACK)
        spoilt[:, :, half // 2 : half // 2 + half] = part
        return spoilt
    if how == 1:
        top = size // 14 + index * 7 % (size - half - size // 7 + 1)  # somewhere, not at the edge
        return _square(part[:, top : top + half], size)
    trim = index % 10
    return _square(part[:, trim : size - trim], size)


def _above(film: Film, index: int) -> Film:
    """The upper or the lower half, padded with black, or stretched."""
    size = film.shape[-1]
    half = size // 2
    part = film[:, :half] if index % 2 else film[:, half:]
    if index // 2 % 2:
        return _square(part, size)
    spoilt = torch.full_like(film, BLACK)
    spoilt[:, half // 2 : half // 2 + half] = part
    return spoilt


def _turned(quarters: int) -> Callable[[Film, int], Film]:
    return lambda film, index: torch.rot90(film, quarters, (1, 2))


Change = Callable[[Film, int], Film]
UPRIGHT: tuple[Change, ...] = (lambda film, index: film, lambda film, index: film.flip(2))
"""What may be done to a film: nothing, and mirroring."""
SPOILT: tuple[tuple[int, Change], ...] = (
    (1, _turned(1)),
    (1, _turned(3)),
    (2, _turned(2)),
    (2, lambda film, index: film.flip(1)),
    (3, lambda film, index: -film),
    (4, _beside),
    (4, _above),
)
"""What spoils it, with the class in REASONS; `index` chooses the variant."""
