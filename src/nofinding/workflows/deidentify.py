"""The use case `deidentify`: de-identified DICOM films, in a folder that holds nothing else.

Everything is written beside the folder and becomes the folder at the end: stopped before, it
leaves nothing. File names and the list say pseudonyms alone; a film's place in the order of the
files that were given leads back to it.
"""

import csv
import hashlib
import io
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nofinding.data.decoding.limits import FilmError
from nofinding.datasets.hospital.pseudonyms import read_key
from nofinding.errors import UserError
from nofinding.evaluation.report.flow import counted
from nofinding.progress import say, tracked
from nofinding.scoring.batch_scorer import Unreadable
from nofinding.storage.atomic import move_into_place, write_atomic
from nofinding.storage.folder_walk import walk_files

if TYPE_CHECKING:
    from nofinding.clinical.deidentify.deidentifier import Cleaned, Deidentifier

__all__ = ["DeidentifyOptions", "Given", "deidentify"]

LIST = "files.csv"
COLUMNS = ("number", "file", "patient", "study", "done", "reason", "burnt_in", "sha256")
PASSED = "is a DICOMDIR"  # a table of contents; no film is lost with it
TWICE = "is the same film once more"
FAULTS = {"folder link": "is a link to a folder", "link out": "is a link out of its folder"}


@dataclass(frozen=True, kw_only=True)
class DeidentifyOptions:
    """Writes de-identified DICOM films (CR, DX): PS3.15 annex E, basic profile."""

    out: Path
    """Folder for the films, film-PSEUDONYM.dcm, and files.csv; it must be empty, or not be
    there."""
    key: Path | None = None
    """File with the secret that ids and UIDs are turned into pseudonyms by; default:
    ~/.config/nofinding/pseudonym.key, made on first use."""
    characteristics: bool = True
    """Keep sex, age, size and weight, which the model's record needs (option 113108)."""
    dates: bool = False
    """Move all dates of a patient by as many days, 1 to 365 back as the key says, so that the time
    between films is kept (option 113107); otherwise dates are taken out."""
    unreadable: Unreadable = "stop"
    """What to do where a file cannot be de-identified: stop; or go on, and list it in
    files.csv."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """A file that is to be de-identified."""

    path: Path
    number: int
    """Its place among all that were given, from 1; in a folder they are in the order of bytes."""
    shown: str
    """What it is called in an error: a path that the user gave; else the folder and number."""
    fault: str = ""
    """Why it is not looked at: "is a link out of its folder"."""


@dataclass(kw_only=True)
class _List:
    """What was done so far."""

    rows: list[dict[str, object]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of what was written, by film."""
    patients: set[str] = field(default_factory=set)

    def add(self, given: Given, done: str, **more: str) -> None:
        self.rows.append({"number": given.number, "done": done, **more})

    def text(self) -> bytes:
        """As CSV."""
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return stream.getvalue().encode()


def deidentify(places: Sequence[str], options: DeidentifyOptions) -> Path:
    """Writes the folder and gives its path. Raises UserError, and leaves nothing behind, where a
    file cannot be de-identified, unless those are listed."""
    if find_spec("dicomanonymizer") is None:
        raise UserError("deidentify needs the extra: pip install 'nofinding[clinical]'")
    from nofinding.clinical.deidentify.deidentifier import Deidentifier
    from nofinding.clinical.deidentify.profile import Profile

    folders = [Path(place) for place in places if Path(place).is_dir()]
    _require_free(options.out, folders)
    files = [*_files(places)]
    if not files:
        raise UserError("deidentify: there is no file in what was given")
    key = read_key(options.key, *folders)
    profile = Profile(key=key, characteristics=options.characteristics, dates=options.dates)
    listing = _List()
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".deidentify-", dir=options.out.parent) as work:
            folder = Path(work) / "films"
            folder.mkdir()
            with Deidentifier(profile) as clean:
                for given in tracked(files, "de-identifying"):
                    _take(given, clean, folder, listing, stop=options.unreadable == "stop")
            if not listing.digests:
                raise UserError("no file could be de-identified; nothing was written")
            write_atomic(folder / LIST, listing.text())
            move_into_place(folder, options.out)
    except OSError as error:
        raise UserError(f"--out {options.out}: cannot be written ({error.strerror})") from None
    _say(listing, options)
    return options.out


def _take(given: Given, clean: "Deidentifier", folder: Path, listing: _List, *, stop: bool) -> None:
    """Writes one film, or notes why it is not written."""
    try:
        if given.fault:
            raise FilmError(given.fault)
        film = clean(given.path)
        digest = hashlib.sha256(film.data).hexdigest()
        if listing.digests.get(film.film, digest) != digest:
            raise FilmError("has the SOP Instance UID of another file with other content")
    except FilmError as error:
        reason = str(error)
        if reason == PASSED:
            listing.add(given, "passed over", reason=reason)
            return
        if stop:
            raise UserError(
                f"{given.shown} {reason}; nothing was written (--unreadable list goes on, and "
                "lists such files)"
            ) from None
        listing.add(given, "left out", reason=reason)
        return
    _write(given, film, digest, folder, listing)


def _write(given: Given, film: "Cleaned", digest: str, folder: Path, listing: _List) -> None:
    name = f"{film.film}.dcm"
    about = {"file": name, "patient": film.patient, "study": film.study}
    if film.film in listing.digests:
        listing.add(given, "passed over", reason=TWICE, **about)
        return
    write_atomic(folder / name, film.data)
    listing.digests[film.film] = digest
    listing.patients.add(film.patient)
    listing.add(given, "written", burnt_in=film.burnt_in, sha256=digest, **about)


def _files(places: Sequence[str]) -> Iterator[Given]:
    """Every file, in the order in which they were given, and within a folder in that of its path's
    bytes. Links to folders are not entered, files behind links out of the folder not read."""
    number = 0
    for place in map(Path, places):
        if not place.exists():
            raise UserError(f"{place} does not exist")
        if not place.is_dir():
            number += 1
            yield Given(path=place, number=number, shown=str(place))
            continue
        below = [*walk_files(place, links="never", hidden=True)]
        for walked in sorted(below, key=lambda walked: os.fsencode(walked.path)):
            number += 1
            yield Given(
                path=place / walked.path,
                number=number,
                shown=f"{place}: file number {number} in the order of `LC_ALL=C sort`",
                fault=FAULTS.get(walked.kind, ""),
            )


def _require_free(out: Path, folders: Sequence[Path]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is not an empty folder")
    for folder in folders:
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {out}: lies among the films; keep the two apart")


def _say(listing: _List, options: DeidentifyOptions) -> None:
    counts = Counter(str(row["done"]) for row in listing.rows)
    line = f"{options.out}: {counted(counts['written'], len(listing.patients))}"
    for done in ("passed over", "left out"):
        line += f", {counts[done]} {done}" if counts[done] else ""
    silent = sum(row.get("burnt_in") == "not stated" for row in listing.rows)
    say(f"{line} ({LIST} says of each what was done)")
    if silent:
        say(f"of {silent:,} it is not stated whether text is burnt into the pixels; look at them, "
            "for pixels are not cleaned")  # fmt: skip
