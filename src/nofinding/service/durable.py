"""Files that are on the disk before anybody is told so."""

import os
import secrets
from pathlib import Path

from nofinding.checkpoint import sync_folder

__all__ = ["write_durably"]


def write_durably(path: Path, data: bytes) -> None:
    """Writes the whole file or nothing: temporary name, fsync, rename, fsync of the folder.

    When this returns, a power cut cannot take the file away. Raises OSError, and leaves no
    temporary file, where the disk is full or may not be written to.
    """
    # Two threads may be writing the same film: each has a file of its own.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
