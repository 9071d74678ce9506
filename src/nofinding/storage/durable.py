"""Files that are on the disk before anybody is told so."""

from pathlib import Path

from nofinding.clinical.network.outgoing import streamed

__all__ = ["write_durably"]


def write_durably(path: Path, data: bytes) -> None:
    """Writes the whole file or nothing: temporary name, fsync, rename, fsync of the folder.

    When this returns, a power cut cannot take the file away. Raises OSError, and leaves no
    temporary file, where the disk is full or may not be written to.
    """
    with streamed(path) as write:
        write(data)
