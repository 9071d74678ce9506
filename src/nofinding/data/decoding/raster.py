"""PNG and JPEG films. Runs in the decoder's child process only.

A PNG of 16 bits often holds values of 10 to 14: what a publisher's table or the file itself (its
chunk sBIT) says of that is used; where only the values show it, they are, with a flag.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps

from nofinding.data.decoding.limits import FilmError, check_size

__all__ = ["Picture", "read"]

GREY = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")
DEEP = 16  # bits
MOST = 14  # bits in use up to which a picture of 16 counts as one of fewer
LEAST = 8
CHUNKS = 64  # of a PNG that are looked at before its pixels


class Picture(NamedTuple):
    """A decoded picture."""

    pixels: Shaped[np.ndarray, "h w"]
    white: float
    """The value of white."""
    flags: tuple[str, ...] = ()


def read(path: Path, kind: str, greys: str = "") -> Picture:
    """A PNG or JPEG as uint8 or uint16; colour becomes luminosity (ITU-R 601), alpha is ignored.

    A JPEG that says how it was rotated is turned upright. `greys` is what a publisher's table says:
    "MONOCHROME1 12", of which each may be left out; MONOCHROME1 is inverted.
    """
    pixels = _decoded(path, kind)
    white, flags = float(np.iinfo(pixels.dtype).max), tuple[str, ...]()
    words = greys.split()
    if pixels.dtype == np.uint16:
        message = next((int(word) for word in words if word.isdecimal()), 0)
        white, flags = _white(int(pixels.max()), message or _significant(path))
    if "MONOCHROME1" in words:
        pixels = (white - np.minimum(pixels, white)).astype(pixels.dtype)
    return Picture(pixels, white, flags)


def _decoded(path: Path, kind: str) -> Shaped[np.ndarray, "h w"]:
    with Image.open(path, formats=[kind]) as opened:
        film: Image.Image = opened
        check_size(film.width, film.height)
        if getattr(film, "n_frames", 1) > 1:
            raise FilmError("has more than one frame")
        deep = film.mode == "I" or film.mode.startswith("I;16")
        if not deep and film.mode not in GREY:
            raise FilmError("has a colour mode other than grey, palette and RGB")
        if kind == "JPEG":
            film = ImageOps.exif_transpose(film)
        if deep:
            return np.asarray(film).astype(np.uint16)
        if film.mode in ("P", "PA"):
            film = film.convert("RGB")
        return np.asarray(film.convert("L"))


def _white(most: int, message: int) -> tuple[float, tuple[str, ...]]:
    """The value of white in a picture of 16 bits whose largest value is `most`, and a flag where
    the values alone say so. `told` bits are stated; 0: none.

    Values above what is stated were spread over all 16 bits, as the PNG standard asks.
    """
    if LEAST <= message < DEEP and most < 1 << message:
        return float((1 << message) - 1), ()
    used = max(LEAST, most.bit_length())
    if message or used > MOST or not most:
        return float((1 << DEEP) - 1), ()
    white = (1 << used) - 1
    return float(white), (f"film: {used} of its {DEEP} bits are in use, white is {white}",)


def _significant(path: Path) -> int:
    """The significant bits of a grey PNG (chunk sBIT); 0 where it does not say."""
    with path.open("rb") as file:
        file.seek(8)
        for _ in range(CHUNKS):
            head = file.read(8)
            if len(head) < 8:
                break
            length, name = struct.unpack(">I4s", head)
            if name == b"sBIT":
                return file.read(1)[0] if 1 <= length <= 4 else 0
            if name == b"IDAT":
                break
            file.seek(length + 4, 1)
    return 0
