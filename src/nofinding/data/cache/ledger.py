"""Keys and values of fixed length in files that only grow: many read, each process writes its own.

An entry is the key's 32 bytes, the value, and 8 bytes that check both. A file is written by one
process at a time, which holds its lock; a process that finds no file free begins another. Nothing
is ever changed in place, so a reader needs no lock: what is torn does not check, and counts as
absent.
"""

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt64

from nofinding.storage.lock import try_lock

__all__ = ["Ledger"]

KEY, CHECK = 32, 8  # bytes
LATE = 8192  # entries that are kept apart until it is worth sorting them among the others


def _check(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:CHECK]


class Ledger:
    """What was noted under a key, by any process. Holds 16 bytes an entry in memory."""

    def __init__(self, folder: Path, suffix: str, width: int, room: int) -> None:
        """Files `folder`/*`suffix` of values of `width` bytes, at most `room` entries a file."""
        self.folder, self.suffix, self.width, self.room = folder, suffix, width, room
        self.stride = KEY + width + CHECK
        self._files: list[Path] = []
        self._read: list[int] = []  # entries of each file that are known
        self._open: dict[int, BinaryIO] = {}
        self._prefix: UInt64[np.ndarray, " n"] = np.empty(0, np.uint64)  # of the keys, sorted
        self._where: UInt64[np.ndarray, " n"] = np.empty(0, np.uint64)  # file << 32 | entry
        self._late: dict[int, list[int]] = {}  # the same of those that came last
        self._own: tuple[int, Path, BinaryIO] | None = None  # of which process; the file it writes
        self._lock = threading.RLock()

    def find(self, key: bytes) -> Iterator[tuple[Path, int, bytes]]:
        """(file, number of the entry in it, value) of every entry of the key, newest first.

        Looks for what other processes have added where nothing is known of the key.
        """
        with self._lock:
            values = [*self._known(key)]
            if not values and self.refresh():
                values = [*self._known(key)]
        yield from values

    def _known(self, key: bytes) -> Iterator[tuple[Path, int, bytes]]:
        prefix = np.frombuffer(key[:8], np.uint64)[0]
        low, high = (int(self._prefix.searchsorted(prefix, side)) for side in ("left", "right"))
        late = self._late.get(int(prefix), [])
        for where in [*late[::-1], *self._where[low:high].tolist()[::-1]]:
            file, number = where >> 32, where & (2**32 - 1)
            entry = os.pread(self._reader(file).fileno(), self.stride, number * self.stride)
            if entry[:KEY] == key and entry[-CHECK:] == _check(entry[:-CHECK]):
                yield self._files[file], number, entry[KEY:-CHECK]

    def _reader(self, file: int) -> BinaryIO:
        if file not in self._open:
            self._open[file] = self._files[file].open("rb", buffering=0)
        return self._open[file]

    def refresh(self) -> bool:
        """Reads the keys that were added since; whether there were any."""
        grown = False
        for path in sorted(self.folder.glob(f"*{self.suffix}")):
            file = self._number(path)
            count = path.stat().st_size // self.stride
            if count <= self._read[file]:
                continue
            grown = True
            keys, places = self._new_keys(file, count)
            self._read[file] = count
            if len(keys) > LATE:
                self._sort_in(keys, places)
                continue
            for key, place in zip(keys.tolist(), places.tolist(), strict=True):
                self._late.setdefault(key, []).append(place)
        if len(self._late) > LATE:
            late = [(key, place) for key, places in self._late.items() for place in places]
            keys, places = np.array(late, dtype=np.uint64).T
            self._late = {}
            self._sort_in(keys, places)
        return grown

    def _number(self, path: Path) -> int:
        if path not in self._files:
            self._files.append(path)
            self._read.append(0)
        return self._files.index(path)

    def _sort_in(self, keys: UInt64[np.ndarray, " k"], places: UInt64[np.ndarray, " k"]) -> None:
        prefix = np.concatenate([self._prefix, keys])
        order = np.argsort(prefix, kind="stable")
        self._prefix, self._where = prefix[order], np.concatenate([self._where, places])[order]

    def _new_keys(
        self, file: int, count: int
    ) -> tuple[UInt64[np.ndarray, " k"], UInt64[np.ndarray, " k"]]:
        start = self._read[file]
        with self._files[file].open("rb") as stream:
            stream.seek(start * self.stride)
            data = stream.read((count - start) * self.stride)
        rows = np.frombuffer(data[: len(data) // self.stride * self.stride], np.uint8)
        prefix = np.ascontiguousarray(rows.reshape(-1, self.stride)[:, :8]).view(np.uint64)[:, 0]
        numbers: UInt64[np.ndarray, " k"] = np.arange(start, start + len(prefix), dtype=np.uint64)
        return prefix, (np.uint64(file) << np.uint64(32)) | numbers

    def writer(self) -> tuple[Path, int]:
        """The file that this process writes, and the number that its next entry gets.

        Raises OSError where none can be made.
        """
        with self._lock:
            if self._own is not None and self._own[0] != os.getpid():
                self._own[2].close()  # after a fork: the parent's, which keeps its lock
                self._own = None
            if self._own is not None and self._count(self._own[2]) >= self.room:
                self._own[2].close()
                self._own = None
            if self._own is None:
                self._own = self._begin()
            return self._own[1], self._count(self._own[2])

    def _begin(self) -> tuple[int, Path, BinaryIO]:
        """A file that has room and no writer, or a new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob(f"*{self.suffix}")):
            if path.stat().st_size // self.stride < self.room and (file := self._locked(path)):
                return os.getpid(), path, file
        while True:
            path = self.folder / f"{secrets.token_hex(6)}{self.suffix}"
            if file := self._locked(path):
                return os.getpid(), path, file

    def _locked(self, path: Path) -> BinaryIO | None:
        file: BinaryIO = open(path, "a+b", buffering=0)  # noqa: SIM115, PTH123
        if not try_lock(file):
            file.close()
            return None
        file.truncate(self._count(file) * self.stride)  # a torn last entry
        return file

    def _count(self, file: BinaryIO) -> int:
        return os.fstat(file.fileno()).st_size // self.stride

    def add(self, key: bytes, value: bytes = b"") -> None:
        """Notes an entry. Raises OSError where the disk refuses; nothing is noted then."""
        with self._lock:
            path, number = self.writer()
            assert self._own is not None
            file, entry = self._own[2], key + value
            try:
                if file.write(entry + _check(entry)) != self.stride:
                    raise OSError(28, "No space left on device")
            except OSError:
                file.truncate(number * self.stride)
                raise
            own = self._number(path)
            if self._read[own] == number:  # else a refresh will find it
                self._read[own] += 1
                prefix = int(np.frombuffer(key[:8], np.uint64)[0])
                self._late.setdefault(prefix, []).append(own << 32 | number)
