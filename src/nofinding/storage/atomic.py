"""Files and folders that are whole or not there, whatever happens while they are written.

Each is written under a temporary name beside its place, is on the disk before it is renamed, and
the rename is on the disk before the caller goes on. A full disk leaves what was there.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nofinding.errors import UserError

__all__ = [
    "move_into_place",
    "streamed",
    "sync_file",
    "sync_folder",
    "sync_tree",
    "whole_or_not",
    "write_atomic",
    "write_durably",
    "write_together",
    "written",
]

OWNER_ALONE = 0o600
USUAL = 0o666  # what the umask leaves of it


def write_atomic(path: Path, data: bytes) -> None:
    """Puts `data` at `path` so that a reader, or a crash, sees the old file or the new, whole.

    Makes the folder if need be. Raises UserError where the disk refuses (full, read-only); the
    old file then stands as it was and no temporary file is left.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes every file under a temporary name, then renames them in their order.

    A full disk leaves all the older ones. Raises UserError as `write_atomic` does.
    """
    temporary = {path: _beside(path) for path in files}
    path = next(iter(files))
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("wb") as file:
                _finish(file, data)
        for path in files:
            os.replace(temporary[path], path)  # noqa: PTH105 - the call that tests make fail
            sync_folder(path.parent)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"{path}: cannot be written ({why}); what was there is whole") from error
    finally:
        for left in temporary.values():
            with suppress(OSError):  # renamed already, or its folder never came to be
                left.unlink()


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file that only its owner may read: the whole of it, or nothing.

    When this returns, a power cut cannot take the file away. Raises OSError, and leaves no
    temporary file, where the disk is full or may not be written to.
    """
    with streamed(path) as write:
        write(data)


@contextmanager
def streamed(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Writes a file piece by piece: on the disk when the block ends, nowhere if it is left by an
    error. Only its owner may read it."""
    with written(path, OWNER_ALONE) as file:
        yield file.write


@contextmanager
def written(path: Path, mode: int = USUAL) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place when the block ends. Raises OSError."""
    # Two threads may be writing the same file: each has a temporary one of its own.
    temporary = _beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            _finish(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def whole_or_not(out: Path, called: str = "--out") -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end, and goes where that is not reached.

    Raises UserError, which calls the folder `called`, where the disk is full or may not be
    written to.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
            folder = Path(work) / "whole"
            folder.mkdir()
            yield folder
            move_into_place(folder, out)
    except OSError as error:
        raise UserError(f"{called} {out}: cannot be written ({error.strerror})") from error


def move_into_place(folder: Path, out: Path) -> None:
    """Puts a finished folder in place; what was there goes only once the new one is whole."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Has a file that is written already on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut: the name lies in the folder, not in the file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Has every file below a folder on the disk, and every name."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _finish(file: BinaryIO, data: bytes = b"") -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
