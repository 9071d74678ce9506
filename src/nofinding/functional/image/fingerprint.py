"""A film on a coarse grid: the same whatever window, gamma, polarity and mask it has.

Band-passed and divided by its own local strength, the grid keeps the course of ribs and vessels and
loses brightness, contrast and grey scale. An inverted film has the same grid with the sign turned.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from nofinding.functional.image.fine_detail import blur

__all__ = ["GRID", "course", "edges", "frames_tried", "seen_through"]

GRID = 56  # cells a side
FINE, COARSE, STRENGTH = 1.5, 4.7, 7.0  # cells: the band, and the window of its local strength
EDGE_STRENGTH = 3.0  # cells: the window of an edge's local strength
FAINT, BOUND = 0.004, 2.5  # greys; units of local strength
INSIDE = 0.9  # of a cell that must be film
SIDES = (0.9, 0.95, 1 / 0.95, 1 / 0.9)  # of what one film shows, for what the other shows


def frames_tried() -> tuple[tuple[float, float, float, float], ...]:
    """(half height, half width, row, column) in half films: the whole, and where a crop to 90 %
    or more lies in the film that it was cut from, or that film about its crop."""
    frames = [(1.0, 1.0, 0.0, 0.0)]
    for side in SIDES:
        most = abs(1 - side)  # how far a crop can lie off the centre
        steps = (-0.75 * most, 0.0, 0.75 * most) if most > 0.08 else (-0.7 * most, 0.7 * most)
        frames += [(side, side, row, column) for row in steps for column in steps]
    return tuple(frames)


def _celled(
    image: Float[Tensor, "b s s"], inside: Float[Tensor, "b s s"]
) -> tuple[Float[Tensor, "b g g"], Float[Tensor, "b g g"]]:
    """(mean grey of each cell, 1 where the cell is film)."""
    window = image.shape[-1] // GRID
    there = avg_pool2d(inside, window)
    return avg_pool2d(image * inside, window) / there.clamp_min(1e-3), (there > INSIDE).float()


def _evened(
    band: Float[Tensor, "b g g"], within: Float[Tensor, "b g g"], window: float
) -> Float[Tensor, "b g g"]:
    """The band in units of its own local strength."""
    strength = blur((band * within) ** 2, within, window).sqrt()
    return (band / (strength + FAINT)).clamp(-BOUND, BOUND) * within


def course(image: Float[Tensor, "b s s"], inside: Float[Tensor, "b s s"]) -> Float[Tensor, "b g g"]:
    """The course of ribs and large vessels; 0 where no film is."""
    grey, within = _celled(image, inside)
    return _evened(blur(grey, within, FINE) - blur(grey, within, COARSE), within, STRENGTH)


def edges(
    image: Float[Tensor, "b s s"], inside: Float[Tensor, "b s s"]
) -> tuple[Float[Tensor, "b g g"], Float[Tensor, "b g g"]]:
    """(each cell against its four neighbours, 1 where all five are film).

    Nothing further away has a say, so a film and its lungs alone have the same edges wherever both
    are film.
    """
    grey, within = _celled(image, inside)
    cross = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    five = (conv2d(within[:, None], cross.abs(), padding=1)[:, 0] > 7.5).float()
    band = conv2d(grey[:, None], cross, padding=1)[:, 0] * five
    return _evened(band, five, EDGE_STRENGTH), five


def seen_through(frame: Sequence[float], cells: Float[Tensor, "g g"]) -> Float[Tensor, "n c"]:
    """The matrix that takes a whole grid to the cells that count, as they lie within the frame."""
    across, down = (
        _between(half, shift) for half, shift in ((frame[1], frame[3]), (frame[0], frame[2]))
    )
    rows, columns = torch.nonzero(cells > 0).unbind(1)
    return torch.einsum("cr,cs->rsc", down[rows], across[columns]).flatten(0, 1)


def _between(half: float, shift: float) -> Float[Tensor, "g g"]:
    """For each cell along a side of the frame, the shares of the film's cells that it lies between;
    0 beyond the edge."""
    at = torch.arange(GRID, dtype=torch.float32)
    there = (((at + 0.5) / GRID * 2 - 1) * half + shift + 1) / 2 * GRID - 0.5
    return (1 - (there[:, None] - at).abs()).clamp_min(0)
