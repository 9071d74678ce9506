"""Records as a method may see them: prepared films and encoded records, without a label."""

import copy
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt16
from torch import Tensor

from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import EhrStats
from nofinding.data.image import Aspect, OtherDimensionsError, fit
from nofinding.errors import UserError
from nofinding.types import Batch, Exam

__all__ = ["Films", "Joined"]

MEMORY = 2 * 2**30  # bytes of prepared films that are kept, where decoding them anew is dear
CACHED = 128 * 2**20  # the same, where there is a cache to read them from


class Films:
    """Films by their number, as batches on the CPU. What was decoded once is kept in memory.

    Up to 128 MiB of prepared films are kept (1,024 at 256 pixels), and the films after those come
    from the cache; where there is none, up to 2 GiB are, and the others are decoded again.
    Findings, splits and lesions of the records cannot be reached from here. With `dimensions` 3
    they are volumes, as cubes.
    """

    dimensions: int = 2

    def __init__(
        self,
        exams: Sequence[Exam],
        stats: EhrStats,
        size: int,
        aspect: Aspect = "pad",
        cache: FilmCache | None = None,
        dimensions: int = 2,
    ) -> None:
        self.ids = tuple(exam.image_id for exam in exams)
        self.stats = stats
        self.size = size
        self.aspect = aspect
        self.dimensions = dimensions
        self._cache = cache
        self._pixels = [exam.pixels for exam in exams]
        columns = [stats.encode(exam.ehr) for exam in exams]
        shape = (len(exams), len(stats.fields))
        self._ehr = torch.from_numpy(np.array([c[0] for c in columns], np.float32).reshape(shape))
        self._known = torch.from_numpy(np.array([c[1] for c in columns], np.bool_).reshape(shape))
        most = MEMORY if cache is None else CACHED
        keep = min(len(exams), most // (2 * size**dimensions))
        self._cached = np.empty(
            (keep, *self._grid), dtype=np.uint16
        )  # pages are taken when written
        self._has = np.zeros(keep, dtype=np.bool_)
        self._places: Sequence[int] = range(len(exams))  # of the films, among the kept ones

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def _grid(self) -> tuple[int, ...]:
        return (self.size,) * self.dimensions

    def part(self, indices: Sequence[int]) -> "Films":
        """These films alone, in this order. What is decoded is kept once, for both."""
        rows = list(indices)
        part = copy.copy(self)
        part.ids = tuple(self.ids[row] for row in rows)
        part._pixels = [self._pixels[row] for row in rows]
        part._ehr, part._known = self._ehr[rows], self._known[rows]
        part._places = [self._places[row] for row in rows]
        return part

    def _film(self, index: int) -> UInt16[np.ndarray, "*s"]:
        index = range(len(self))[index]  # an IndexError for a film that is not there
        place = self._places[index]
        if place < len(self._has) and self._has[place]:
            cached: UInt16[np.ndarray, "*s"] = self._cached[place]
            return cached
        film = self._prepared(index)
        if place < len(self._has):
            self._cached[place], self._has[place] = film, True
        return film

    def _prepared(self, index: int) -> UInt16[np.ndarray, "*s"]:
        pixels, how = self._pixels[index], (self.size, self.aspect, self.dimensions)
        try:
            if self._cache is not None:
                return self._cache.get(pixels, *how)
            return fit(pixels(), self.size, self.dimensions, self.aspect)
        except OtherDimensionsError as error:
            kind = "films" if self.dimensions == 2 else "volumes"
            raise UserError(
                f"image_id {self.ids[index]!r}: {error}; the method as configured takes {kind}"
            ) from None

    def prepare(self, index: int) -> None:
        """Decodes a film now, and keeps it. Raises UserError where that cannot be done."""
        self._film(index)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These films in this order: image in [-1, 1], the record as `EhrStats.encode` gives it.

        Raises UserError where a film cannot be decoded.
        """
        rows = list(indices)
        films = np.zeros((len(rows), 1, *self._grid), dtype=np.float32)
        for row, index in enumerate(rows):
            films[row, 0] = self._film(index)
        image = torch.from_numpy(films).div_(65535).mul_(2).sub_(1)
        ids = tuple(self.ids[index] for index in rows)
        return Batch(image=image, ehr=self._ehr[rows], known=self._known[rows], ids=ids)

    def ehr_rows(self, indices: Sequence[int]) -> tuple[Float[Tensor, "b f"], Bool[Tensor, "b f"]]:
        """The records alone, as in a batch: values, and which are known. Decodes no film."""
        rows = list(indices)
        return self._ehr[rows], self._known[rows]

    def pixel_hash(self, index: int) -> str:
        """The first 16 hex digits of the prepared film's SHA-256: equal films, equal hashes."""
        film = np.ascontiguousarray(self._film(index), dtype="<u2")
        return hashlib.sha256(film.tobytes()).hexdigest()[:16]


class Joined(Films):
    """Several sets of films one after the other, as one. Decodes and keeps nothing twice."""

    def __init__(self, *parts: Films) -> None:
        """Raises ValueError where they differ in size, aspect or record."""
        first = parts[0]
        for part in parts[1:]:
            if (part.size, part.aspect, part.stats) != (first.size, first.aspect, first.stats):
                raise ValueError(
                    f"films of {part.size} pixels ({part.aspect}) cannot join films of "
                    f"{first.size} ({first.aspect}), nor ones of another record"
                )
        self.ids = tuple(image_id for part in parts for image_id in part.ids)
        self.stats, self.size, self.aspect = first.stats, first.size, first.aspect
        self._parts = parts
        self._ehr = torch.cat([part._ehr for part in parts])
        self._known = torch.cat([part._known for part in parts])

    def _film(self, index: int) -> UInt16[np.ndarray, "s s"]:
        index = range(len(self))[index]
        for part in self._parts:
            if index < len(part):
                return part._film(index)
            index -= len(part)
        raise AssertionError("unreachable: the parts are as long as the whole")
