"""Films that show the lungs alone, looked for among others where they were cropped, too.

The border of a mask spoils a code, and a crop moves every edge off its cell. So each such film is
placed wherever a crop to 90 % or more can lie, on cells twice as large, and the signs of the edges
are compared. That takes about a tenth of a second a film among 10,000.
"""

import functools

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nofinding.data.signatures import Signatures, common_to_chests, unpacked_film
from nofinding.functional.image.fingerprint import (
    coarse_edges,
    onto_coarse_cells,
    placements_tried,
)

__all__ = ["likest_places"]

ROWS = 32  # films whose edges are drawn together: what they take stays in cache
COLUMNS = 1024  # films compared at once
FEWEST_SHARED = 40  # cells that are film in both
ALIKE = 0.72  # of the shared cells, agreeing less disagreeing
MOST = 10  # films that are laid over it, each way round


@torch.no_grad()
def likest_places(
    cut: Signatures, among: Signatures
) -> tuple[
    Int[np.ndarray, " n"], Int[np.ndarray, " n"], Bool[np.ndarray, " n"], Float[np.ndarray, "n 3"]
]:
    """(film of `cut`, film of `among`, whether the former is mirrored, its placement on the latter:
    side, row and column as `placements_tried` has them) of the likest pairs."""
    usual, hits = _usual(), list[tuple[int, int, bool, int]]()
    if not len(cut) or not len(among):
        return np.empty(0, int), np.empty(0, int), np.empty(0, bool), np.empty((0, 3), np.float32)
    others = _in_place(among)
    for number in range(len(cut)):
        film, inside = unpacked_film(cut.film[number : number + 1])
        for mirrored in (False, True):
            if mirrored:
                film, inside = film.flip(2), inside.flip(2)
            sign, within = coarse_edges(film * inside, inside, *_everywhere())
            likest, place = _likest((sign[:, usual], within[:, usual]), others)
            best = likest.topk(min(MOST, len(likest)))
            for value, other in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                if value >= ALIKE:
                    hits.append((number, other, mirrored, int(place[other])))
    columns = np.array(hits, dtype=np.int64).reshape(-1, 4)
    places = np.array(placements_tried(), np.float32)[columns[:, 3]]
    return columns[:, 0], columns[:, 1], columns[:, 2] > 0, places


def _likest(
    own: tuple[Float[Tensor, "p c"], Float[Tensor, "p c"]],
    others: tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]],
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """(agreement at the best placement, its number), for each of the others."""
    best, place = [], []
    for start in range(0, len(others[0]), COLUMNS):
        sign, shown = (part[start : start + COLUMNS] for part in others)
        shared = own[1] @ shown.T
        agreement = (own[0] @ sign.T).abs_() / shared.clamp_min(FEWEST_SHARED)
        value, number = agreement.mul_(shared >= FEWEST_SHARED).max(dim=0)
        best.append(value)
        place.append(number)
    return torch.cat(best), torch.cat(place)


def _in_place(films: Signatures) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """(signs of the edges, where they are known) in the usual cells."""
    usual, matrix = _usual(), onto_coarse_cells([(1.0, 0.0)])
    signs, shown = [], []
    for start in range(0, len(films), ROWS):
        film, inside = unpacked_film(films.film[start : start + ROWS])
        sign, within = coarse_edges(film * inside, inside, matrix, matrix)
        signs.append(sign[:, usual])
        shown.append(within[:, usual])
    return torch.cat(signs), torch.cat(shown)


@functools.cache
def _usual() -> Bool[Tensor, "g g"]:
    """The coarse cells where lungs usually are."""
    return avg_pool2d((common_to_chests()[0] > 0).float()[None], 2)[0] > 0.5


@functools.cache
def _everywhere() -> tuple[Float[Tensor, "p g s"], Float[Tensor, "p g s"]]:
    """What takes a film's rows, and its columns, to coarse cells at each placement."""
    places = placements_tried()
    return (
        onto_coarse_cells([(side, row) for side, row, _ in places]),
        onto_coarse_cells([(side, column) for side, _, column in places]),
    )
