"""Where the findings of a film are: a drawn mask, or boxes in the coordinates of ChestX-ray14.

`boxes.csv` has the columns image, label, x, y, w, h. `image` is the film's file name with the
ending .png, and the numbers count pixels of the original film of 1024 x 1024 (Wang et al.,
CVPR 2017); they are scaled to the film at hand.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nofinding.data.decoding.decode import FilmFile, VolumeFile
from nofinding.datasets.build.column_titles import lacks_column
from nofinding.datasets.build.rows import read_header, read_rows
from nofinding.errors import UserError
from nofinding.types import Lesion, Pixels

__all__ = ["Box", "BoxLesion", "MaskLesion", "read_boxes"]

ORIGINAL = 1024  # pixels, both sides
COLUMNS = ("image", "x", "y", "w", "h")
PNG_HEAD = 2**16  # bytes, in which a PNG says how it is stored
WITH_ALPHA = (4, 6)  # PNG colour types: grey and alpha, RGB and alpha


class Box(NamedTuple):
    """A rectangle on the original film, in its pixels."""

    left: float
    top: float
    wide: float
    high: float
    of_wide: float | None = ORIGINAL
    """Width of the film in whose pixels the box is given; None: of the film at hand."""
    of_high: float | None = ORIGINAL


@dataclass(frozen=True, slots=True)
class BoxLesion:
    """True inside any box of the film: every pixel that a box touches."""

    boxes: tuple[Box, ...]
    film: FilmFile

    def __call__(self) -> Lesion:
        """On the grid of the film's pixels, which are decoded for their number."""
        high, wide = self.film().shape[-2:]
        lesion = np.zeros((high, wide), dtype=np.bool_)
        for box in self.boxes:
            across, down = wide / (box.of_wide or wide), high / (box.of_high or high)
            left, right = box.left * across, (box.left + box.wide) * across
            top, bottom = box.top * down, (box.top + box.high) * down
            rows = slice(max(0, math.floor(top)), max(0, math.ceil(bottom)))
            lesion[rows, max(0, math.floor(left)) : max(0, math.ceil(right))] = True
        return lesion


@dataclass(frozen=True, slots=True)
class MaskLesion:
    """True where the mask's picture is not black, or where the mask's volume is not 0."""

    mask: FilmFile
    film: FilmFile

    def check(self) -> None:
        """Raises UserError, before any work, where the mask is no file that can be one: it is a PNG
        whose values are all there is (or a volume), for JPEG smears its edges into what was black,
        and of transparency nobody knows whether it means the finding or not."""
        self.mask.check()
        if isinstance(self.mask, VolumeFile):
            return
        with self.mask.path.open("rb") as file:
            start = file.read(PNG_HEAD)
        fault = ""
        if start[:8] != b"\x89PNG\r\n\x1a\n":
            fault = "is no PNG; other kinds, JPEG above all, change the values at a mask's edge"
        elif start[25] in WITH_ALPHA or b"tRNS" in start[26 : start.find(b"IDAT")]:
            fault = "has transparency, of which nobody knows what it means"
        if fault:
            raise UserError(f"{self.mask.where}: {self.mask.path} {fault}; save the mask as a grey "
                            "PNG, black (0) but for the finding")  # fmt: skip

    def __call__(self) -> Lesion:
        """Raises UserError where the mask is not as large as the film, or as `check` does."""
        self.check()
        mask, film = self.mask(), self.film()
        if mask.shape != film.shape:
            raise UserError(
                f"{self.mask.where}: {self.mask.path} is {_size(mask)} pixels, its film "
                f"{_size(film)}"
            )
        return np.asarray(mask > 0, dtype=np.bool_)


def _size(pixels: Pixels) -> str:
    return " x ".join(str(side) for side in reversed(pixels.shape))


def read_boxes(file: Path) -> dict[str, tuple[Box, ...]]:
    """The boxes by the film's file name without ending; none where there is no such file.

    Raises UserError for a missing column, or a number that is none or describes no box.
    """
    if not file.exists():
        return {}
    titles = [title.strip().lower() for title in read_header(file)]
    for column in COLUMNS:
        if column not in titles:
            raise UserError(lacks_column(file, column, titles))
    places = [titles.index(column) for column in COLUMNS]
    boxes: dict[str, tuple[Box, ...]] = {}
    for row, cells in read_rows(file):
        image, *texts = (cells[place] for place in places)
        try:
            left, top, wide, high = map(float, texts)
            box = Box(left, top, wide, high)
        except ValueError:
            raise UserError(f"{file}: row {row}: x, y, w and h must be numbers") from None
        if not all(map(math.isfinite, (left, top, wide, high))) or box.wide <= 0 or box.high <= 0:
            raise UserError(f"{file}: row {row}: w and h must be above 0, x and y finite")
        stem = image.strip().removesuffix(".png")
        boxes[stem] = (*boxes.get(stem, ()), box)
    return boxes
