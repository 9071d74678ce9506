"""Films as they came, on the disk before anybody is told so."""

import contextlib
import errno
import hashlib
import hmac
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from nofinding.errors import UserError
from nofinding.storage.atomic import sync_file, sync_folder, write_durably
from nofinding.storage.lock import try_lock

__all__ = ["LEFT_OVER", "Received", "Spool", "pseudonym"]

UPLOAD = ".upload-"
LEFT_OVER = 3600.0
"""Seconds after which a file that no job is about belongs to nobody."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """An object on the disk."""

    path: Path
    film: str
    """A pseudonym of its SOP Instance UID."""
    digest: str
    """SHA-256 of its bytes."""


class Spool:
    """A folder of received objects. File names are keyed hashes: no UID is in one."""

    def __init__(self, folder: Path, key: bytes, *, keep_free: int = 2**30) -> None:
        """`keep_free` is how many bytes of the disk are left alone. Raises UserError where the
        folder cannot be written to."""
        self.folder, self.key, self.keep_free = folder, key, keep_free
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"spool {folder}: {error.strerror}") from None
        for left in folder.glob(".*.tmp"):  # of a process that was killed; others may be at work
            with contextlib.suppress(OSError):
                old = time.time() - left.stat().st_mtime > LEFT_OVER
                if _is_nobodys(left) if left.name.startswith(UPLOAD) else old:
                    left.unlink()

    def put(self, uid: str, data: bytes, ending: str = ".dcm") -> Received:
        """Writes an object; it is on the disk when this returns. The same bytes again are the file
        that is there. Raises OSError where the disk is full or cannot be written to.

        `uid` is its SOP Instance UID, or what stands for one; `ending` is of the file's name.
        """
        self.require(len(data))
        received = self._named(uid, hashlib.sha256(data).hexdigest(), ending)
        if not _is_there(received.path):
            write_durably(received.path, data)
        return received

    def adopt(self, file: Path, uid: str, digest: str, ending: str) -> Received:
        """The same for what was written to a temporary file of this folder (`temporary`), whose
        SHA-256 is `digest`: it is renamed. Raises OSError."""
        received = self._named(uid, digest, ending)
        if not _is_there(received.path):
            sync_file(file)
            file.rename(received.path)
            sync_folder(self.folder)
        return received

    def open_temporary(self) -> tuple[Path, int]:
        """A file in this folder for what is still coming in, and its descriptor, for the caller to
        close. As long as that is open the file is somebody's. Raises OSError."""
        file = self.folder / f"{UPLOAD}{secrets.token_hex(16)}.tmp"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try_lock(descriptor)  # nobody else knows of it
        return file, descriptor

    def require(self, count: int) -> None:
        """Raises OSError where that many bytes more would leave less than `keep_free`."""
        if shutil.disk_usage(self.folder).free - count < self.keep_free:
            raise OSError(errno.ENOSPC, "no space left on the device")

    def _named(self, uid: str, digest: str, ending: str) -> Received:
        film = pseudonym(self.key, "film", uid)
        path = self.folder / f"{film}-{digest[:16]}{ending}"
        return Received(path=path, film=film, digest=digest)


def pseudonym(key: bytes, kind: str, text: str) -> str:
    """What an id is called everywhere but in the objects that must carry it: 32 hex digits."""
    return hmac.digest(key, f"{kind}|{text}".encode(), "sha256").hex()[:32]


def _is_there(file: Path) -> bool:
    """Whether the film is there. Then it counts as new: its old job may be gone, and the sweep must
    not take it before the next one is made."""
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    return True


def _is_nobodys(file: Path) -> bool:
    """Whether no process is writing it any more. Raises OSError."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)
