"""Comments go, pixels stay."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless

from nofinding.clinical.dicom.frames import bare_pixels, without_comments
from nofinding.data.decoding.limits import FilmError
from support.encodings_of_films import film_in

CANARY = b"CANARY^Ann"
RAMP = (np.arange(40 * 48) % 251).astype(np.uint8).reshape(40, 48)


def jpeg(**options: object) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = CANARY.decode()
    Image.fromarray(RAMP).save(out, "JPEG", comment=CANARY, exif=exif, **options)
    return out.getvalue()


def opened(frame: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(frame)))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_loses_its_comments_and_what_follows_it(progressive: bool) -> None:
    frame = jpeg(progressive=progressive)
    assert frame.count(CANARY) == 2
    bare = without_comments(frame + CANARY)
    assert CANARY not in bare and b"JFIF" not in bare
    np.testing.assert_array_equal(opened(bare), opened(frame))
    assert without_comments(bare) == bare


def j2k() -> bytes:
    data = film_in(JPEG2000Lossless, RAMP).PixelData
    start = data.index(b"\xff\x4f\xff\x51")
    stream = data[start : data.rindex(b"\xff\xd9") + 2]
    (length,) = struct.unpack(">H", stream[4:6])
    comment = struct.pack(">HHH", 0xFF64, 4 + len(CANARY), 1) + CANARY
    return stream[: 4 + length] + comment + stream[4 + length :]


def test_a_jpeg_2000_loses_its_comments_and_boxes() -> None:
    frame = j2k()
    bare = without_comments(frame)
    assert CANARY in frame and CANARY not in bare
    np.testing.assert_array_equal(opened(bare), RAMP)

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), kind) + body

    boxes = box(b"jP  ", b"\r\n\x87\n") + box(b"xml ", CANARY) + box(b"jp2c", frame)
    assert without_comments(boxes + box(b"xml ", CANARY)) == bare


@pytest.mark.parametrize("cut", [0, 1, 3, 10, 60])
def test_damage_is_said_and_nothing_else(cut: int) -> None:
    for frame in (jpeg(), j2k()):
        with pytest.raises(FilmError, match="damaged"):
            without_comments(frame[:cut])


def test_bytes_behind_the_last_pixel_go() -> None:
    data: Dataset = film_in(None, RAMP[:3, :3])
    data.PixelData = RAMP[:3, :3].tobytes() + CANARY
    bare_pixels(data)
    assert data.PixelData == RAMP[:3, :3].tobytes() + b"\0"
    data.PixelData = b"\0" * 8
    with pytest.raises(FilmError, match="damaged"):
        bare_pixels(data)
