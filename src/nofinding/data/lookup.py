"""Lookup tables of a DICOM film (PS3.3 C.11.1.1): modality tables and VOI tables."""

from typing import Any

import numpy as np
from jaxtyping import Integer
from pydicom import Dataset

from nofinding.data.decoding.element_values import Elements

__all__ = ["Table", "looked_up", "read_table"]

ROWS = 512  # that are looked up at once
ENTRIES = 65_536  # at most, and what a descriptor of 0 stands for


class Table:
    """A table: its entries, and the value that the first of them is for."""

    def __init__(self, entries: Integer[np.ndarray, " n"], first: int) -> None:
        self.entries, self.first = entries, first

    @property
    def white(self) -> int:
        """The largest entry. What the descriptor declares is often not reached: a table of 12 bits
        may be called one of 16."""
        return int(self.entries.max())


def read_table(item: Dataset, *, signed: bool, little_endian: bool = True) -> Table | None:
    """The table of an item; None where it is empty, cut short or has no descriptor.

    `signed` says whether the values looked up are: then a first value written as unsigned (63488)
    is the negative one (-2048). Entries are unsigned, also where they were written as signed.
    """
    elements = Elements(item)
    descriptor = elements.numbers("LUTDescriptor")
    data = elements.value("LUTData")
    if len(descriptor) != 3 or data is None:
        return None
    count = int(descriptor[0]) & 0xFFFF or ENTRIES
    first = int(descriptor[1])
    if signed and first >= 0x8000:
        first -= 0x10000
    entries = _entries(data, count, little_endian)
    if entries is None or len(entries) < count or entries[:count].max() == 0:
        return None
    return Table(entries[:count], first)


def _entries(data: Any, count: int, little_endian: bool) -> Integer[np.ndarray, " n"] | None:
    """Unsigned entries of 8 or 16 bits."""
    if isinstance(data, bytes):
        narrow = len(data) <= count + 1
        kind = np.uint8 if narrow else "<u2" if little_endian else ">u2"
        return np.frombuffer(data[: len(data) // 2 * 2] if not narrow else data, dtype=kind)
    try:
        many = np.atleast_1d(np.asarray(data, dtype=np.int64))
    except (TypeError, ValueError, OverflowError):
        return None
    if many.min(initial=0) < -0x8000 or many.max(initial=0) > 0xFFFF:
        return None
    return (many & 0xFFFF).astype(np.uint16)


def looked_up(
    values: Integer[np.ndarray, "h w"], table: Table, slope: float = 1.0, intercept: float = 0.0
) -> Integer[np.ndarray, "h w"]:
    """The rescaled values through the table: those below it take its first entry, those above its
    last."""
    out = np.empty(values.shape, table.entries.dtype)
    for start in range(0, len(values), ROWS):
        part = values[start : start + ROWS]
        if (slope, intercept) != (1.0, 0.0):
            part = np.rint(part * np.float32(slope) + np.float32(intercept))
        index = np.clip(part.astype(np.int32) - table.first, 0, len(table.entries) - 1)
        out[start : start + ROWS] = table.entries[index]
    return out
