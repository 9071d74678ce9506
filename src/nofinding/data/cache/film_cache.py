"""Prepared films on disk, so that a second epoch or a second method never decodes again.

The format is in docs/cache.md: for each size and aspect a folder of shards, files of many films
each, and beside each shard its keys. Any number of processes may read and write at once.
"""

import hashlib
import json
import math
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16

from nofinding.data.cache.ledger import Ledger
from nofinding.data.image import Aspect, fit
from nofinding.errors import UserError
from nofinding.storage.atomic import written
from nofinding.types import Decoded, Pixels

__all__ = ["FilmCache", "Once"]

VERSION = "3"  # to be raised whenever decoding or fit gives other pixels than before
SHARD = 2**30  # bytes of films in a file
NOTES = 2**20  # fingerprints in a file
DIGEST = 32  # bytes before each film


def decode(pixels: Callable[[], Pixels]) -> Decoded:
    """The pixels, and what their file says of them, if they come from one."""
    film: Decoded = pixels.decode() if hasattr(pixels, "decode") else Decoded(pixels())
    return film


class Once:
    """Pixels that are decoded once, and whose file is read once, while several sizes are made."""

    def __init__(self, pixels: Callable[[], Pixels]) -> None:
        self._pixels = pixels
        self._held: Decoded | None = None
        self.remarks: tuple[tuple[str, ...], str | None] | None = None
        """Flags and objection of the film, once it was decoded; they outlive its pixels."""
        self._known: dict[str, Any] = {}
        for name in ("fingerprint", "stamp"):
            if hasattr(pixels, name):
                setattr(self, name, lambda name=name: self._ask(name))

    def _ask(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = getattr(self._pixels, name)()
        return self._known[name]

    def __call__(self) -> Pixels:
        return self.decode().pixels

    def decode(self) -> Decoded:
        """The pixels, and what their file says of them."""
        if self._held is None:
            self._held = decode(self._pixels)
            self.remarks = self._held.flags, self._held.objection
        return self._held

    def drop(self) -> None:
        """Forgets the pixels."""
        self._held = None


class FilmCache:
    """A folder of prepared films, found by the film's content and how it was prepared.

    A film is stored behind the SHA-256 of its pixels. One that is damaged is decoded anew and
    written again, and so a crash or a full disk can never change a film.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the folder cannot be made."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cache {folder}: {error.strerror}") from None
        self._visited = Ledger(folder / f"films-{VERSION}" / "files", ".seen", 32, NOTES)
        self._shards: dict[str, Shards] = {}

    def __reduce__(self) -> tuple[type["FilmCache"], tuple[Path]]:
        return type(self), (self.folder,)

    def get(
        self,
        pixels: Callable[[], Pixels],
        size: int,
        aspect: Aspect = "pad",
        dimensions: int = 2,
    ) -> UInt16[np.ndarray, "*s"]:
        """The film or volume, `size` a side, as `fit` prepares it; decoded only where it is new.

        Pixels that have no `fingerprint()` (SHA-256 of the content, hex) are decoded each time.
        A fingerprint is not asked for where the pixels' `stamp()` is known from an earlier time.
        Raises OtherDimensionsError where the pixels have another number of them.
        """
        if not hasattr(pixels, "fingerprint"):
            return fit(pixels(), size, dimensions, aspect)
        fingerprint = self._fingerprint(pixels)
        grid = str(size) if dimensions == 2 else f"{size}^{dimensions}"
        recipe = "|".join((VERSION, fingerprint, grid, aspect))
        key = hashlib.sha256(recipe.encode()).digest()
        shards = self._of(f"{grid}-{aspect}", (size,) * dimensions)
        film = shards.find(key)
        if film is None:
            decoded = decode(pixels)
            film = fit(decoded.pixels, size, dimensions, aspect)
            if decoded.flags or decoded.objection:  # before the film: what is there is whole
                self._try(lambda: self._write_remarks(fingerprint, decoded))
            self._try(lambda: shards.add(key, film))
        return film

    def remarks(self, pixels: Callable[[], Pixels]) -> tuple[tuple[str, ...], str | None]:
        """The flags of a film that came from here or was put here, and what its header says
        against it; nothing of one that has no fingerprint."""
        if isinstance(pixels, Once) and pixels.remarks is not None:
            return pixels.remarks
        if not hasattr(pixels, "fingerprint"):
            return (), None
        try:
            payload = json.loads(self._remarks_of(self._fingerprint(pixels)).read_bytes())
            return tuple(map(str, payload["flags"])), payload["objection"]
        except (OSError, ValueError, KeyError, TypeError):
            return (), None

    def _remarks_of(self, fingerprint: str) -> Path:
        return self.folder / f"films-{VERSION}" / "remarks" / fingerprint[:2] / fingerprint

    def _write_remarks(self, fingerprint: str, film: Decoded) -> None:
        """Writes what is to be said of a film, whole or not at all. Raises OSError."""
        file = self._remarks_of(fingerprint)
        file.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"flags": film.flags, "objection": film.objection}
        with written(file) as stream:
            stream.write(json.dumps(metadata).encode())

    def derived(self, pixels: Callable[[], Pixels], name: str, length: int) -> Any:
        """The words (uint16) that `keep` stored beside the film under that name; None where there
        are none, or the pixels have no fingerprint."""
        if not hasattr(pixels, "fingerprint"):
            return None
        key = hashlib.sha256(f"{VERSION}|{self._fingerprint(pixels)}|{name}".encode()).digest()
        return self._of(name, (length,)).find(key)

    def keep(
        self, pixels: Callable[[], Pixels], name: str, words: UInt16[np.ndarray, " w"]
    ) -> None:
        """Stores what was derived from a film, for `derived`; nothing where it has no
        fingerprint."""
        if hasattr(pixels, "fingerprint"):
            key = hashlib.sha256(f"{VERSION}|{self._fingerprint(pixels)}|{name}".encode()).digest()
            self._try(lambda: self._of(name, (len(words),)).add(key, words))

    def _of(self, name: str, shape: tuple[int, ...]) -> "Shards":
        if name not in self._shards:
            self._shards[name] = Shards(self.folder / f"films-{VERSION}" / name, shape)
        return self._shards[name]

    def _fingerprint(self, pixels: Any) -> str:
        """Of the content; by the stamp of its file where that is the one that was read before."""
        stamp: str | None = pixels.stamp() if hasattr(pixels, "stamp") else None
        if stamp is None:
            return str(pixels.fingerprint())
        key = hashlib.sha256(os.fsencode(stamp)).digest()
        for _, _, value in self._visited.find(key):
            return value.hex()
        fingerprint = str(pixels.fingerprint())
        self._try(lambda: self._visited.add(key, bytes.fromhex(fingerprint)))
        return fingerprint

    def _try(self, write: Callable[[], None]) -> None:
        """A cache that cannot be written costs time, not the run."""
        try:
            write()
        except OSError as error:
            warnings.warn(f"cache {self.folder}: not written, {error.strerror}", stacklevel=3)


class Shards:
    """The films of one size and aspect: in each shard one behind the other, all of one length."""

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.bytes = 2 * math.prod(shape)
        self.stride = DIGEST + self.bytes
        self._keys = Ledger(folder, ".keys", 0, max(1, SHARD // self.stride))
        self._open: dict[Path, int] = {}
        self._lock = threading.Lock()

    def find(self, key: bytes) -> UInt16[np.ndarray, "*s"] | None:
        """The film, if there is one and it is whole."""
        for keys, number, _ in self._keys.find(key):
            data = self._pread(keys.with_suffix(".film"), number)
            digest, film = data[:DIGEST], data[DIGEST:]
            if len(film) == self.bytes and hashlib.sha256(film).digest() == digest:
                pixels = np.frombuffer(film, dtype="<u2").reshape(self.shape)
                return pixels.astype(np.uint16, copy=False)
        return None

    def _pread(self, path: Path, number: int) -> bytes:
        try:
            with self._lock:
                if path not in self._open:
                    self._open[path] = os.open(path, os.O_RDONLY)
            return os.pread(self._open[path], self.stride, number * self.stride)
        except OSError:
            return b""

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def add(self, key: bytes, film: UInt16[np.ndarray, "*s"]) -> None:
        """Writes the film, then its key: what has a key is there. Raises OSError."""
        data = film.astype("<u2", copy=False).tobytes()
        with self._lock:
            keys, number = self._keys.writer()
            descriptor = os.open(keys.with_suffix(".film"), os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                whole = memoryview(hashlib.sha256(data).digest() + data)
                at = number * self.stride
                while whole:
                    done = os.pwrite(descriptor, whole, at)
                    whole, at = whole[done:], at + done
            finally:
                os.close(descriptor)
            self._keys.add(key)
