"""Films as they came, on the disk before anybody is told so."""

import contextlib
import hashlib
import hmac
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from nofinding.errors import UserError
from nofinding.service.durable import write_durably

__all__ = ["LEFT_OVER", "Received", "Spool"]

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
                if time.time() - left.stat().st_mtime > LEFT_OVER:
                    left.unlink()

    def put(self, uid: str, data: bytes, ending: str = ".dcm") -> Received:
        """Writes an object; it is on the disk when this returns. The same bytes again are the file
        that is there. Raises OSError where the disk is full or cannot be written to.

        `uid` is its SOP Instance UID, or what stands for one; `ending` is of the file's name.
        """
        if shutil.disk_usage(self.folder).free - len(data) < self.keep_free:
            raise OSError(28, "no space left on the device")
        film = hmac.digest(self.key, f"film|{uid}".encode(), "sha256").hex()[:32]
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / f"{film}-{digest[:16]}{ending}"
        if not path.exists():
            write_durably(path, data)
        return Received(path=path, film=film, digest=digest)
