"""One film in every lossless form that DICOM has for it and that can be made here."""

import copy
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from support.dicom_film import in_bytes, plain, with_frame

__all__ = ["forms"]

PLAIN = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
CODED = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}


def forms(dataset: Dataset) -> Iterator[tuple[str, bytes]]:
    """(name, file) of each form. The film is explicit little endian and unsigned, has no table
    and no padding, and its window, if any, is LINEAR."""
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    for name, syntax in PLAIN.items():
        yield name, plain(copy.deepcopy(dataset), syntax)
    if dataset.BitsAllocated == 8:
        for kind in ("OB", "OW"):
            bytewise = copy.deepcopy(dataset)
            bytewise["PixelData"].VR = kind
            yield f"big endian, {kind}", plain(bytewise, ExplicitVRBigEndian)
    for name, syntax in CODED.items():
        coded = copy.deepcopy(dataset)
        coded.compress(syntax, generate_instance_uid=False)
        yield name, in_bytes(coded)
    if find_spec("imagecodecs") is not None:  # pydicom has no encoder of its own
        import imagecodecs

        frame = imagecodecs.htj2k_encode(dataset.pixel_array, reversible=True)
        yield "HTJ2K", in_bytes(with_frame(frame, HTJ2KLossless, copy.deepcopy(dataset)))
    other = inverted(dataset)
    yield "inverted", plain(copy.deepcopy(other), ExplicitVRLittleEndian)
    other.compress(JPEG2000Lossless, generate_instance_uid=False)
    yield "inverted, JPEG 2000", in_bytes(other)
    if dataset.BitsAllocated > dataset.BitsStored:
        yield "high in its words", plain(lifted(dataset), ExplicitVRLittleEndian)
    if dataset.BitsAllocated == 8:
        yield "in 16 bits", plain(widened(dataset), ExplicitVRLittleEndian)


def inverted(dataset: Dataset) -> Dataset:
    """The other one of MONOCHROME1 and MONOCHROME2, with values and window turned round."""
    output = copy.deepcopy(dataset)
    top = 2**output.BitsStored - 1
    output.PixelData = (top - output.pixel_array).astype(output.pixel_array.dtype).tobytes()
    was_first = output.PhotometricInterpretation == "MONOCHROME1"
    output.PhotometricInterpretation = "MONOCHROME2" if was_first else "MONOCHROME1"
    if "WindowCenter" in output:
        output.WindowCenter = (
            top + 1 - float(output.WindowCenter)
        )  # c - 1/2 becomes top - (c - 1/2)
    return output


def lifted(dataset: Dataset) -> Dataset:
    """The values in the highest bits of their words."""
    output = copy.deepcopy(dataset)
    up = output.BitsAllocated - output.BitsStored
    output.PixelData = (output.pixel_array << up).astype(output.pixel_array.dtype).tobytes()
    output.HighBit = output.BitsAllocated - 1
    return output


def widened(dataset: Dataset) -> Dataset:
    """Bytes in words of 16 bits."""
    output = copy.deepcopy(dataset)
    output.PixelData = output.pixel_array.astype(np.uint16).tobytes()
    output.BitsAllocated = 16
    return output
