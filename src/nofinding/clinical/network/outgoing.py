"""Objects of ours on their way out, films on their way in: files that are whole or not there."""

from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

__all__ = ["Outgoing", "Refused", "outgoing"]

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
