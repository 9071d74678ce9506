"""The records of any source that reads films from files, as an assembly: so that a table gets a
flow diagram, a split and its checks, too."""

import os
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from nofinding.data.decoding.decode import FilmFile, VolumeFile
from nofinding.datasets.build.database import COLUMNS, CohortDatabase
from nofinding.datasets.build.lesions import BoxLesion, MaskLesion
from nofinding.datasets.protocol import Remarking, Source
from nofinding.errors import UserError
from nofinding.storage.file_names import as_text
from nofinding.types import Exam

__all__ = ["assemble_exams"]

CHUNK = 10_000  # films that are held at once


def assemble_exams(database: CohortDatabase, source: Source, root: str) -> bool:
    """Takes all records of the source; gives whether any of them has a split.

    Raises UserError where the source makes its films itself, or a drawn mask would be lost.
    """
    offered = source.offers(root, database.fields)
    base = database.base.resolve()
    kinds = dict(COLUMNS) | {
        field.name: "DOUBLE" if field.kind == "numeric" else "VARCHAR"
        for field in database.fields.values()
    }
    columns = ", ".join(f'"{name}" {kind}' for name, kind in kinds.items())
    database.run(f"CREATE TABLE given ({columns})")
    if isinstance(source, Remarking):
        for remark in source.remarks(root, database.fields):
            database.remark(remark.what, remark.count)
    official = False
    exams = source.read(root, database.fields)
    while some := list(islice(exams, CHUNK)):
        rows = [_row(exam, source.name, base, database) for exam in some]
        official = official or any(exam.split is not None for exam in some)
        names = [name for name in kinds if any(row.get(name) is not None for row in rows)]
        chunk = pa.table({name: [row.get(name) for row in rows] for name in names})
        database.run_with(chunk, "INSERT INTO given BY NAME SELECT * FROM chunk")
    if not database.one("SELECT count(*) FROM given"):
        raise UserError(f"{source.name}:{root}: has no film")
    database.films("SELECT * FROM given", offers=offered)
    database.run("DROP TABLE given")
    return official


def _row(exam: Exam, source: str, base: Path, database: CohortDatabase) -> dict[str, Any]:
    film = exam.pixels
    if not isinstance(film, FilmFile) or isinstance(film, VolumeFile):
        raise UserError(
            f"{source}: its films are not files of 2 dimensions; a cohort has only such"
        )
    if isinstance(exam.lesion, MaskLesion):
        raise UserError(f"{source}: a cohort keeps boxes, not masks; use {source}: itself")
    boxes = exam.lesion.boxes if isinstance(exam.lesion, BoxLesion) else ()
    row: dict[str, Any] = {
        "image_id": exam.image_id,
        "patient_id": exam.patient_id,
        "path": as_text(os.path.relpath(film.path.resolve(), base)),
        "taken": None if exam.taken is None else exam.taken.replace(tzinfo=None),
        "split": exam.split,
        "findings": None if exam.findings is None else sorted(exam.findings),
        "boxes": [box._asdict() for box in boxes] or None,
        "flags": [*exam.flags],
    }
    for name, value in exam.ehr.items():
        field = database.fields[name]
        row[name] = field.categories[int(value)] if field.kind == "categorical" else value
    return row
