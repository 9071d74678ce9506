"""The films that a job takes, in the order of their image_id, made one at a time."""

import hashlib
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt64

from nofinding.data.decoding.decode import FilmFile
from nofinding.datasets.protocol import ExamSequence
from nofinding.errors import UserError
from nofinding.types import Exam

if TYPE_CHECKING:  # a single film needs no table
    import pyarrow as pa

__all__ = ["Selection", "mark_of"]

UNFIT = frozenset('/\\\0"')  # characters that an image_id may not have: it names files
CHUNK = 65_536  # ids that are gathered at once
WHOLE = 2**256


class Selection(ExamSequence):
    """Some of the records, sorted by image_id. Holds a number for each, and no record."""

    def __init__(self, exams: Sequence[Exam], split: str | None = None) -> None:
        """Those of `split`, or all. Looks at each once, and decodes none.

        Raises UserError where an image_id cannot name a file, or none is left.
        """
        self._exams = exams
        total, rows, ids = 0, array("Q"), _Ids()
        for row, exam in enumerate(exams):
            if split is not None and exam.split != split:
                continue
            _require_fit(exam.image_id)
            total += int.from_bytes(hashlib.sha256(_statement(exam)).digest())
            rows.append(row)
            ids.append(exam.image_id)
        order = ids.order()
        self._rows = np.frombuffer(rows, dtype=np.uint64)[order] if rows else np.empty(0, np.uint64)
        self.fingerprint = f"{len(rows)}:{total % WHOLE:064x}"
        """Of who they are and what is known of them, whatever their order; not of the pixels."""

    def __len__(self) -> int:
        return len(self._rows)

    def exam(self, index: int) -> Exam:
        """The film of that place in the order."""
        return self._exams[int(self._rows[index])]


class _Ids:
    """Many image_ids: those that are a chunk are held as Arrow, in an eighth of the memory."""

    def __init__(self) -> None:
        self.chunks: list[pa.LargeStringArray] = []
        self.open: list[str] = []

    def append(self, image_id: str) -> None:
        """Takes one more."""
        self.open.append(image_id)
        if len(self.open) == CHUNK:
            self._close()

    def order(self) -> UInt64[np.ndarray, " n"]:
        """Their places, sorted by text."""
        if not self.chunks:
            places = sorted(range(len(self.open)), key=self.open.__getitem__)
            return np.array(places, dtype=np.uint64)
        import pyarrow as pa
        import pyarrow.compute as pc

        self._close()
        return _plain(pc.sort_indices(pa.chunked_array(self.chunks)))  # UTF-8 sorts as text does

    def _close(self) -> None:
        import pyarrow as pa

        self.chunks.append(pa.array(self.open, pa.large_string()))
        self.open = []


def _plain(order: "pa.UInt64Array") -> UInt64[np.ndarray, " n"]:
    """The numbers themselves: `to_numpy` imports pandas, which takes half a second."""
    numbers = np.frombuffer(order.buffers()[1], dtype=np.uint64)
    return numbers[order.offset : order.offset + len(order)]


def _require_fit(image_id: str) -> None:
    if UNFIT & set(image_id) or image_id in ("", ".", ".."):
        raise UserError(
            f'image_id {image_id!r} cannot name a file; allowed is anything without / \\ " and NUL'
        )


def _statement(exam: Exam) -> bytes:
    """All that a score can come from but the bytes of a file, for which there is `mark_of`."""
    pixels = exam.pixels
    simulated = "" if isinstance(pixels, FilmFile) else repr(pixels)
    identity = (exam.image_id, exam.patient_id, sorted(exam.ehr.items()), exam.flags, simulated)
    return repr(identity).encode()


def mark_of(exam: Exam) -> str:
    """Size and time of change of the film's file; "" where it has none, or it is gone."""
    if not isinstance(exam.pixels, FilmFile):
        return ""
    try:
        status = exam.pixels.path.stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"
