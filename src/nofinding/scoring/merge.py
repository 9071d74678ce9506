"""From the journals of a job to scores.csv, unreadable.csv and what run.json says of the films.

Reads the batches in their order, one at a time. What is held of a film is two hashes, and the
number of its batch, 24 bytes; with weighted calibration also its stratum.
"""

import csv
import io
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from nofinding.data.split import first_of_patients
from nofinding.errors import UserError
from nofinding.evaluation.statistics.conformal import hashed
from nofinding.evaluation.statistics.strata import Stratum
from nofinding.model.calibration import Calibrator
from nofinding.scoring.workspace import Index
from nofinding.storage.atomic import written

__all__ = ["NoneScoredError", "Tally", "count", "read_drawn", "write_scores", "write_unreadable"]

Entry = dict[str, Any]


class NoneScoredError(UserError):
    """Every film was refused, or could not be read."""

    def __init__(self, message: str, reasons: Mapping[str, str]) -> None:
        super().__init__(message)
        self.reasons = reasons
        """Why, by image_id."""


@dataclass
class Tally:
    """What the journals say of all films together."""

    given: int = 0
    scored: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    gflop: float | None = None
    components: tuple[str, ...] = ()
    """Names of the score's ingredients, which are columns."""
    objected: Counter[str] = field(default_factory=Counter)
    """What the gate said against films, and how often."""
    first: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The first "reason" and "unreadable" film: its id, and why."""
    images: array = field(default_factory=lambda: array("Q"))
    patients: array = field(default_factory=lambda: array("Q"))
    batches: array = field(default_factory=lambda: array("L"))
    """Of each scored film: hashed image_id, hashed patient_id, and its batch."""
    strata: list[Stratum] = field(default_factory=list)
    """Of each scored film, where they are asked for."""

    def drawn_from(self) -> Int[np.ndarray, " p"]:
        """The scored films, by their number, of which there is one a patient."""
        images, patients = (np.array(a, dtype=np.uint64) for a in (self.images, self.patients))
        return first_of_patients(images, patients)

    def require_some(self, index: Index) -> None:
        """Raises NoneScoredError where no film was scored at all."""
        if self.scored:
            return
        reasons = {
            film["id"]: film.get("unreadable") or "; ".join(film["flags"])
            for entry in _entries(index)
            for film in entry["films"]
        }
        if "reason" in self.first:
            image_id, reason = self.first["reason"]
            raise NoneScoredError(
                f"all {self.given} films are refused, for example {image_id!r}, which "
                f"{reason}; --gate flag scores them anyway",
                reasons,
            )
        image_id, reason = self.first["unreadable"]
        raise NoneScoredError(
            f"none of the {self.given} films can be read; for example {image_id!r} {reason}",
            reasons,
        )


def count(index: Index, *, strata: bool) -> Tally:
    """Reads every entry once."""
    tally = Tally()
    known: dict[Stratum, Stratum] = {}
    for entry in _entries(index):
        tally.seconds += entry["seconds"]
        tally.gflop = entry["gflop"] if tally.gflop is None else tally.gflop
        for film in entry["films"]:
            tally.given += 1
            if film.get("reason"):
                tally.objected[film["reason"]] += 1
            for kind in ("reason", "unreadable"):
                if film.get(kind):
                    tally.first.setdefault(kind, (film["id"], film[kind]))
            tally.unreadable += "unreadable" in film
            if "score" not in film:
                continue
            tally.scored += 1
            tally.components = tally.components or tuple(film["parts"])
            tally.images.append(int(hashed(film["id"]), 16))
            tally.patients.append(int(film["patient"], 16))
            tally.batches.append(entry["batch"])
            if strata:
                own = Stratum(*film["stratum"])
                tally.strata.append(known.setdefault(own, own))
    return tally


def read_drawn(
    index: Index, tally: Tally, rows: Int[np.ndarray, " p"]
) -> Callable[[Int[np.ndarray, " q"]], tuple[list[list[float]], list[float]]]:
    """What reads points and scores of some of `rows`, for the drift test."""
    batches = np.array(tally.batches, dtype=np.int64)

    def read(drawn: Int[np.ndarray, " q"]) -> tuple[list[list[float]], list[float]]:
        points, scores = [], []
        for row in rows[drawn].tolist():
            number = int(batches[row])
            place = row - int(np.searchsorted(batches, number))
            film = _scored(index.entry(number))[place]
            points.append(film["point"])
            scores.append(float(_text(film["score"])))
        return points, scores

    return read


def write_scores(path: Path, index: Index, tally: Tally, calibrator: Calibrator) -> None:
    """scores.csv, sorted by image_id; a film that was refused has its id and flags alone."""
    first = ["image_id", "score", "p_value"]
    if calibrator.how == "mondrian" and len(calibrator.stored):
        first.append("stratum")
    names = [*first, *tally.components, "flags"]

    def rows() -> Iterator[dict[str, str]]:
        for entry in _entries(index):
            scored = _scored(entry)
            values = np.array([film["score"] for film in scored], dtype=np.float64)
            own = [Stratum(*film["stratum"]) for film in scored]
            p = iter(calibrator(values, [film["id"] for film in scored], own) if scored else ())
            for film in entry["films"]:
                if "unreadable" in film:
                    continue
                row, flags = {"image_id": film["id"]}, [*film["flags"]]
                if "score" in film:
                    cells = next(p)
                    flags += [cells.pop("remark")] if "remark" in cells else []
                    row |= {"score": _text(film["score"])} | cells
                    row |= {name: _text(value) for name, value in film["parts"].items()}
                yield row | {"flags": "; ".join(flags)}

    _write(path, names, rows())


def write_unreadable(path: Path, index: Index) -> None:
    """unreadable.csv: the films that could not be read, and why."""
    _write(
        path,
        ["image_id", "reason"],
        (
            {"image_id": film["id"], "reason": film["unreadable"]}
            for entry in _entries(index)
            for film in entry["films"]
            if "unreadable" in film
        ),
    )


def _entries(index: Index) -> Iterator[Entry]:
    return (index.entry(number) for number in range(len(index)))


def _scored(entry: Entry) -> list[Entry]:
    return [film for film in entry["films"] if "score" in film]


def _text(value: float) -> str:
    return f"{value:.9g}"


def _write(path: Path, names: Sequence[str], rows: Iterator[dict[str, str]]) -> None:
    """Row by row into a file beside it, which takes its place once it is on the disk."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed here
        left.unlink()
    with written(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()  # flushes it, and leaves the file open
