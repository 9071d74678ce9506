"""What a long job has done, written so that no kill and no power cut loses or doubles any of it.

A journal is a file that only grows. An entry is its length and SHA-256, then its JSON; it is on
the disk before `append` returns. The last entry of a process that was killed may be torn: its
length or its hash is then wrong, and it is cut off before the next one is written.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from nofinding.errors import UserError
from nofinding.storage.lock import try_lock

__all__ = ["Journal", "Place", "entries", "entry_at"]

HEAD = struct.Struct("<4sQ32s")
MAGIC = b"nfj1"
LONGEST = 2**30  # bytes of an entry; a torn length may say anything


class Place(NamedTuple):
    """Where an entry lies."""

    file: Path
    start: int


class Journal:
    """A journal that this process alone may write, for as long as it is open."""

    def __init__(self, file: Path) -> None:
        """Opens it or makes it, and cuts off a torn last entry.

        Raises UserError where another process has it open.
        """
        self.path = file
        self._file: BinaryIO = open(file, "a+b", buffering=0)  # noqa: SIM115, PTH123
        if not try_lock(self._file):
            self._file.close()
            raise UserError(
                f"{file.parent}: another process is at work on this part of it; wait for that one"
            )
        end = 0
        for place, payload in _payloads(file):
            end = place.start + HEAD.size + len(payload)
        self._file.truncate(end)
        self._end = end

    def append(self, entry: Mapping[str, Any]) -> Place:
        """Puts the entry on the disk; whole or, should that fail, not at all."""
        payload = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
        head = HEAD.pack(MAGIC, len(payload), hashlib.sha256(payload).digest())
        data = memoryview(head + payload)
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._end)
            raise
        place = Place(self.path, self._end)
        self._end += len(head) + len(payload)
        return place

    def close(self) -> None:
        """Gives the file free for others."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def entries(file: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The whole entries in their order, up to the first torn one."""
    for place, payload in _payloads(file):
        yield place, json.loads(payload)


def entry_at(place: Place) -> dict[str, Any]:
    """The entry at a place. Raises UserError where there is none any more."""
    with place.file.open("rb") as file:
        file.seek(place.start)
        payload = _next(file)
    if payload is None:
        raise UserError(f"{place.file}: was changed while it was read")
    entry: dict[str, Any] = json.loads(payload)
    return entry


def _payloads(file: Path) -> Iterator[tuple[Place, bytes]]:
    with file.open("rb") as stream:
        start = 0
        while (payload := _next(stream)) is not None:
            yield Place(file, start), payload
            start += HEAD.size + len(payload)


def _next(file: BinaryIO) -> bytes | None:
    """The payload that begins here; None where it is torn, or there is none."""
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    magic, length, digest = HEAD.unpack(head)
    if magic != MAGIC or length > LONGEST:
        return None
    payload = file.read(length)
    whole = len(payload) == length and hashlib.sha256(payload).digest() == digest
    return payload if whole else None
