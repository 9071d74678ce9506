"""What a model keeps of the films it was fitted on, to recognise altered copies of them.

A sketch is no picture: of each cell where lungs usually are, whether the film shows it, and the
sign of its edge; 250 bytes a film. It is coarser than a signature, knows no crop, and does without
the films.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nofinding.data.duplicates import edges_of
from nofinding.data.signatures import Signatures, common_to_chests

__all__ = ["MOST", "Sketches"]

MOST = 100_000  # films of a model, or 25 MB; further ones are not kept
ROWS = 512  # films compared at once
FEWEST_SHARED = 60  # cells that are film in both
SIGNS = 0.7  # of the shared cells, agreeing less disagreeing: benchmarks/results/twins.md


@dataclass(frozen=True, slots=True)
class Sketches:
    """The sketches of some films, by their number; a bit a cell."""

    positive: UInt8[Tensor, "n b"]
    """1 where the edge is above 0."""
    shown: UInt8[Tensor, "n b"]
    """1 where the film shows the cell and its neighbours."""

    def __len__(self) -> int:
        return len(self.shown)

    @classmethod
    @torch.no_grad()
    def of(cls, films: Signatures) -> Self:
        """Of films by their signatures."""
        parts = list[Self]()
        for start in range(0, max(len(films), 1), ROWS):
            strength, within = edges_of(films.film[start : start + ROWS])[0]
            parts.append(cls(_packed(strength > 0), _packed(within > 0)))
        return cls.joined(parts)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of each part, one after the other."""
        return cls(*(torch.cat([getattr(p, name) for p in parts]) for name in cls.__slots__))

    @torch.no_grad()
    def twin_of_each(self, films: Signatures) -> list[int | None]:
        """For each film the number of one that it is an altered copy of, or None."""
        if not len(self) or not len(films):
            return [None] * len(films)
        agreement = torch.zeros(len(films), len(self))
        for strength, within in edges_of(films.film):
            sign = strength.sign() * within
            for start in range(0, len(self), ROWS):
                part = slice(start, start + ROWS)
                shown = _unpacked(self.shown[part], within.shape[1])
                known = (2 * _unpacked(self.positive[part], within.shape[1]) - 1) * shown
                shared = within @ shown.T
                own = (sign @ known.T).abs() / shared.clamp_min(1) * (shared >= FEWEST_SHARED)
                agreement[:, part] = torch.maximum(agreement[:, part], own)
        value, number = agreement.max(dim=1)
        pairs = zip(value.tolist(), number.tolist(), strict=True)
        return [place if most >= SIGNS else None for most, place in pairs]

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be stored."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_tensors(cls, stored: Mapping[str, Tensor]) -> Self:
        """What `tensors` gave. Raises KeyError or ValueError where it is something else."""
        width = -(-int((common_to_chests()[0] > 0).sum()) // 8)
        own = cls(*(stored[name] for name in cls.__slots__))
        for tensor in (own.positive, own.shown):
            if tuple(tensor.shape) != (len(own), width) or tensor.dtype != torch.uint8:
                raise ValueError("sketches of another kind")
        return own


def _packed(bits: Tensor) -> UInt8[Tensor, "n b"]:
    return torch.from_numpy(np.packbits(bits.numpy(), axis=1))


def _unpacked(packed: UInt8[Tensor, "n b"], cells: int) -> Float[Tensor, "n c"]:
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=1, count=cells)).float()
