"""Prepared films on disk, so that a second epoch or a second method never decodes again."""

import hashlib
import math
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from nofinding.data.image import Aspect, fit
from nofinding.errors import UserError
from nofinding.types import Pixels

__all__ = ["FilmCache"]

VERSION = "1"  # to be raised whenever decoding or fit_square gives other pixels than before


class FilmCache:
    """A folder of prepared films, named after the film's content and how it was prepared.

    An entry is the SHA-256 of its pixels, then the pixels. One that is damaged is decoded anew
    and written again, and so a crash or a full disk can never change a film.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the folder cannot be made."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cache {folder}: {error.strerror}") from None

    def get(
        self,
        pixels: Callable[[], Pixels],
        size: int,
        aspect: Aspect = "pad",
        dimensions: int = 2,
    ) -> UInt16[np.ndarray, "*s"]:
        """The film or volume, `size` a side, as `fit` prepares it; decoded only where it is new.

        Pixels that have no `fingerprint()` (SHA-256 of the content, hex) are decoded each time.
        Raises OtherDimensionsError where the pixels have another number of them.
        """
        fingerprint: Callable[[], str] | None = getattr(pixels, "fingerprint", None)
        if fingerprint is None:
            return fit(pixels(), size, dimensions, aspect)
        grid = str(size) if dimensions == 2 else f"{size}^{dimensions}"
        made = "|".join((VERSION, fingerprint(), grid, aspect))
        key = hashlib.sha256(made.encode()).hexdigest()
        entry = self.folder / key[:2] / f"{key}.film"
        film = _read(entry, (size,) * dimensions)
        if film is None:
            film = fit(pixels(), size, dimensions, aspect)
            _write(entry, film)
        return film


def _read(entry: Path, shape: tuple[int, ...]) -> UInt16[np.ndarray, "*s"] | None:
    try:
        data = entry.read_bytes()
    except OSError:
        return None
    digest, film = data[:32], data[32:]
    if len(film) != 2 * math.prod(shape) or hashlib.sha256(film).digest() != digest:
        return None
    return np.frombuffer(film, dtype="<u2").reshape(shape).astype(np.uint16, copy=False)


def _write(entry: Path, film: UInt16[np.ndarray, "*s"]) -> None:
    """Whole or not at all. A cache that cannot be written costs time, not the run."""
    data = film.astype("<u2", copy=False).tobytes()
    temporary = None
    try:
        entry.parent.mkdir(exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=entry.parent, suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
        os.replace(temporary, entry)  # noqa: PTH105 - the name came from mkstemp as a str
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        warnings.warn(f"cache {entry.parent.parent}: not written, {error.strerror}", stacklevel=2)
