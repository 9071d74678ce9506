"""The decoder's child process: `python -m nofinding.data.decoding.codec`, spoken to by `decode.py`.

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
from PIL import Image

from nofinding.data.decoding import dicom, nifti, raster
from nofinding.data.decoding.limits import MEMORY, TIMEOUT, FilmError, kind_of, require_nifti

__all__ = ["answer", "main", "serve"]

Answer = tuple[dict[str, Any], bytes | memoryview]


def answer(path: Path, what: str, greys: str = "") -> Answer:
    """What the file says of itself ("header"; "identity"; both, "about"; or all that a cohort is
    chosen by, "study"), its pixels ("pixels"), or, of a NIfTI file, its voxels ("volume") or where
    they are not 0 ("mask"). `greys` is what a publisher's table says of a picture's greys."""
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
    if what in ("header", "identity", "about"):
        header, identity = dicom.about(path) if kind == "DICOM" else ({}, {})
        return {"header": header, "identity": identity}, b""
    if kind == "DICOM":
        film = dicom.film(path)
        return _pixels(film.pixels, flags=film.flags, objection=film.objection)
    picture = raster.read(path, kind, greys)
    return _pixels(picture.pixels, white=picture.white, flags=picture.flags)


def _pixels(pixels: Shaped[np.ndarray, "h w"], **more: object) -> Answer:
    """The pixels without a copy, and what is to be said of them."""
    whole = np.ascontiguousarray(pixels)
    return {"dtype": str(whole.dtype), "shape": whole.shape, **more}, whole.data.cast("B")


def _answered(path: Path, request: dict[str, Any]) -> Answer:
    return answer(path, request["what"], request.get("greys", ""))


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
