"""scores.csv read and joined to the labels: the one place where the two meet."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from nofinding.data.twin_choice import TwinCheck
from nofinding.errors import UserError
from nofinding.evaluation.flags import REFUSED, TRAINED_ON, TWIN_CALIBRATES, TWIN_TRAINED
from nofinding.evaluation.statistics.conformal import hashed
from nofinding.evaluation.statistics.intervals import patient_index
from nofinding.types import Exam

__all__ = ["Scored", "read_scores"]

NOT_PARTS = ("image_id", "score", "p_value", "stratum", "flags")  # every other column is a number


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The labelled films of a scores.csv, in the order of their image_id."""

    path: Path
    exams: tuple[Exam, ...]
    score: Float[np.ndarray, " n"]
    p_value: Float[np.ndarray, " n"] | None
    components: Mapping[str, Float[np.ndarray, " n"]]  # NaN where the cell is empty
    flags: tuple[tuple[str, ...], ...]
    abnormal: Bool[np.ndarray, " n"]
    patient: Int[np.ndarray, " n"]  # a number for each patient
    unlabelled: int  # films scored, but of unknown label: not evaluated
    unscored: int  # labelled films of the same split(s) that have no score: not evaluated
    refused: tuple[int, int] = (0, 0)  # normal, abnormal films that the gate refused
    twins: tuple[str, ...] = ()  # altered copies of films that the model was fitted on
    run: Mapping[str, Any] = field(default_factory=dict)  # run.json; empty where there is none

    @cached_property
    def calibrates(self) -> Bool[np.ndarray, " n"]:
        """Whether each film is among those that calibrate its p-value.

        How many of these are called is known beforehand: of n films, each left out of its own
        calibration, the floor(level * n) highest, whatever the scores. It is no evidence.
        """
        listed = self.run.get("calibration_ids")
        named = {str(name) for name in listed} if isinstance(listed, list) else set()
        return np.array([hashed(r.image_id) in named for r in self.exams], dtype=bool)

    @property
    def patients(self) -> int:
        return int(self.patient.max()) + 1

    @property
    def n_normal(self) -> int:
        return int((~self.abnormal).sum())

    @property
    def n_abnormal(self) -> int:
        return int(self.abnormal.sum())

    @property
    def prevalence(self) -> float:
        return float(self.abnormal.mean())

    @property
    def method(self) -> str:
        return str(self.run.get("method", self.path.parent.name or self.path.stem))


@dataclass(frozen=True, slots=True)
class _Row:
    score: float  # NaN: refused
    p_value: float  # NaN: empty
    components: tuple[float, ...]
    flags: tuple[str, ...]


def read_scores(path: Path, exams: Sequence[Exam], *, twins: TwinCheck = "refuse") -> Scored:
    """Joins `path` (scores.csv, with run.json beside it if there is one) to the labels by id.

    Columns image_id and score are needed; p_value, stratum and flags are known, any other is a
    number. Unlabelled films, and those that the input gate refused, are left out and counted.
    Raises UserError for an unreadable file, a missing column, a value that is not a finite
    number, a duplicate or unknown image_id, where no normal or no abnormal film is left, and for
    films that the model was trained on, or, unless `twins` says otherwise, that are marked as twins
    of those that it was fitted on.
    """
    rows, names = _read_rows(path)
    by_id = {exam.image_id: exam for exam in exams}
    if len(by_id) != len(exams):
        raise UserError("the films to evaluate hold an image_id twice; each must be unique")
    for line, image_id in enumerate(rows, start=2):
        if image_id not in by_id:
            raise UserError(
                f"{path}: row {line}: image_id {image_id!r} is none of the {len(by_id)} films given"
            )
    splits = {by_id[image_id].split for image_id in rows}
    unscored = sum(
        r.findings is not None and r.split in splits and r.image_id not in rows for r in exams
    )
    labelled = [image_id for image_id in rows if by_id[image_id].findings is not None]
    refused = [image_id for image_id in labelled if math.isnan(rows[image_id].score)]
    sick = sum(bool(by_id[image_id].findings) for image_id in refused)
    ids = sorted(set(labelled) - set(refused))
    abnormal = np.array([bool(by_id[image_id].findings) for image_id in ids], dtype=bool)
    for kind, there in (("normal", ~abnormal), ("abnormal", abnormal)):
        if not there.any():
            raise UserError(
                f"{path}: no {kind} film among the {len(ids)} labelled ones; needs both"
            )
    trained = [image_id for image_id in ids if TRAINED_ON in rows[image_id].flags]
    if trained:
        raise UserError(
            f"{path}: the model was trained on {len(trained)} of the {len(ids)} films, for example "
            f"{trained[0]!r}; score others, such as --split test"
        )
    flagged = [i for i in ids if {TWIN_TRAINED, TWIN_CALIBRATES} & {*rows[i].flags}]
    if flagged and twins == "refuse":
        raise UserError(
            f"{path}: the model was fitted on altered copies of {len(flagged)} of the {len(ids)} "
            f"films (twins), for example {flagged[0]!r}; score others (--twins report lists them)"
        )
    parts = np.array([rows[image_id].components for image_id in ids]).reshape(len(ids), len(names))
    return Scored(
        path=path,
        exams=tuple(by_id[image_id] for image_id in ids),
        score=np.array([rows[image_id].score for image_id in ids]),
        p_value=_p_values(path, rows, ids),
        components={name: parts[:, i] for i, name in enumerate(names)},
        flags=tuple(rows[image_id].flags for image_id in ids),
        abnormal=abnormal,
        patient=patient_index([by_id[image_id].patient_id for image_id in ids]),
        unlabelled=len(rows) - len(labelled),
        unscored=unscored,
        refused=(len(refused) - sick, sick),
        twins=tuple(flagged) if twins == "report" else (),
        run=_read_run(path.with_name("run.json")),
    )


def _read_rows(path: Path) -> tuple[dict[str, _Row], list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: is not a CSV file in UTF-8") from None
    header = lines[0] if lines else []
    for column in ("image_id", "score"):
        if header.count(column) != 1:
            there = " ".join(", ".join(header).split())[:200] or "none"
            raise UserError(f"{path}: needs one column {column!r}; it has {there}")
    names = [name for name in header if name not in NOT_PARTS]
    rows: dict[str, _Row] = {}
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(header):
            raise UserError(
                f"{path}: row {number}: has {len(cells)} cells, the header has {len(header)}"
            )
        cell = dict(zip(header, cells, strict=True))
        if cell["image_id"] in rows:
            raise UserError(f"{path}: row {number}: image_id {cell['image_id']!r} is there twice")
        rows[cell["image_id"]] = _row(cell, names, f"{path}: row {number}")
    return rows, names


def _row(cell: Mapping[str, str], names: Sequence[str], where: str) -> _Row:
    p_value = _number(cell.get("p_value", ""), f"{where}: p_value")
    if p_value <= 0 or p_value > 1:
        raise UserError(f"{where}: p_value is {p_value:g}; allowed is above 0 up to 1")
    score = _number(cell["score"], f"{where}: score")
    refused = any(
        flag.strip().startswith(f"{REFUSED}:") for flag in cell.get("flags", "").split(";")
    )
    if math.isnan(score) and not refused:
        raise UserError(f"{where}: score is {cell['score']!r}; a finite number is needed")
    flags = cell.get("flags", "").split(";")
    return _Row(
        score=score,
        p_value=p_value,
        components=tuple(_number(cell[name], f"{where}: {name}") for name in names),
        flags=tuple(flag.strip() for flag in flags if flag.strip()),
    )


def _number(text: str, where: str) -> float:
    """Gives the number; NaN for an empty cell or one that says nan."""
    try:
        value = float(text.strip() or "nan")
    except ValueError:
        raise UserError(f"{where} is {text!r}; a number is needed") from None
    if math.isinf(value):
        raise UserError(f"{where} is {text!r}; a finite number is needed")
    return value


def _p_values(
    path: Path, rows: Mapping[str, _Row], ids: Sequence[str]
) -> Float[np.ndarray, " n"] | None:
    values = np.array([rows[image_id].p_value for image_id in ids])
    if np.isnan(values).all():
        return None
    if np.isnan(values).any():
        line = list(rows).index(ids[int(np.isnan(values).argmax())]) + 2
        raise UserError(f"{path}: row {line}: p_value is empty, but other rows have one")
    return values


def _read_run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise UserError(f"{path}: cannot be read as JSON") from None
    if not isinstance(run, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return run
