"""Which calibration films a film is compared with: one fixed division of all records into cells.

A Mondrian p-value keeps its promise within a cell only where the cells do not overlap and do not
depend on the scores (V. Vovk et al., Algorithmic Learning in a Random World, 2005, section 4.5). A
film that is compared with all others only because its own group is small belongs to no cell, and
has no promise. Here each record has exactly one cell, and small groups share one.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nofinding.evaluation.statistics.conformal import least_n
from nofinding.evaluation.statistics.stratum import ALL, UNKNOWN, Stratum

__all__ = ["LEAST", "Partition"]

LEAST = least_n(0.05)
"""Calibration films that a cell needs: with fewer, nothing in it could have p <= 0.05."""
KEYS = ("view", "sex", "age")  # of the tree in which groups are pooled, from its root
VERSION = 1


@dataclass(frozen=True)
class Partition:
    """Cells of strata, decided by how many calibration films have each record, never by a score."""

    cells: tuple[frozenset[Stratum], ...]
    """The strata of each cell that have calibration films; no stratum is in two."""

    @classmethod
    def of(cls, strata: Sequence[Stratum], least: int = LEAST) -> "Partition":
        """The division for calibration films of these strata.

        Strata with `least` films are cells. Of the same view and sex, those with fewer are pooled;
        where the pool, too, has fewer it joins the smallest cell there, and where there is none it
        is pooled with the small ones of the other sex, and so on to the other view. With fewer
        than `least` films in all there is one cell.
        """
        cells, small = _pooled(Counter(strata), KEYS, least)
        cells = [*cells, small] if small else cells
        return cls(tuple(frozenset(cell) for cell in cells))

    @classmethod
    def from_meta(cls, stored: Mapping[str, Any]) -> "Partition | None":
        """That of a model; None where it stores none: it is older than partitions.

        Raises ValueError, KeyError or TypeError where what is stored is none, or is of a later
        version than this program knows.
        """
        if stored.get("partition") is None:
            return None
        if stored["partition"]["version"] != VERSION:
            raise ValueError("a partition of another version")
        cells = stored["partition"]["cells"]
        if not all(isinstance(text, str) for cell in cells for row in cell for text in row):
            raise TypeError("a stratum is of three texts")
        whole = [Stratum(*row) for cell in cells for row in cell]
        if len(set(whole)) != len(whole):
            raise ValueError("a stratum in two cells")
        return cls(tuple(frozenset(Stratum(*row) for row in cell) for cell in cells))

    def to_json(self) -> dict[str, Any]:
        """What model.json stores of it."""
        return {"version": VERSION, "cells": [sorted(map(list, cell)) for cell in self.cells]}

    @cached_property
    def _place(self) -> dict[Stratum, int]:
        return {stratum: i for i, cell in enumerate(self.cells) for stratum in cell}

    def cell_of(self, stratum: Stratum) -> int | None:
        """The cell of a record; None where no calibration film has such a record."""
        return self._place.get(stratum)

    def like(self, stratum: Stratum) -> tuple[int, ...]:
        """The cells that a film with a record like no calibration film's may be like: those that
        agree with all that is known of it, or else every cell."""
        known = [key for key in KEYS if getattr(stratum, key)]
        agree = [
            i
            for i, cell in enumerate(self.cells)
            if any(all(getattr(s, k) == getattr(stratum, k) for k in known) for s in cell)
        ]
        return tuple(agree) if known and agree else tuple(range(len(self.cells)))

    def name(self, cell: int) -> str:
        """ "sex=F view=PA age=40-59/60+": what the cell's films have; "all" of the only cell."""
        if len(self.cells) == 1:
            return ALL
        return " ".join(
            f"{key}=" + "/".join(sorted({getattr(s, key) or UNKNOWN for s in self.cells[cell]}))
            for key in Stratum._fields
        )


def _pooled(
    films: Mapping[Stratum, int], keys: Sequence[str], least: int
) -> tuple[list[list[Stratum]], list[Stratum]]:
    """The cells among these strata, and those too small to be one, together; one of them is
    empty."""
    if not keys:
        own = list(films)
        return ([own], []) if sum(films.values()) >= least else ([], own)
    by_value: dict[str, dict[Stratum, int]] = defaultdict(dict)
    for stratum, n in films.items():
        by_value[getattr(stratum, keys[0])][stratum] = n
    cells: list[list[Stratum]] = []
    pool: list[Stratum] = []
    for value in sorted(by_value):
        closed, small = _pooled(by_value[value], keys[1:], least)
        cells += closed
        pool += small

    def size(cell: Sequence[Stratum]) -> int:
        return sum(films[stratum] for stratum in cell)

    if pool and size(pool) >= least:
        return [*cells, pool], []
    if pool and cells:
        min(cells, key=lambda cell: (size(cell), sorted(cell))).extend(pool)
        return cells, []
    return cells, pool
