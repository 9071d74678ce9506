"""All files below a folder: one rule for everything that walks one.

A file is listed whatever it is called. What is not entered or not read is listed, too, with its
kind, so that whoever walks can count it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from nofinding.errors import UserError

__all__ = ["Links", "WalkedFile", "walk_files"]

Links: TypeAlias = Literal["never", "inside", "always"]
"""Which links to folders are entered: none; those that stay below the folder; all of them."""

Kind: TypeAlias = Literal["file", "link out", "folder link", "hidden"]


class WalkedFile(NamedTuple):
    """A file below the folder, or something that was not entered."""

    path: str
    """From the folder, with / between; bytes that are not UTF-8 as Python holds them."""
    kind: Kind
    """file; a link to a file that leads out of the folder; a link to a folder that is not
    entered; or a file or folder whose name begins with a dot."""


def walk_files(
    folder: Path, *, links: Links = "inside", hidden: bool = False
) -> Iterator[WalkedFile]:
    """Every file below the folder: those of a folder in the order of their names' bytes, then those
    of its subfolders. `hidden` also looks at names that begin with a dot, as at all others.

    No folder is entered twice. Raises UserError where one cannot be read.
    """
    root = os.path.realpath(folder)
    waiting, entered = [""], {root}
    while waiting:
        at = waiting.pop()
        subfolders: list[str] = []
        for entry in _entries(folder, at):
            path = f"{at}{entry.name}"
            if entry.name.startswith(".") and not hidden:
                yield WalkedFile(path, "hidden")
                continue
            real = os.path.realpath(entry.path) if entry.is_symlink() else ""
            out = bool(real) and not Path(real).is_relative_to(root)
            if not entry.is_dir():
                yield WalkedFile(path, "link out" if out and links != "always" else "file")
            elif real and (links == "never" or (out and links == "inside")):
                yield WalkedFile(path, "folder link")
            else:
                real = real or os.path.realpath(entry.path)
                if real not in entered:  # a link may lead back to where we came from
                    entered.add(real)
                    subfolders.append(f"{path}/")
        waiting += reversed(subfolders)


def _entries(folder: Path, at: str) -> list[os.DirEntry[str]]:
    """Raises UserError without the name of a subfolder: it may be a patient's."""
    try:
        return sorted(os.scandir(folder / at), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        inside = "a folder in it " if at else ""
        raise UserError(f"{folder}: {inside}cannot be read ({error.strerror})") from None
