"""The records of any source that reads films from files, as an assembly: so that a table gets a
flow diagram, a split and its checks, too."""

import os
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from nofinding.data.decode import FilmFile, VolumeFile
from nofinding.data.file_names import as_text
from nofinding.errors import UserError
from nofinding.sources.assembly import COLUMNS, Assembly
from nofinding.sources.lesions import BoxLesion, MaskLesion
from nofinding.sources.protocol import Remarking, Source
from nofinding.types import Record

__all__ = ["assemble_records"]

CHUNK = 10_000  # films that are held at once


def assemble_records(assembly: Assembly, source: Source, root: str) -> bool:
    """Takes all records of the source; gives whether any of them has a split.

    Raises UserError where the source makes its films itself, or a drawn mask would be lost.
    """
    offered = source.offers(root, assembly.fields)
    base = assembly.base.resolve()
    kinds = dict(COLUMNS) | {
        field.name: "DOUBLE" if field.kind == "numeric" else "VARCHAR"
        for field in assembly.fields.values()
    }
    told = ", ".join(f'"{name}" {kind}' for name, kind in kinds.items())
    assembly.run(f"CREATE TABLE given ({told})")
    if isinstance(source, Remarking):
        for remark in source.remarks(root, assembly.fields):
            assembly.remark(remark.what, remark.count)
    official = False
    records = source.read(root, assembly.fields)
    while some := list(islice(records, CHUNK)):
        rows = [_row(record, source.name, base, assembly) for record in some]
        official = official or any(record.split is not None for record in some)
        names = [name for name in kinds if any(row.get(name) is not None for row in rows)]
        chunk = pa.table({name: [row.get(name) for row in rows] for name in names})
        assembly.run_with(chunk, "INSERT INTO given BY NAME SELECT * FROM chunk")
    if not assembly.one("SELECT count(*) FROM given"):
        raise UserError(f"{source.name}:{root}: has no film")
    assembly.films("SELECT * FROM given", offers=offered)
    assembly.run("DROP TABLE given")
    return official


def _row(record: Record, source: str, base: Path, assembly: Assembly) -> dict[str, Any]:
    film = record.pixels
    if not isinstance(film, FilmFile) or isinstance(film, VolumeFile):
        raise UserError(
            f"{source}: its films are not files of 2 dimensions; a cohort has only such"
        )
    if isinstance(record.lesion, MaskLesion):
        raise UserError(f"{source}: a cohort keeps boxes, not masks; use {source}: itself")
    boxes = record.lesion.boxes if isinstance(record.lesion, BoxLesion) else ()
    row: dict[str, Any] = {
        "image_id": record.image_id,
        "patient_id": record.patient_id,
        "path": as_text(os.path.relpath(film.path.resolve(), base)),
        "taken": None if record.taken is None else record.taken.replace(tzinfo=None),
        "split": record.split,
        "findings": None if record.findings is None else sorted(record.findings),
        "boxes": [box._asdict() for box in boxes] or None,
        "flags": [*record.flags],
    }
    for name, value in record.ehr.items():
        field = assembly.fields[name]
        row[name] = field.categories[int(value)] if field.kind == "categorical" else value
    return row
