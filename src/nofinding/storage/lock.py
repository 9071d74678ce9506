"""Locks on files: they keep other processes out, and no crash leaves one locked.

A lock belongs to the open file, so it ends when that is closed or its process does.
"""

import fcntl
from typing import IO

__all__ = ["lock", "try_lock", "unlock"]


def lock(file: IO | int, *, shared: bool = False) -> None:
    """Waits until this process has the lock: alone, or with others that share it."""
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_lock(file: IO | int, *, shared: bool = False) -> bool:
    """Takes the lock if that is possible at once; whether it did. Raises OSError where the file
    system knows no locks."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: IO | int) -> None:
    """Lets others have it."""
    fcntl.flock(file, fcntl.LOCK_UN)
