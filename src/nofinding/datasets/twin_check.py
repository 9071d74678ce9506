"""Twins across parts: altered copies of what a model learns from must not be judged.

The same rule as for equal pixels and for patients, for copies that were inverted, masked, cropped,
resized or mirrored: a film must be in one part.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import UInt16

from nofinding.data.cache.film_cache import FilmCache, Once
from nofinding.data.decoding.decode import UnreadableError
from nofinding.data.duplicates import Twins, twins_between
from nofinding.data.image import Aspect, OtherDimensionsError, fit
from nofinding.data.signatures import SIDE, WORDS, Signatures, signatures_of
from nofinding.data.twin_choice import TwinCheck
from nofinding.errors import UserError
from nofinding.progress import is_first_process, say, tracked
from nofinding.storage.atomic import write_atomic
from nofinding.types import Exam

__all__ = [
    "COLUMNS", "PAIRS", "Part", "parts_apart", "refused", "row_of", "signatures_for",
    "write_pairs",
]  # fmt: skip

AT_ONCE = 64  # films whose detail is computed together
NAME = "twins-3"  # in the cache; to be raised whenever a signature changes
PAIRS = "twins.csv"  # of the folder that a command writes into
OWN = ("first_part", "second_part")
COLUMNS = (
    "first", "second", *OWN, "first_split", "second_split", "same_patient", "mirrored", "inverted",
    "correlation",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """Films that serve one purpose, and their signatures, in one order."""

    name: str
    """training, calibration, evaluated."""
    exams: Sequence[Exam]
    signatures: Signatures


def parts_apart(
    learnt: Sequence[Part], kept_apart: Part, policy: TwinCheck, out: Path | None
) -> list[dict[str, str]]:
    """The pairs of a film that is learnt from and one that is kept apart from those, a row each.

    An exam is no twin of itself. Raises UserError where there is a pair and `policy` is refuse;
    else writes them to `out`, if given, and says so.
    """
    rows = []
    for part in learnt:
        pairs = twins_between(kept_apart.signatures, part.signatures)
        for i in range(len(pairs)):
            one, other = kept_apart.exams[int(pairs.first[i])], part.exams[int(pairs.second[i])]
            if one.image_id != other.image_id:
                names = dict(zip(OWN, (kept_apart.name, part.name), strict=True))
                rows.append({**row_of(pairs, i, one, other), **names})
    if rows and policy == "refuse":
        raise UserError(refused(rows, len(kept_apart.exams)))
    if out is not None and is_first_process():
        if rows:
            write_pairs(out, rows, COLUMNS)
        else:  # of an earlier run
            out.unlink(missing_ok=True)
    if rows and out is not None:
        say(f"{counted(rows, len(kept_apart.exams))}; listed in {out}")
    return rows


def counted(rows: Sequence[dict[str, str]], films: int) -> str:
    """How many films are twins, of what, and the first pair."""
    first = rows[0]
    kinds = " or ".join(dict.fromkeys(row["second_part"] for row in rows))
    count = len({row["first"] for row in rows})
    return (
        f"{count} of {films} {first['first_part']} films are altered copies of {kinds} films "
        f"(twins), for example image_id {first['first']!r} of {first['second']!r}"
    )


def refused(rows: Sequence[dict[str, str]], films: int) -> str:
    """The line that refuses such pairs, and says how they are let through."""
    return f"{counted(rows, films)}; a film must be in one part (--twins report lists them)"


def row_of(pairs: Twins, i: int, one: Exam, other: Exam) -> dict[str, str]:
    """What is written of a pair."""
    return {
        "first": one.image_id,
        "second": other.image_id,
        "first_split": one.split or "",
        "second_split": other.split or "",
        "same_patient": "yes" if one.patient_id == other.patient_id else "no",
        "mirrored": "yes" if pairs.mirrored[i] else "no",
        "inverted": "yes" if pairs.inverted[i] else "no",
        "correlation": f"{pairs.correlation[i]:.3f}",
    }


def write_pairs(file: Path, rows: Iterable[dict[str, str]], columns: Sequence[str]) -> None:
    """Writes the pairs as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, text.getvalue().encode())


def signatures_for(
    exams: Sequence[Exam],
    cache: FilmCache | None,
    also: tuple[int, Aspect] | None = None,
    unreadable: list[str] | None = None,
    *,
    workers: int = 1,
    what: str = "looking for twins",
) -> Signatures:
    """Of each film, from the cache or computed and stored there.

    With `also`, a film that is decoded for it is prepared at that size and aspect, too, so that
    what follows need not decode it again. With `unreadable`, a film that cannot be read is named
    there and is no film's twin, as a volume is not. `workers`: processes that decode. Raises
    UserError for a film that cannot be read otherwise. `what` is shown; "" shows nothing.
    """
    out = Signatures.room(len(exams))
    waiting: list[tuple[int, Exam, np.ndarray]] = []
    look = partial(_looked_at, cache=cache, also=also)
    pool: Any = nullcontext()
    if workers > 1 and len(exams) > AT_ONCE:
        pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))
    with pool as running:
        results = _in_order(running, look, exams)
        rows = enumerate(tracked(exams, what) if what else exams)
        for (row, exam), result in zip(rows, results, strict=True):
            if isinstance(result, Signatures):
                out.put(row, result)
            elif isinstance(result, UnreadableError):
                if unreadable is None:
                    raise result
                unreadable.append(f"film {exam.image_id!r} {result.reason}")
            elif result is not None:
                waiting.append((row, exam, result))
            if len(waiting) == AT_ONCE:
                _put(waiting, out, cache)
                waiting = []
    _put(waiting, out, cache)
    return out


Looked: TypeAlias = Signatures | UInt16[np.ndarray, "s s"] | UnreadableError | None


def _in_order(
    pool: Executor | None, look: "partial[Looked]", exams: Sequence[Exam]
) -> Iterator[Looked]:
    return map(look, exams) if pool is None else pool.map(look, exams, chunksize=16)


def _looked_at(exam: Exam, *, cache: FilmCache | None, also: tuple[int, Aspect] | None) -> Looked:
    """The signature out of the cache; or the film that it is to be computed from; None of a
    volume."""
    words = None if cache is None else cache.derived(exam.pixels, NAME, WORDS)
    if words is not None:
        return Signatures.unpacked(words)
    try:
        if cache is None:
            return fit(exam.pixels(), SIDE, 2, "pad")
        once = Once(exam.pixels)
        film = cache.get(once, SIDE)
        if also is not None and hasattr(once, "fingerprint"):
            cache.get(once, *also)
        return film
    except UnreadableError as error:
        return error
    except OtherDimensionsError:
        return None


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
