"""Small DICOM films for the tests, and the ways in which they can be stored."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from nofinding.data.decoding.decode import FilmFile

RAMP = (np.arange(32 * 40, dtype=np.uint16) * 3).reshape(32, 40)  # 0 to 3837: 12 bits
PIXELS = b"\xe0\x7f\x10\x00"  # the tag of the pixels, little endian


def film(pixels: np.ndarray = RAMP, bits: int = 12, **tags: Any) -> Dataset:
    """A small CR film; a tag given as None is left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality = "CR"
    dataset.PatientName = "Somebody^Secret"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = pixels.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def read(folder: Path, dataset: Dataset) -> np.ndarray:
    file = folder / "film.dcm"
    dataset.save_as(file, enforce_file_format=True)
    return FilmFile(file)()


def with_frame(frame: bytes, syntax: str, dataset: Dataset | None = None) -> Dataset:
    """The film with these bytes for its one compressed frame."""
    dataset = film() if dataset is None else dataset
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def in_bytes(dataset: Dataset) -> bytes:
    """The file, whole."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def with_syntax(whole: bytes, syntax: str) -> bytes:
    """The file, saying that it is in another transfer syntax; "": in none."""
    at = whole.index(b"\x02\x00\x10\x00UI")
    end = at + 8 + int.from_bytes(whole[at + 6 : at + 8], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    message = whole[at : at + 6] + struct.pack("<H", len(value)) + value
    return whole[:at] + (message if syntax else b"") + whole[end:]


def plain(dataset: Dataset, syntax: str) -> bytes:
    """The file of an uncompressed film in another order of bytes, without VRs, or deflated."""
    assert syntax in (
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    )
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    words = dataset.BitsAllocated == 16 or dataset["PixelData"].VR == "OW"
    if syntax == ExplicitVRBigEndian and words:  # bytes, too, are swapped where they are OW
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    buffer = io.BytesIO()
    dcmwrite(
        buffer,
        dataset,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return buffer.getvalue()


def sequences(depth: int) -> bytes:
    """So many sequences of content (0040,A730), each the only item of the one before, explicit
    little endian, of undefined length."""
    begin = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    begin += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return begin * depth + end * depth
