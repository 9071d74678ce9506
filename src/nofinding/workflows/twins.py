"""twins: lists films that are one film, however its copies were changed."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nofinding.data.cache.film_cache import FilmCache, Once
from nofinding.data.decoding.decode import UnreadableError, VolumeFile
from nofinding.data.duplicates import Twins, twins_within
from nofinding.data.image import Aspect, fit
from nofinding.data.signatures import SIDE, WORDS, Signatures, signatures_of
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.errors import UserError
from nofinding.progress import say, tracked
from nofinding.storage.atomic import write_atomic
from nofinding.types import Exam

__all__ = ["TwinsOptions", "list_twins", "signatures_for"]

AT_ONCE = 64  # films whose detail is computed together
NAME = "twins-3"  # in the cache; to be raised whenever a signature changes
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
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(options.out, text.getvalue().encode())
    say(f"{options.out}: {len(rows)} pairs of twins among {len(films)} films")
    return rows


def _rows(pairs: Twins, films: Sequence[tuple[Exam, str]]) -> Iterator[dict[str, str]]:
    for i in range(len(pairs)):
        one, other = films[int(pairs.first[i])], films[int(pairs.second[i])]
        yield {
            "first": one[0].image_id,
            "second": other[0].image_id,
            "first_source": one[1],
            "second_source": other[1],
            "first_split": one[0].split or "",
            "second_split": other[0].split or "",
            "same_patient": "yes" if one[0].patient_id == other[0].patient_id else "no",
            "mirrored": "yes" if pairs.mirrored[i] else "no",
            "inverted": "yes" if pairs.inverted[i] else "no",
            "correlation": f"{pairs.correlation[i]:.3f}",
        }


def _asked(row: dict[str, str], which: str) -> bool:
    """Whether the pair is of those that were asked for."""
    if which == "sources":
        return row["first_source"] != row["second_source"]
    return which == "all" or row["first_split"] != row["second_split"]


def signatures_for(
    exams: Sequence[Exam],
    cache: FilmCache | None,
    also: tuple[int, Aspect] | None = None,
    unreadable: list[str] | None = None,
) -> Signatures:
    """Of each film, from the cache or computed and stored there.

    With `also`, a film that is decoded for it is prepared at that size and aspect, too, so that
    what follows need not decode it again. With `unreadable`, a film that cannot be read is named
    there and is no film's twin. Raises UserError for one otherwise.
    """
    out = Signatures.room(len(exams))
    waiting: list[tuple[int, Exam, np.ndarray]] = []
    for row, exam in enumerate(tracked(exams, "looking for twins")):
        words = None if cache is None else cache.derived(exam.pixels, NAME, WORDS)
        if words is not None:
            out.put(row, Signatures.unpacked(words))
            continue
        try:
            waiting.append((row, exam, _prepared(exam, cache, also)))
        except UnreadableError as error:
            if unreadable is None:
                raise
            unreadable.append(f"film {exam.image_id!r} {error.reason}")
        if len(waiting) == AT_ONCE:
            _put(waiting, out, cache)
            waiting = []
    _put(waiting, out, cache)
    return out


def _prepared(exam: Exam, cache: FilmCache | None, also: tuple[int, Aspect] | None) -> np.ndarray:
    if cache is None:
        return fit(exam.pixels(), SIDE, 2, "pad")
    once = Once(exam.pixels)
    if also is not None:
        cache.get(once, *also)
    return cache.get(once, SIDE)


def _put(
    waiting: Sequence[tuple[int, Exam, np.ndarray]], out: Signatures, cache: FilmCache | None
) -> None:
    if not waiting:
        return
    some = signatures_of([film for _, _, film in waiting])
    for number, (row, exam, _) in enumerate(waiting):
        out.put(row, some.part(number, number + 1))
        if cache is not None:
            cache.keep(exam.pixels, NAME, some.packed(number))


def _say_plain(signatures: Signatures) -> None:
    """Says of how many films nothing can be known."""
    plain = int((~signatures.code.any(axis=1)).sum())
    if plain:
        say(f"{plain} of {len(signatures)} films show too little of the lungs to be anybody's twin")
