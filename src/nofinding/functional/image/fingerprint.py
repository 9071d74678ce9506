"""A film on a coarse grid: the same whatever window, gamma, polarity and mask it has.

Band-passed and divided by its own local strength, the grid keeps the course of ribs and vessels and
loses brightness, contrast and grey scale. An inverted film has the same grid with the sign turned.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from nofinding.functional.image.fine_detail import blur

__all__ = [
    "GRID", "coarse_edges", "course", "edges", "frames_tried", "onto_coarse_cells",
    "placements_tried", "seen_through",
]  # fmt: skip

GRID = 56  # cells a side
FINE, COARSE, STRENGTH = 1.5, 4.7, 7.0  # cells: the band, and the window of its local strength
EDGE_STRENGTH = 3.0  # cells: the window of an edge's local strength
FAINT, BOUND = 0.004, 2.5  # greys; units of local strength
INSIDE = 0.9  # of a cell that must be film
COARSE_GRID = 28  # cells a side, where a film is looked for at many places
PLACED = (0.9, 0.92, 0.94, 0.96, 0.98)  # sides of a crop that is placed on the film
STEP = 0.5  # coarse cells between placements
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
    five = ((_neighbours(within) + within) > 4.5).float()
    band = (_neighbours(grey) - 4 * grey) * five
    return _evened(band, five, EDGE_STRENGTH), five


def _neighbours(grid: Float[Tensor, "b g g"]) -> Float[Tensor, "b g g"]:
    """The sum of each cell's four neighbours; beyond the edge is 0."""
    wide = pad(grid, (1, 1, 1, 1))
    return wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]


def placements_tried() -> tuple[tuple[float, float, float], ...]:
    """(side, row, column) in half films: where a crop to 90 % or more, or a film that is cropped
    itself, can lie on another film; as large as it first."""
    places = [(1.0, 0.0, 0.0)]
    for side in (side for crop in PLACED for side in (crop, 1 / crop)):
        most = abs(1 - side)
        half = math.ceil(most * COARSE_GRID / 2 / STEP)
        steps = [most * step / half for step in range(-half, half + 1)]
        places += [(side, row, column) for row in steps for column in steps]
    return tuple(places)


def onto_coarse_cells(places: Sequence[tuple[float, float]]) -> Float[Tensor, "p g s"]:
    """For each (side, shift) the matrix that takes a line of a film, 2 cells of GRID to each coarse
    one, to the coarse cells of the film that it is placed on."""
    side, shift = torch.tensor(places).unbind(1)
    at = (torch.arange(COARSE_GRID) + 0.5) / COARSE_GRID * 2 - 1
    there = ((at - shift[:, None]) / side[:, None] + 1) / 2 * GRID - 0.5
    return (1 - (there[:, :, None] - torch.arange(GRID)).abs() / 2).clamp_min(0) / 2


def coarse_edges(
    grey: Float[Tensor, "b s s"],
    inside: Float[Tensor, "b s s"],
    rows: Float[Tensor, "p g s"],
    columns: Float[Tensor, "p g s"],
) -> tuple[Float[Tensor, "n g g"], Float[Tensor, "n g g"]]:
    """(sign of each coarse cell against its four neighbours, 1 where all five are film), at each
    placement; `grey` is 0 where no film is."""
    window = grey.shape[-1] // GRID
    there = rows @ avg_pool2d(inside, window) @ columns.mT
    placed = (rows @ avg_pool2d(grey, window) @ columns.mT) / there.clamp_min(1e-3)
    five = (_neighbours(there.gt(INSIDE).float()) + there.gt(INSIDE) > 4.5).float()
    return (_neighbours(placed) - 4 * placed).sign() * five, five


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
