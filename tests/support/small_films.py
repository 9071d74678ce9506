"""Small chests for the tests of single methods: greys that vary, and a square if one wants it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.types import Exam, Pixels

NO_RECORD = EhrStats.of([], [])


@dataclass(frozen=True)
class Film:
    """A gradient and noise of its own, 48 x 48; `square` = (row, column) of a bright one."""

    seed: int
    square: tuple[int, int] | None = None

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[0:1:48j, 0:1:48j]
        film = 0.3 + 0.2 * y * rng.uniform(0.5, 1.5) + 0.1 * np.sin(6 * x + rng.uniform(0, 1))
        film += 0.02 * rng.standard_normal(film.shape)
        if self.square is not None:
            row, column = self.square
            film[row : row + 10, column : column + 10] = 1.0
        return np.clip(film, 0, 1).astype(np.float32)


def films(seeds: Sequence[int], size: int = 48, square: tuple[int, int] | None = None) -> Films:
    """One film a seed."""
    exams = [
        Exam(image_id=f"f{s}", patient_id=f"p{s}", pixels=Film(s, square), ehr={}) for s in seeds
    ]
    return Films(exams, NO_RECORD, size)
