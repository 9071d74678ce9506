"""Who did what to which film, in a file that cannot be changed unnoticed.

One JSON object a line. Each holds the keyed hash of the line before it and of itself: a line that
was changed, taken out or put in breaks the chain, and whoever has not the key cannot mend it. What
is cut off at the end shows against a number of entries that was noted elsewhere (`head`).
"""

import errno
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nofinding.errors import UserError
from nofinding.storage.lock import lock, unlock

__all__ = ["AuditLog", "Head", "followed", "verify_audit"]

START = "0" * 64
LONGEST = 2**16  # bytes of a line


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a log ended: note it elsewhere, and a log that was cut short shows."""

    entries: int
    hash: str


class AuditLog:
    """An append-only log; several processes may write to it."""

    def __init__(self, file: Path, key: bytes, clock: Callable[[], float] = time.time) -> None:
        """`key` is secret, 16 bytes or more. Raises UserError where the file cannot be opened."""
        if len(key) < 16:
            raise UserError(f"the key of the audit log {file} has under 16 bytes")
        self.file, self.key, self.clock = file, key, clock
        # The file's lock keeps other processes out, not other threads that use this descriptor.
        self._lock = threading.Lock()
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise UserError(f"audit log {file}: {error.strerror}") from None

    def write(self, who: str, what: str, **about: str | int | float | bool | None) -> Head:
        """Adds an entry; it is on the disk when this returns.

        `about` must hold no name and no id of a patient but a keyed hash (`pseudonym`). Raises
        UserError where the log's end is damaged: nothing may be written behind a broken line.
        Raises OSError where the disk is full, and leaves the log as it was.
        """
        with self._lock:
            return self._write(who, what, about)

    def _write(
        self, who: str, what: str, about: Mapping[str, str | int | float | bool | None]
    ) -> Head:
        lock(self._descriptor)
        try:
            last = _last_line(self._descriptor, self.file)
            number = 0 if last is None else int(last["number"]) + 1
            before = START if last is None else str(last["hash"])
            entry: dict[str, Any] = {
                "number": number,
                "time": round(self.clock(), 3),
                "who": who,
                "what": what,
                **about,
                "before": before,
            }
            entry["hash"] = _hash(self.key, entry)
            line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
            if len(line) > LONGEST:
                raise UserError(f"audit log {self.file}: an entry of {len(line)} bytes")
            size = os.fstat(self._descriptor).st_size
            if os.write(self._descriptor, line) != len(line):  # the disk is full
                os.ftruncate(self._descriptor, size)
                raise OSError(errno.ENOSPC, "no space left on the device")
            os.fsync(self._descriptor)
        finally:
            unlock(self._descriptor)
        return Head(entries=number + 1, hash=str(entry["hash"]))

    def pseudonym(self, text: str) -> str:
        """What an id is called in the log: 16 hex digits of its keyed hash."""
        return hmac.digest(self.key, f"id|{text}".encode(), "sha256").hex()[:16]

    def close(self) -> None:
        """Lets the file go."""
        os.close(self._descriptor)


def _hash(key: bytes, entry: Mapping[str, Any]) -> str:
    content = {name: value for name, value in entry.items() if name != "hash"}
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hmac.digest(key, text.encode(), hashlib.sha256).hex()


def _last_line(descriptor: int, file: Path) -> dict[str, Any] | None:
    size = os.fstat(descriptor).st_size
    if not size:
        return None
    tail = os.pread(descriptor, min(size, 2 * LONGEST), max(0, size - 2 * LONGEST))
    try:
        if not tail.endswith(b"\n"):
            raise ValueError
        entry: Any = json.loads(tail.splitlines()[-1])
        if not isinstance(entry, dict):
            raise ValueError
        if not isinstance(entry.get("number"), int) or not isinstance(entry.get("hash"), str):
            raise ValueError
    except (ValueError, RecursionError):
        raise UserError(f"audit log {file}: its last line is damaged; begin a new file") from None
    return entry


def verify_audit(file: Path, key: bytes, head: Head | None = None) -> Head:
    """Follows the chain from the first entry to the last, and gives where it ends.

    Raises UserError, naming the line, where it is broken, or where the log does not go through
    `head`, which was noted when it was written.
    """
    before, count = START, 0
    for entry in followed(file, key, head):
        before, count = str(entry["hash"]), count + 1
    return Head(entries=count, hash=before)


def followed(file: Path, key: bytes, head: Head | None = None) -> Iterator[dict[str, Any]]:
    """The entries, each once it is known to follow on the one before it.

    Raises UserError as `verify_audit` does, behind the last entry that is whole.
    """
    before, count = START, 0
    for number, entry in _entries(file):
        where = f"audit log {file}: line {number + 1}"
        if entry.get("number") != number or entry.get("before") != before:
            raise UserError(f"{where}: does not follow on the line before it")
        if not hmac.compare_digest(str(entry.get("hash")).encode(), _hash(key, entry).encode()):
            raise UserError(f"{where}: was changed, or the key is another")
        before, count = str(entry["hash"]), number + 1
        if head is not None and count == head.entries and before != head.hash:
            raise UserError(f"{where}: is not the entry that was noted")
        yield entry
    if head is not None and count < head.entries:
        raise UserError(f"audit log {file}: ends after {count} entries, {head.entries} were noted")


def _entries(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with file.open("rb") as lines:
            number = 0
            while line := lines.readline(LONGEST + 1):
                try:
                    entry = json.loads(line)
                    if not isinstance(entry, dict) or not line.endswith(b"\n"):
                        raise ValueError
                except (ValueError, RecursionError):
                    raise UserError(
                        f"audit log {file}: line {number + 1}: is no entry of a log"
                    ) from None
                yield number, entry
                number += 1
    except OSError as error:
        raise UserError(f"audit log {file}: {error.strerror}") from None
