"""The picture of one chest film from a DICOM file. Runs in the decoder's child process only.

What is shown is what a viewer would show: rescale, VOI LUT or the first window, and inversion
for MONOCHROME1 or an INVERSE presentation shape. Where the file brings no window, the range is
that between two percentiles (`image.from_stored`). One picture has one outcome in every lossless
form: the bits above BitsStored are cleared, or are the sign, whatever the transfer syntax.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRBigEndian

from nofinding.data.decoding.codestream import NATIVE, check_frame
from nofinding.data.decoding.element_values import Elements
from nofinding.data.decoding.elements import elements_of
from nofinding.data.decoding.limits import FilmError, check_size
from nofinding.data.image import Window, from_stored
from nofinding.data.lookup import Table, looked_up, read_table

__all__ = ["BEYOND", "ENTRIES", "check_pixels", "picture"]

ENTRIES = ("Rows", "Columns", "NumberOfFrames", "PhotometricInterpretation", "SamplesPerPixel",
           "BitsAllocated", "BitsStored")  # fmt: skip
BEYOND = "film: some values lie beyond the bits that its header says are stored; those bits are cut"
UNSIGNED = "film: its header does not say whether values are signed, unsigned is assumed"
ROWS = 512  # that are worked on at once, so that the largest film fits into the child's memory


class _Stored(NamedTuple):
    """What the detector stored, and what is to be said of it."""

    values: Integer[np.ndarray, "h w"]
    padding: Bool[np.ndarray, "h w"] | None
    flags: tuple[str, ...]


def check_pixels(elements: Elements) -> None:
    """That there is one frame, of a kind and size that is decoded."""
    if elements.value("Rows") is None or elements.value("Columns") is None:
        raise FilmError("has no pixels")
    check_size(elements.needed("Columns"), elements.needed("Rows"))
    if elements.needed("NumberOfFrames", 1) not in (0, 1):
        raise FilmError("has more than one frame")
    if elements.text("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise FilmError("is not MONOCHROME1 or MONOCHROME2")
    if elements.needed("SamplesPerPixel", 1) not in (0, 1):
        raise FilmError("has more than one sample a pixel")
    allocated, bits = elements.needed("BitsAllocated"), elements.needed("BitsStored")
    if allocated not in (8, 16) or not 8 <= bits <= allocated:
        raise FilmError(f"stores {bits} of {allocated} bits a pixel; 8 to 16 are read")


def picture(path: Path, head: Dataset) -> tuple[Float[np.ndarray, "h w"], tuple[str, ...]]:
    """float32 in [0, 1], dense tissue bright, and flags for what the header says and cannot be
    used. `head` is the header, without the pixels.

    Raises FilmError where there is not one frame of a size and depth that is decoded.
    """
    check_pixels(Elements(head))
    dataset = elements_of(path, int(head.Rows) * int(head.Columns))
    elements = Elements(dataset)
    check_pixels(elements)
    stored = _stored(elements)
    slope, intercept = _rescale(elements)
    values, modality = stored.values, _modality_table(elements)
    if modality is not None:
        values, slope, intercept = looked_up(values, modality), 1.0, 0.0
    window, table = _window(elements), _voi_table(elements, slope, intercept)
    if table is not None:
        values, slope, intercept = looked_up(values, table, slope, intercept), 1.0, 0.0
        window = Window(table.white / 2, table.white, "LINEAR_EXACT")
    # MONOCHROME1 and INVERSE state the same inversion twice (PS3.3 C.8.11.3.1.2): never both
    inverse = elements.text("PresentationLUTShape").upper() == "INVERSE"
    inverted = elements.text("PhotometricInterpretation") == "MONOCHROME1" or inverse
    bright = from_stored(
        values, slope=slope, intercept=intercept, voi=window, inverted=inverted,
        padding=stored.padding,
    )  # fmt: skip
    return bright, (*elements.flags, *stored.flags)


def _rescale(elements: Elements) -> tuple[float, float]:
    """Slope and intercept. A slope of 0 would turn every film black, and counts as absent."""
    slope, intercept = elements.number("RescaleSlope"), elements.number("RescaleIntercept")
    if slope == 0:
        elements.unreadable["RescaleSlope"] = None
        slope = None
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def _signed(elements: Elements) -> bool:
    return elements.needed("PixelRepresentation", 0) == 1


def _modality_table(elements: Elements) -> Table | None:
    """The modality table, where there is one. Raises FilmError where it is damaged: without it
    the values mean something else."""
    items = elements.items("ModalityLUTSequence")
    if not items:
        return None
    table = read_table(items[0], signed=_signed(elements), little_endian=_is_little(elements))
    if table is None:
        raise FilmError("has a damaged ModalityLUTSequence")
    return table


def _voi_table(elements: Elements, slope: float, intercept: float) -> Table | None:
    """The first VOI table that is one; those that are not count as absent, with a flag."""
    signed = _signed(elements) or intercept < 0 or slope < 0
    for item in elements.items("VOILUTSequence"):
        table = read_table(item, signed=signed, little_endian=_is_little(elements))
        if table is not None:
            return table
        elements.unreadable["VOILUTSequence"] = None
    return None


def _is_little(elements: Elements) -> bool:
    return bool(elements.dataset.file_meta.get("TransferSyntaxUID") != ExplicitVRBigEndian)


def _window(elements: Elements) -> Window | None:
    """The first window; None where there is no valid one."""
    function = elements.text("VOILUTFunction").upper() or "LINEAR"
    centre, width = elements.number("WindowCenter"), elements.number("WindowWidth")
    if centre is None or width is None or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    valid = width >= 1 if function == "LINEAR" else width > 0
    return Window(centre, width, function) if valid else None


def _stored(elements: Elements) -> _Stored:
    """The stored values and the padding among them.

    The words are read as they are and cut here, alike for every transfer syntax: pydicom does so
    for some. Values that lie higher in their words than the standard has it today (PS3.5 8.1.1)
    are taken down.
    """
    bits, allocated = elements.needed("BitsStored"), elements.needed("BitsAllocated")
    top = elements.needed("HighBit", bits - 1) + 1
    if not bits <= top <= allocated:
        raise FilmError("has its values at an impossible place in their words")
    flags = () if elements.value("PixelRepresentation") is not None else (UNSIGNED,)
    words = _words(elements, allocated)
    signed, pads = _signed(elements), _pads(elements)
    if not signed and not int(words.max()) >> top:  # as nearly every film: nothing to cut
        plain = words >> (top - bits) if top > bits else words
        padding = None if pads is None else _within(plain, pads) | _within(words, pads)
        return _Stored(plain, padding, flags)
    values = np.empty(words.shape, np.int16 if signed else words.dtype)
    padding = None if pads is None else np.zeros(words.shape, np.bool_)
    beyond = False
    for start in range(0, len(words), ROWS):
        rows = slice(start, start + ROWS)
        whole = words[rows].astype(np.int32)
        values[rows] = part = _cut(whole, bits, top, signed)
        above = whole >> top
        odd = above != 0
        if signed:  # above a value stand copies of its sign, or nothing
            odd &= (above != (1 << (allocated - top)) - 1) | (part >= 0)
        if padding is not None and pads is not None:
            own = whole - ((whole >> (allocated - 1)) << allocated) if pads[0] < 0 else whole
            padding[rows] = _within(own, pads) | _within(part, pads)
            odd &= ~padding[rows]
        beyond = beyond or bool(odd.any())
    return _Stored(values, padding, (*flags, BEYOND) if beyond else flags)


def _cut(
    words: Integer[np.ndarray, "h w"], bits: int, top: int, signed: bool
) -> Integer[np.ndarray, "h w"]:
    """The `bits` bits below `top`, of which the first may be the sign."""
    values = words >> (top - bits) & ((1 << bits) - 1)
    return values - (values >> (bits - 1) << bits) if signed else values


def _words(elements: Elements, allocated: int) -> Integer[np.ndarray, "h w"]:
    """The words of the frame, unsigned, none of their bits cleared. A compressed frame must be
    what the header says: decoders believe the frame."""
    dataset = elements.dataset
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if not syntax:
        raise FilmError("does not say how its pixels are stored")
    if "PixelData" not in dataset:
        raise FilmError("has no pixels")
    wide, high = elements.needed("Columns"), elements.needed("Rows")
    depth, signed = allocated, False
    if syntax not in NATIVE:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        message = check_frame(syntax, frame, wide, high, allocated)
        depth, signed = message.bits, message.signed
    dataset.SamplesPerPixel, dataset.NumberOfFrames = 1, 1
    dataset.BitsStored, dataset.HighBit = depth, depth - 1
    dataset.PixelRepresentation, remaining = int(signed), dataset.get("PixelRepresentation")
    words = dataset.pixel_array
    if words.shape != (high, wide):
        raise FilmError("has pixels that do not fit its rows and columns")
    dataset.PixelRepresentation = 0 if remaining is None else remaining
    dataset._pixel_array, dataset.PixelData = None, b""  # the largest film leaves no room for both
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    plain: np.ndarray[Any, Any] = words.view(np.uint16 if words.itemsize == 2 else np.uint8)
    return plain & ((1 << depth) - 1) if signed else plain


def _pads(elements: Elements) -> tuple[int, int] | None:
    """The lowest and the highest value that is padding, which is background whatever its value
    (PS3.3 C.7.5.1.1.2)."""
    one, other = elements.number("PixelPaddingValue"), elements.number("PixelPaddingRangeLimit")
    if one is None:
        return None
    other = one if other is None else other
    return int(min(one, other)), int(max(one, other))


def _within(values: Integer[np.ndarray, "h w"], bounds: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    return (values >= bounds[0]) & (values <= bounds[1])
