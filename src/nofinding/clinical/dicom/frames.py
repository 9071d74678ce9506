"""The pixels of a film without what lies beside them: comments in a compressed frame, and bytes
behind the last pixel. No pixel is changed."""

import struct

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame

from nofinding.data.decoding.limits import FilmError

__all__ = ["bare_pixels", "without_comments"]

DAMAGED = "is damaged or cut short"
COMMENTS = {0xFFFE, *range(0xFFE0, 0xFFF0)}  # of JPEG and JPEG-LS: COM, APP0 to APP15
SCAN = 0xFFDA
COM, TILE = 0xFF64, 0xFF90  # of JPEG 2000: COM, SOT
END = b"\xff\xd9"  # of both


def bare_pixels(dataset: Dataset) -> None:
    """Puts in place of a film's pixels the same without anything beside them.

    Raises FilmError where there are fewer than the header says, or a frame is not understood.
    """
    if "PixelData" not in dataset:
        raise FilmError("has no pixels")
    element, syntax = dataset["PixelData"], dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax.is_deflated:
        pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
        count = pixels * int(dataset.BitsAllocated) // 8
        if len(element.value) < count:
            raise FilmError(DAMAGED)
        data = element.value[:count] + b"\0" * (count % 2)
        dataset["PixelData"] = DataElement(element.tag, element.VR, data)
        return
    frame = get_frame(element.value, 0, number_of_frames=1)
    if frame.startswith(b"\xff") or frame[4:8] == b"jP  ":  # not RLE, which has no comments
        frame = without_comments(frame)
    dataset["PixelData"] = DataElement(element.tag, "OB", encapsulate([frame], has_bot=False))
    dataset["PixelData"].is_undefined_length = True


def without_comments(frame: bytes) -> bytes:
    """A JPEG, JPEG-LS or JPEG 2000 frame without comments and application data. Raises FilmError
    where it is none."""
    if frame[4:8] == b"jP  ":  # boxes around the codestream, one of which may hold any text
        frame = _codestream(frame)
    if frame.startswith(b"\xff\x4f\xff\x51"):
        start, dropped, stop = 2, {COM}, TILE
    elif frame.startswith(b"\xff\xd8\xff"):
        start, dropped, stop = 2, COMMENTS, SCAN
    else:
        raise FilmError(DAMAGED)
    pieces, at = [frame[:start]], start
    while at + 4 <= len(frame):
        marker, length = struct.unpack(">HH", frame[at : at + 4])
        if marker == 0xFFFF:  # a fill byte before a marker
            at += 1
            continue
        if marker == stop:
            end = frame.rfind(END)
            if end < at:
                end = len(frame)  # cut short, as some writers leave it; decoders bear it
            return b"".join(pieces) + frame[at:end] + END
        if marker < 0xFF01 or length < 2:
            break
        if marker not in dropped:
            pieces.append(frame[at : at + 2 + length])
        at += 2 + length
    raise FilmError(DAMAGED)


def _codestream(boxes: bytes) -> bytes:
    """The codestream in a JP2 file."""
    at = 0
    while at + 8 <= len(boxes):
        length, kind = struct.unpack(">I4s", boxes[at : at + 8])
        head = 8
        if length == 1 and at + 16 <= len(boxes):
            (length,), head = struct.unpack(">Q", boxes[at + 8 : at + 16]), 16
        if kind == b"jp2c":
            return boxes[at + head : at + length if length else len(boxes)]
        if length < head:
            break
        at += length
    raise FilmError(DAMAGED)
