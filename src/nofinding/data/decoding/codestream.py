"""What a compressed frame says of itself, read before a decoder sees it.

Decoders believe the frame and not the header: a JPEG 2000 frame of a kilobyte may ask for
gigabytes, and one of another size than the film's is decoded into a picture that is wrong. So
size, components and depth are read here, from a few bytes, and must be the header's.
"""

import struct
from typing import NamedTuple

from nofinding.data.decoding.limits import FilmError

__all__ = ["NATIVE", "Told", "check_frame"]

NATIVE = frozenset(
    [
        "1.2.840.10008.1.2",  # implicit VR, little endian
        "1.2.840.10008.1.2.1",  # explicit VR, little endian
        "1.2.840.10008.1.2.2",  # explicit VR, big endian
    ]
)
RLE = "1.2.840.10008.1.2.5"
JPEG = frozenset(  # baseline, extended, two lossless ones, JPEG-LS lossless and near-lossless
    f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81)
)
JPEG_2000 = frozenset(  # and high-throughput JPEG 2000
    f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)
)
# start-of-frame markers of JPEG (not the tables DHT, JPG, DAC in between) and of JPEG-LS
SIZED = ({*range(0xFFC0, 0xFFD0)} - {0xFFC4, 0xFFC8, 0xFFCC}) | {0xFFF7}
HIERARCHICAL = 0xFFDE  # a size for several frames, which DICOM does not have
BOXED = b"\0\0\0\x0cjP  \r\n\x87\n"  # a JPEG 2000 file, of which the codestream is a part
START = b"\xff\x4f\xff\x51"  # of a codestream, and the size of its image
UNKNOWN = "is compressed in a way that is not read"
RUN = 64  # bytes that a byte of RLE may become: two say 128


class Told(NamedTuple):
    """What a frame says of itself."""

    wide: int
    high: int
    components: int
    bits: int
    signed: bool = False


def check_frame(syntax: str, frame: bytes, wide: int, high: int, allocated: int) -> Told:
    """What a frame in this transfer syntax says of itself; of RLE, which says nothing, words.

    Raises FilmError where it is not one grey picture of `wide` x `high` pixels in `allocated`
    bits, also for a syntax that is not read.
    """
    if syntax == RLE:
        _check_runs(frame, wide * high, allocated // 8)
        return Told(wide, high, 1, allocated)
    if syntax in JPEG:
        header = _in_jpeg(frame)
    elif syntax in JPEG_2000:
        header = _in_jpeg_2000(frame)
    else:
        raise FilmError(UNKNOWN)
    if (header.wide, header.high) != (wide, high):
        raise FilmError("has pixels that do not fit its rows and columns")
    if header.components != 1 or header.bits > allocated:
        raise FilmError("has pixels of another kind than its header says")
    return header


def _in_jpeg(frame: bytes) -> Told:
    """From the first start of frame of a JPEG or JPEG-LS."""
    if not frame.startswith(b"\xff\xd8"):
        raise FilmError("is damaged or cut short")
    at = 2
    while at + 10 <= len(frame):
        marker, length = struct.unpack(">HH", frame[at : at + 4])
        if marker == 0xFFFF:  # a fill byte before a marker
            at += 1
        elif marker in SIZED:
            bits, high, wide, components = struct.unpack(">BHHB", frame[at + 4 : at + 10])
            return Told(wide, high, components, bits)
        elif marker == HIERARCHICAL:
            raise FilmError(UNKNOWN)
        elif marker < 0xFF00:
            break
        else:
            at += 2 + length
    raise FilmError("is damaged or cut short")


def _in_jpeg_2000(frame: bytes) -> Told:
    """From the codestream, which may be the content of a box."""
    at = _codestream(frame) if frame.startswith(BOXED) else 0
    size = frame[at : at + 43]
    if len(size) < 43 or not size.startswith(START):
        raise FilmError("is damaged or cut short")
    right, low, left, top = struct.unpack(">4I", size[8:24])
    (components,) = struct.unpack(">H", size[40:42])
    bits, signed = (size[42] & 0x7F) + 1, bool(size[42] & 0x80)
    return Told(right - left, low - top, components, bits, signed)


def _codestream(frame: bytes) -> int:
    """Where the content of the box jp2c begins (ISO/IEC 15444-1 annex I). Boxes are walked
    through, for one that is passed over may hold something that looks like a codestream."""
    at = 0
    while at + 16 <= len(frame):
        length, kind = struct.unpack(">I4s", frame[at : at + 8])
        begin = 8
        if length == 1:
            (length,) = struct.unpack(">Q", frame[at + 8 : at + 16])
            begin = 16
        if kind == b"jp2c":
            return at + begin
        if length < begin:  # 0: up to the end
            break
        at += length
    raise FilmError("is damaged or cut short")


def _check_runs(frame: bytes, pixels: int, each: int) -> None:
    """RLE has no size in it: as many segments as a pixel has bytes, in their order, each long
    enough for all pixels (PS3.5 annex G)."""
    if len(frame) < 64:
        raise FilmError("is damaged or cut short")
    count, *offsets = struct.unpack("<16I", frame[:64])
    if count != each:
        raise FilmError("has pixels of another kind than its header says")
    ends = [*offsets[1:count], len(frame)]
    for start, end in zip(offsets[:count], ends, strict=True):
        if start < 64 or (end - start) * RUN < pixels:
            raise FilmError("has pixels that do not fit its rows and columns")
