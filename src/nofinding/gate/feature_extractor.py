"""What the gate sees of a film: features of a frozen network, and four plain measures."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import EhrStats
from nofinding.nets.backbone import film_to_rgb, load_efficientnet_lite0, width
from nofinding.types import Exam

__all__ = [
    "CHANNELS",
    "SIZE",
    "FeatureExtractor",
    "Look",
    "gate_films",
    "neighbour_correlation",
    "plain_measures",
]

SIZE = 112
"""Side of the film as the gate sees it, whatever the size that the model takes."""
BLOCK = 10  # of EfficientNet-Lite0: late enough to know shapes, early enough not to name things
LAST = 15  # knows what photographs, slices and limbs have that chests have not
GRID = 4  # the block's map is averaged over 4 x 4 fields, so that up and down can be told
CHANNELS = width(BLOCK)
BATCH = 64


class Look(NamedTuple):
    """What is seen of each film."""

    grid: Float[Tensor, "n d"]  # means over the 4 x 4 fields of each channel
    pooled: Float[Tensor, "n c"]  # means over all of the film: CHANNELS of BLOCK, then of LAST
    plain: Float[Tensor, "n 4"]  # brightness, contrast, sharpness, noise
    correlation: Float[Tensor, " n"]  # of neighbouring pixels

    def of(self, rows: slice | Sequence[int]) -> "Look":
        """The same of some films."""
        return Look(*(part[rows] for part in self))


def gate_films(exams: Sequence[Exam], cache: FilmCache | None) -> Films:
    """The films as the gate takes them: SIZE pixels, in proportion, without their record."""
    return Films(exams, EhrStats.of([], []), SIZE, "pad", cache)


class FeatureExtractor:
    """The frozen network. Loaded once for all films."""

    def __init__(self) -> None:
        self.net = load_efficientnet_lite0()

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "n 1 s s"]) -> Look:
        """Looks at films in [-1, 1]."""
        grids = [torch.empty(0, CHANNELS * GRID**2)]
        pooled = [torch.empty(0, CHANNELS + width(LAST))]
        for start in range(0, len(image), BATCH):
            rgb = film_to_rgb(image[start : start + BATCH]).contiguous(
                memory_format=torch.channels_last
            )
            features = self.net.features(rgb, (BLOCK, LAST))
            grids.append(F.adaptive_avg_pool2d(features[BLOCK], GRID).flatten(1))
            pooled.append(torch.cat([features[b].mean(dim=(2, 3)) for b in (BLOCK, LAST)], dim=1))
        grey = (image + 1) / 2
        return Look(
            torch.cat(grids), torch.cat(pooled), plain_measures(grey), neighbour_correlation(grey)
        )

    def films(self, films: Films, progress: Callable[[range], Sequence[int]] | None = None) -> Look:
        """Looks at all of `films`, some at a time."""
        starts = range(0, max(len(films), 1), BATCH)  # no films: one empty batch
        features = [
            self(films.batch(range(start, min(start + BATCH, len(films)))).image)
            for start in (starts if progress is None else progress(starts))
        ]
        return Look(*(torch.cat(part) for part in zip(*features, strict=True)))


def plain_measures(grey: Float[Tensor, "n 1 s s"]) -> Float[Tensor, "n 4"]:
    """Brightness (mean), contrast (deviation), sharpness and noise of films in [0, 1].

    Sharpness is the mean |Laplacian| in units of the contrast; noise the median absolute
    difference of diagonal neighbours' differences, which edges hardly move.
    """
    film = grey[:, 0]
    inner = film[:, 1:-1, 1:-1]
    around = film[:, :-2, 1:-1] + film[:, 2:, 1:-1] + film[:, 1:-1, :-2] + film[:, 1:-1, 2:]
    corner = film[:, :-1, :-1] - film[:, 1:, :-1] - film[:, :-1, 1:] + film[:, 1:, 1:]
    mean = film.mean(dim=(1, 2))
    contrast = (film - mean[:, None, None]).square().mean(dim=(1, 2)).sqrt()
    sharpness = (around - 4 * inner).abs().flatten(1).mean(dim=1) / (contrast + 1e-3)
    noise = corner.abs().flatten(1).median(dim=1).values
    return torch.stack([mean, contrast, sharpness, noise], dim=1)


def neighbour_correlation(grey: Float[Tensor, "n 1 s s"]) -> Float[Tensor, " n"]:
    """Correlation of each pixel with the one to its right and the one below: 0 is pure noise."""
    film = grey[:, 0] - grey[:, 0].mean(dim=(1, 2), keepdim=True)
    across = (film[:, :, 1:] * film[:, :, :-1]).mean(dim=(1, 2))
    down = (film[:, 1:] * film[:, :-1]).mean(dim=(1, 2))
    return (across + down) / (2 * film.square().mean(dim=(1, 2)) + 1e-12)
