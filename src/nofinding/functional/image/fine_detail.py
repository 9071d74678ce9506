"""What tells one film from all others: its fine detail, free of brightness, contrast and polarity.

Band-passed, and divided by its own local strength, a film keeps the course of vessels and ribs and
loses window, gamma and grey scale.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

__all__ = ["blur", "fine_detail", "shows_film"]

FINE, COARSE, STRENGTH = 0.8, 2.5, 6.0  # pixels: the band, and the window of its local strength
NOISE = 0.006  # about 1.5 grey levels of 255: weaker detail counts as none
PLAIN, BLACK, WHITE = 0.012, 0.06, 0.94  # a plain area at the end of the scale is no film
MARGIN = 7  # pixels: the window around a plain pixel that is left out


def _gaussian(size: int, sigma: float) -> Float[Tensor, "s s"]:
    """The blur along one axis as a matrix; what lies beyond the edge is left out, not 0."""
    at = torch.arange(size, dtype=torch.float32)
    apart = (at[:, None] - at).abs() / sigma
    weight = torch.exp(-(apart**2) / 2) / (sigma * math.sqrt(2 * math.pi))
    return torch.where(apart < 4, weight, 0.0)  # smaller ones are denormal, and slow


def blur(
    image: Float[Tensor, "b s s"], inside: Float[Tensor, "b s s"], sigma: float
) -> Float[Tensor, "b s s"]:
    """The mean around each pixel of the pixels inside."""
    matrix = _gaussian(image.shape[-1], sigma)
    return (matrix @ (image * inside) @ matrix) / (matrix @ inside @ matrix).clamp_min(1e-3)


def _largest(image: Float[Tensor, "b s s"], window: int) -> Float[Tensor, "b s s"]:
    """The largest value in a square around each pixel."""
    along = max_pool2d(image, (window, 1), 1, (window // 2, 0))
    return max_pool2d(along, (1, window), 1, (0, window // 2))


def shows_film(image: Float[Tensor, "b s s"]) -> Float[Tensor, "b s s"]:
    """1 where the film is, 0 in and beside plain black or white, as outside a collimator or around
    lungs that were cut out. `image` is in [0, 1]."""
    mean = avg_pool2d(image, 5, 1, 2, count_include_pad=False)
    spread = avg_pool2d(image**2, 5, 1, 2, count_include_pad=False) - mean**2
    plain = (spread < PLAIN**2) & ((mean < BLACK) | (mean > WHITE))
    return 1 - _largest(plain.float(), MARGIN)


def fine_detail(
    image: Float[Tensor, "b s s"], inside: Float[Tensor, "b s s"]
) -> Float[Tensor, "b s s"]:
    """The detail inside, of about unit strength; 0 elsewhere. Nothing outside has a say in it."""
    band = (blur(image, inside, FINE) - blur(image, inside, COARSE)) * inside
    strength = blur(band**2, inside, STRENGTH).sqrt()
    return band / (strength + NOISE) * inside
