"""Feature maps in place of films, for the methods that train on top of a frozen network.

The network looks at every film once; the training loop then gets what it saw. Maps of several
scales travel as one row of numbers a film, because a batch has one image.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.nets.feature_maps import FeatureMaps
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch

__all__ = [
    "MapFilms",
    "Shapes",
    "channel_statistics",
    "halving_shapes",
    "map_shapes",
    "unpacked",
    "with_epochs",
]

Shapes = tuple[tuple[int, int, int], ...]
"""(channels, rows, columns) of each map."""

MEMORY = 4 * 2**30  # bytes of maps that are kept
CHUNK = 16  # films that the network looks at together, whatever the batches are


def map_shapes(teacher: FeatureMaps, image_size: int) -> Shapes:
    """What maps the network gives of a film of this side."""
    device = next(teacher.parameters()).device
    with torch.no_grad():
        maps = teacher(torch.zeros(1, 1, image_size, image_size, device=device))
    return tuple((m.shape[1], m.shape[2], m.shape[3]) for m in maps)


def unpacked(rows: Float[Tensor, "b 1 1 n"], shapes: Shapes) -> list[Float[Tensor, "b c i j"]]:
    """The maps that a batch of MapFilms carries, in the order of `shapes`."""
    parts = torch.split(rows.flatten(1), [math.prod(shape) for shape in shapes], dim=1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def halving_shapes(teacher: FeatureMaps, image_size: int, layers: Sequence[int]) -> Shapes:
    """The maps' shapes. Raises UserError where a map has not half the sides of the one before, or
    the last cannot be halved once more, as a mirrored decoder needs."""
    shapes = map_shapes(teacher, image_size)
    sides = [shape[1] for shape in shapes]
    halve = all(a == 2 * b for a, b in pairwise(sides))
    if not halve or sides[-1] % 2:
        text = ", ".join(map(str, sides))
        raise UserError(
            f"layers {tuple(layers)} of {image_size} pixels have sides {text}; give layers and an "
            "image_size whose maps halve from one to the next, the last of an even side"
        )
    return shapes


def with_epochs(config: TrainConfig, epochs: int, films: int) -> TrainConfig:
    """The training of so many passes over the films; 0 passes: as it is."""
    if not epochs:
        return config
    steps = epochs * -(-films // (config.batch_size * config.accumulate))
    return replace(config, steps=max(1, steps))


def channel_statistics(films: "MapFilms", least: float = 1e-4) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation (at least `least`) of every channel of every map, each (c, 1, 1),
    over all positions of the films whose maps are kept."""
    sums = [torch.zeros(2, shape[0], dtype=torch.float64) for shape in films.shapes]
    for start in range(0, len(films.cached), 64):
        rows = films.cached[start : start + 64].double()
        for total, maps in zip(sums, unpacked(rows, films.shapes), strict=True):
            total += torch.stack([maps.sum((0, 2, 3)), maps.square().sum((0, 2, 3))])
    statistics = []
    for total, (_, high, wide) in zip(sums, films.shapes, strict=True):
        mean, square = total[:, :, None, None] / (len(films.cached) * high * wide)
        spread = (square - mean.square()).clamp_min(0).sqrt().clamp_min(least)
        statistics.append((mean.float(), spread.float()))
    return statistics


class MapFilms:
    """Maps of a frozen network in place of films, as the training loop takes them.

    They are kept in 16 bit, up to 4 GiB of them (50,000 films of 128 pixels at strides 4, 8 and
    16); the films after those are looked at anew each time, and rounded alike.
    """

    def __init__(self, films: Films, teacher: FeatureMaps, job: TrainingRun) -> None:
        """`teacher` looks at the films where it is."""
        self.films, self.teacher, self.stats, self.ids = films, teacher, films.stats, films.ids
        self.size = films.size
        self.shapes = map_shapes(teacher, films.size)
        width = sum(math.prod(shape) for shape in self.shapes)
        keep = min(len(films), MEMORY // (2 * width))
        self.cached = torch.empty(keep, width, dtype=torch.float16)
        # In chunks of the films' own order, so that a resumed run keeps the same numbers.
        starts = range(0, keep, CHUNK)
        for start in track(
            starts, "feature maps", disable=not job.progress, console=Console(stderr=True)
        ):
            rows = range(start, min(start + CHUNK, keep))
            self.cached[start : start + len(rows)] = self._visited(films.batch(rows))

    @torch.no_grad()
    def _visited(self, batch: Batch) -> Float[Tensor, "b n"]:
        device = next(self.teacher.parameters()).device
        maps = self.teacher(batch.image.to(device))
        return torch.cat([m.flatten(1) for m in maps], dim=1).half().cpu()

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These films' maps, where a batch has its image (`unpacked` undoes it), and records."""
        rows = list(indices)
        ehr, known = self.films.ehr_rows(rows)
        ids = tuple(self.ids[i] for i in rows)
        if all(i < len(self.cached) for i in rows):
            maps = self.cached[rows]
        else:
            maps = self._visited(self.films.batch(rows))
        return Batch(maps.float()[:, None, None], ehr, known, ids)
