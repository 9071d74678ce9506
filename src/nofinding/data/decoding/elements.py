"""The elements of a DICOM file, inflated under a cap where they are deflated.

pydicom inflates whatever there is: a megabyte becomes gigabytes before the first element is read.
Here as much is inflated as a header or a film may take, and no more.
"""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from nofinding.data.decoding.limits import FilmError

__all__ = ["elements_of", "header_of"]

HEADER = 2**24  # bytes before the pixels, inflated
PIECE = 2**16
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # of floats, of doubles, of integers


def header_of(path: Path, only: Sequence[str] = ()) -> FileDataset:
    """All elements before the pixels, or those of some keywords. Raises FilmError where they are
    deflated and there are more of them than a film has; what pydicom raises where it is damaged."""
    deflated = _deflated(path)
    if deflated is None:
        return dcmread(path, stop_before_pixels=True, specific_tags=[*only] or None)
    return _inflated(*deflated, HEADER, [Tag(keyword) for keyword in only])


def elements_of(path: Path, pixels: int) -> FileDataset:
    """All elements, with so many pixels as the header promises. Raises as `header_of`."""
    deflated = _deflated(path)
    return dcmread(path) if deflated is None else _inflated(*deflated, HEADER + 2 * pixels, None)


def _deflated(path: Path) -> tuple[Path, int, FileMetaDataset] | None:
    """The file, where its deflated elements begin, and those before them; None where it has
    none."""
    with path.open("rb") as file:
        file.seek(132)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return None
        return path, file.tell(), FileMetaDataset(meta)


def _inflated(
    path: Path, start: int, meta: FileMetaDataset, most: int, only: list[BaseTag | int] | None
) -> FileDataset:
    """As `dcmread` would give it, and as if it had never been deflated. `only` is None where the
    pixels are wanted, too."""
    with path.open("rb") as file:
        file.seek(start)
        plain, whole = _inflate(file, most)
    reached = False

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal reached
        reached = reached or tag in PIXELS
        return reached and only is not None

    try:
        elements: Any = read_dataset(
            io.BytesIO(plain), False, True, stop_when=at_pixels, specific_tags=only or None
        )
    except EOFError:
        elements = Dataset()
    if not whole and (only is None or not reached):
        raise FilmError("becomes larger than a film when it is inflated")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    inflated = FileDataset(str(path), elements, bytes(128), meta, False, True)
    inflated.set_original_encoding(False, True, elements._character_set)
    return inflated


def _inflate(file: BinaryIO, most: int) -> tuple[bytes, bool]:
    """At most so many bytes, and whether that is all there is."""
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = bytearray()
    while not machine.eof:
        piece = machine.unconsumed_tail or file.read(PIECE)
        if not piece:
            break
        plain += machine.decompress(piece, most + 1 - len(plain))
        if len(plain) > most:
            return bytes(plain[:most]), False
    return bytes(plain), True
