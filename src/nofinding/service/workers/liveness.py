"""Which services on a home are alive: each locks a file there, and no crash leaves it locked."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nofinding.storage.lock import lock, try_lock

__all__ = ["alive"]


@contextmanager
def alive(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A name for this service, which counts as alive within the block, and the names of those
    that died since somebody looked. Raises OSError where the folder cannot be written to."""
    folder.mkdir(mode=0o700, exist_ok=True)
    dead = [file.name for file in sorted(folder.iterdir()) if _take(file)]
    own = folder / secrets.token_hex(8)
    descriptor = os.open(own, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        lock(descriptor)
        yield own.name, dead
    finally:
        own.unlink(missing_ok=True)
        os.close(descriptor)


def _take(file: Path) -> bool:
    """Removes the file of a service that is dead; False where it lives, or somebody else did."""
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDWR)
        try:
            if try_lock(descriptor):
                file.unlink()
                return True
        finally:
            os.close(descriptor)
    return False
