"""twins: lists films that are one film, however its copies were changed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nofinding.data.decoding.decode import VolumeFile
from nofinding.data.duplicates import Twins, twins_within
from nofinding.data.signatures import Signatures
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.datasets.twin_check import row_of, signatures_for, write_pairs
from nofinding.errors import UserError
from nofinding.progress import say
from nofinding.types import Exam

__all__ = ["TwinsOptions", "list_twins"]

COLUMNS = (
    "first", "second", "first_source", "second_source", "first_split", "second_split",
    "same_patient", "mirrored", "inverted", "correlation",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TwinsOptions:
    """Lists films that are one film: inverted, masked to the lungs, cropped, resized, mirrored."""

    films: list[str]
    """Films, SOURCE:PATH, one or more."""
    out: Path
    """The list: a CSV file, one row a pair."""
    pairs: Literal["all", "sources", "splits"] = "all"
    """all: of any two films; sources: of two sources; splits: of two splits."""
    unreadable: Literal["stop", "list"] = "stop"
    """What to do where a film cannot be read: stop; or go on, and name it."""
    overwrite: bool = False
    """Replace the file that is at --out."""
    fields_file: Path | None = None
    """YAML file with further record fields, as in fit."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""


def list_twins(options: TwinsOptions) -> list[dict[str, str]]:
    """Writes the list, and gives its rows. Raises UserError for a fault in the input."""
    if options.out.is_dir():
        raise UserError(f"--out {options.out}: is a folder; give a file")
    if options.out.exists() and not options.overwrite:
        raise UserError(f"--out {options.out}: is there already; choose another or --overwrite")
    fields, look = known_fields(options.fields_file), options.unreadable == "stop"
    cohorts = [Cohort([spec], fields, look=look) for spec in options.films]
    films = [(exam, spec) for cohort, spec in zip(cohorts, options.films, strict=True)
             for exam in cohort.exams]  # fmt: skip
    if any(isinstance(exam.pixels, VolumeFile) for exam, _ in films):
        raise UserError(f"{options.films[0]}: holds volumes; twins compares films")
    cache, bad = cache_at(options.cache), None if look else [""] * 0
    signatures = signatures_for([exam for exam, _ in films], cache, unreadable=bad)
    for line in bad or ():
        say(line)
    _say_plain(signatures)
    pairs = twins_within(signatures)
    rows = [row for row in _rows(pairs, films) if _asked(row, options.pairs)]
    write_pairs(options.out, rows, COLUMNS)
    say(f"{options.out}: {len(rows)} pairs of twins among {len(films)} films")
    return rows


def _rows(pairs: Twins, films: Sequence[tuple[Exam, str]]) -> Iterator[dict[str, str]]:
    for i in range(len(pairs)):
        one, other = films[int(pairs.first[i])], films[int(pairs.second[i])]
        yield {
            **row_of(pairs, i, one[0], other[0]),
            "first_source": one[1],
            "second_source": other[1],
        }


def _asked(row: dict[str, str], which: str) -> bool:
    """Whether the pair is of those that were asked for."""
    if which == "sources":
        return row["first_source"] != row["second_source"]
    return which == "all" or row["first_split"] != row["second_split"]


def _say_plain(signatures: Signatures) -> None:
    """Says of how many films nothing can be known."""
    plain = int((~signatures.code.any(axis=1)).sum())
    if plain:
        say(f"{plain} of {len(signatures)} films show too little of the lungs to be anybody's twin")
