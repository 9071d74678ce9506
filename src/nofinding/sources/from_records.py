"""The records of any source that reads films from files, as an assembly: so that a table gets a
flow diagram, a split and its checks, too."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from nofinding.data.decode import FilmFile, VolumeFile
from nofinding.errors import UserError
from nofinding.sources.assembly import Assembly
from nofinding.sources.lesions import BoxLesion, MaskLesion
from nofinding.sources.protocol import Source
from nofinding.types import Record

__all__ = ["assemble_records"]


def assemble_records(assembly: Assembly, source: Source, root: str) -> bool:
    """Takes all records of the source; gives whether any of them has a split.

    Raises UserError where the source makes its films itself, or a drawn mask would be lost.
    """
    offered = source.offers(root, assembly.fields)
    base = assembly.base.resolve()
    rows: list[dict[str, Any]] = []
    official = False
    for record in source.read(root, assembly.fields):
        rows.append(_row(record, source.name, base, assembly))
        official = official or record.split is not None
    if not rows:
        raise UserError(f"{source.name}:{root}: has no film")
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in _names(rows)}
    assembly.con.register("chunk", pa.table(columns))
    assembly.films("SELECT * FROM chunk", offers=offered)
    assembly.con.unregister("chunk")
    return official


def _names(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The columns in which something stands."""
    seen = dict.fromkeys(name for row in rows for name in row)
    for name in seen:
        if any(row.get(name) is not None for row in rows):
            yield name


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
        "path": os.path.relpath(film.path.resolve(), base),
        "taken": record.taken,
        "split": record.split,
        "findings": None if record.findings is None else sorted(record.findings),
        "boxes": [box._asdict() for box in boxes] or None,
        "flags": [*record.flags],
    }
    for name, value in record.ehr.items():
        field = assembly.fields[name]
        row[name] = field.categories[int(value)] if field.kind == "categorical" else value
    return row
