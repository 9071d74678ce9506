"""What makes two normal films look different although the chest is the same.

Position, exposure, processing, resolution, noise, a letter in the corner. A detector that was
taught these on normal films is less moved by the next hospital's. Films in [0, 1]; every number
is drawn from the row's own generator.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from nofinding.functional.image.equalise import BLACK
from nofinding.functional.noise import gaussian, uniform

__all__ = ["coarse", "exposure", "field", "labels", "place", "placement", "span"]

Film = Float[Tensor, "b 1 h w"]
Rows = Sequence[Generator]

TURN = 7.0  # degrees
SCALE = (0.88, 1.10)
ASPECT, SHIFT = 0.08, 0.08  # shares of the side
GAMMA = 0.45  # of its logarithm
RESOLUTIONS = (0.71, 0.5, 0.32)  # of the side; each for a tenth of the films


def span(low: float, high: float, rows: Rows) -> Float[Tensor, "b 1 1 1"]:
    """Uniform in [low, high), one number a row, shaped to multiply films."""
    return low + (high - low) * uniform((1, 1, 1), rows)


def field(side: int, like: Film, rows: Rows) -> Film:
    """A smooth random field of about unit spread, with `side` bumps along a side."""
    draws = gaussian((1, side, side), rows)
    return F.interpolate(draws, size=like.shape[-2:], mode="bicubic", align_corners=False)


def coarse(film: Film, side: int) -> Film:
    """The film without detail finer than its side / `side`."""
    small = F.adaptive_avg_pool2d(film, min(side, *film.shape[-2:]))
    return F.interpolate(small, size=film.shape[-2:], mode="bicubic", align_corners=False)


def placement(rows: Rows) -> Float[Tensor, "b 2 3"]:
    """How the patient stood: turned, nearer, narrower, off centre; half the rows mirrored."""
    turn = span(-TURN, TURN, rows).flatten() * math.pi / 180
    scale, aspect = span(*SCALE, rows).flatten(), span(1 - ASPECT, 1 + ASPECT, rows).flatten()
    across, down = (span(-SHIFT, SHIFT, rows).flatten() for _ in range(2))
    mirror = torch.where(span(0, 1, rows).flatten() < 0.5, -1.0, 1.0)
    top = torch.stack([mirror * scale * aspect * turn.cos(), -scale * turn.sin(), across], 1)
    low = torch.stack([mirror * scale * turn.sin(), scale / aspect * turn.cos(), down], 1)
    return torch.stack([top, low], 1)


def place(film: Film, placement: Float[Tensor, "b 2 3"]) -> Film:
    """The film (or a mask on its grid) as `placement` has it; what comes from outside is black."""
    grid = F.affine_grid(placement, list(film.shape), align_corners=False)
    return F.grid_sample(film, grid, padding_mode="zeros", align_corners=False)


def exposure(film: Film, rows: Rows) -> Film:
    """Another detector: resolution, sharpening, gamma, contrast, brightness, shading, noise.

    Black stays black: a mask or collimation is no matter of exposure.
    """
    visible = film > BLACK
    film = _resolved(film, span(0, 1, rows).flatten())
    film = film + span(-0.5, 1.0, rows) * (film - coarse(film, film.shape[-1] // 3))
    film = film.clamp(1e-4, 1) ** span(-GAMMA, GAMMA, rows).exp()
    film = (film - 0.5) * span(0.7, 1.2, rows) + 0.5 + span(-0.1, 0.1, rows)
    film = film + span(0, 0.06, rows) * field(3, film, rows)
    film = film + span(-0.02, 0.03, rows).clamp_min(0) * gaussian(film.shape[1:], rows)
    return film.clamp(0, 1) * visible


def _resolved(film: Film, draw: Float[Tensor, " b"]) -> Film:
    out = film.clone()
    for tenth, share in enumerate(RESOLUTIONS, start=7):
        rows = (draw * 10).long() == tenth
        if rows.any():
            side = max(8, round(film.shape[-1] * share))
            small = F.interpolate(film[rows], size=(side, side), mode="bilinear", antialias=True)
            out[rows] = F.interpolate(small, size=film.shape[-2:], mode="bicubic")
    return out


def labels(film: Film, rows: Rows) -> Film:
    """A bright letter-like mark near an upper corner, in two films of five."""
    high, wide = film.shape[-2:]
    y = ((torch.arange(high) + 0.5) / high)[:, None]
    x = ((torch.arange(wide) + 0.5) / wide)[None]
    there = span(0, 1, rows) < 0.4
    top, margin = span(0, 0.25, rows), span(0.01, 0.12, rows)
    left = torch.where(span(0, 1, rows) < 0.5, margin, 1 - margin)
    tall, broad, grey = span(0.02, 0.06, rows), span(0.02, 0.1, rows), span(0.5, 1, rows)
    strokes = F.interpolate((uniform((1, 28, 28), rows) < 0.6).float(), size=(high, wide))
    box = ((y - top).abs() < tall / 2) & ((x - left).abs() < broad / 2)
    lit = coarse(film, max(1, high // 4)) > BLACK / 2
    return torch.where(there & box & (strokes > 0) & lit, grey, film)
