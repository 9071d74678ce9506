"""The decoder's child process: `python -m nofinding.data.codec`, spoken to by `decode.py`.

Files are hostile until decoded, so whatever reads them lives here, under a limit of memory and
time, without torch and without the right to write a file. It answers one request at a time: a
length and JSON in, a length and JSON out, and behind that the pixels.
"""

import contextlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps

from nofinding.data import dicom, nifti
from nofinding.data.limits import (
    MEMORY,
    TIMEOUT,
    FilmError,
    check_size,
    kind_of,
    require_nifti,
)

__all__ = ["answer", "main", "serve"]

Answer = tuple[dict[str, Any], bytes]

GREY = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")


def raster(path: Path, kind: str) -> Shaped[np.ndarray, "h w"]:
    """A PNG or JPEG as uint8 or uint16; colour becomes luminosity (ITU-R 601), alpha is ignored.

    A JPEG that says how it was rotated is turned upright.
    """
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


def answer(path: Path, what: str) -> Answer:
    """What the file says of itself ("header"; "identity"; or all that a cohort is chosen by,
    "study"), its pixels ("pixels"), or, of a NIfTI file, its voxels ("volume") or where they are
    not 0 ("mask")."""
    if path.exists() and not path.is_file():  # a pipe or a device would never end
        raise FilmError("is not a file")
    with path.open("rb") as file:
        start = file.read(132)
    if what in ("volume", "mask"):
        require_nifti(start)
        voxels = (nifti.volume if what == "volume" else nifti.mask)(path)
        return {"dtype": str(voxels.dtype), "shape": voxels.shape}, voxels.tobytes()
    if what == "study":
        if start[128:132] != b"DICM":
            raise FilmError("not a DICOM file")
        return {"header": dicom.study(path)}, b""
    kind = kind_of(start)
    if what == "header":
        return {"header": dicom.header(path) if kind == "DICOM" else {}}, b""
    if what == "identity":
        return {"identity": dicom.identity(path) if kind == "DICOM" else {}}, b""
    pixels = dicom.pixels(path) if kind == "DICOM" else raster(path, kind)
    return {"dtype": str(pixels.dtype), "shape": pixels.shape}, pixels.tobytes()


def _answered(path: Path, request: dict[str, Any]) -> Answer:
    return answer(path, request["what"])


def _safely(
    request: dict[str, Any], answered: Callable[[Path, dict[str, Any]], Answer] = _answered
) -> Answer:
    """An answer, or why there is none. Never a decoder's own words: they may quote the file."""
    try:
        return answered(Path(request["path"]), request)
    except FilmError as error:
        return {"error": str(error)}, b""
    except FileNotFoundError:
        return {"error": "does not exist"}, b""
    except PermissionError:
        return {"error": "may not be read"}, b""
    except MemoryError:  # what is left of the heap is not worth keeping
        return {"error": "needs more memory than a film may", "last": True}, b""
    except KeyboardInterrupt:
        raise
    except BaseException:  # decoders written in Rust and C raise more than Exception
        return {"error": "is damaged or cut short"}, b""


def _confine() -> None:
    """Takes away memory, files to write and core dumps; Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(limit, (most, most))


def main(
    requests: BinaryIO,
    answers: BinaryIO,
    answered: Callable[[Path, dict[str, Any]], Answer] = _answered,
) -> None:
    """Answers until the other end is closed, which is also how the parent's death shows."""
    while len(prefix := requests.read(4)) == 4:
        request = json.loads(requests.read(struct.unpack("<I", prefix)[0]))
        signal.alarm(TIMEOUT + 5)  # should the parent die while this is at work
        reply, pixels = _safely(request, answered)
        signal.alarm(0)
        text = json.dumps(reply).encode()
        answers.write(struct.pack("<I", len(text)) + text)
        answers.write(pixels)
        answers.flush()
        if reply.get("last"):
            return


def serve(answered: Callable[[Path, dict[str, Any]], Answer] = _answered) -> None:
    """Confines this process, and answers its parent's requests by `answered` until it ends."""
    _confine()
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not speak into the answers
    with contextlib.suppress(BrokenPipeError):
        main(sys.stdin.buffer, own, answered)


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None  # check_size speaks first, and in our words
    serve()
