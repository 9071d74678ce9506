"""Objects of ours on their way out, films on their way in: files that are whole or not there."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from nofinding.storage.checkpoint import sync_folder

__all__ = ["Outgoing", "Refused", "outgoing", "streamed"]

NAMED = ("SOPClassUID", "SOPInstanceUID")


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """An object that we wrote, and what a store must be told of it."""

    path: Path
    sop_class: str
    instance: str
    syntax: str
    """Its transfer syntax."""
    size: int
    """Bytes of the file."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An object that was not taken."""

    name: str
    """Of its file."""
    why: str
    """In words without a UID."""


def outgoing(path: Path) -> Outgoing:
    """What is in a file that `export` wrote; it is not for files of others."""
    read = dcmread(path, stop_before_pixels=True, specific_tags=[*NAMED])
    return Outgoing(
        path=path,
        sop_class=str(read.SOPClassUID),
        instance=str(read.SOPInstanceUID),
        syntax=str(read.file_meta.TransferSyntaxUID),
        size=path.stat().st_size,
    )


@contextmanager
def streamed(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Writes a file piece by piece: on the disk when the block ends, nowhere if it is left by an
    error. Only its owner may read it."""
    # Two threads may be writing the same film: each has a file of its own.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
