"""`cohort:FOLDER`: a cohort that `nofinding cohort` has put together, one row a film, on disk.

The folder holds films.parquet (`assembly.COLUMNS`, and a column for each field of the record) and
cohort.json (where the films are, the fields' units, the flow, the SHA-256 of the table). Where
the films' paths may name a patient, they are not in films.parquet but in places.parquet, which
only its owner may read: without it the cohort says who is in it, and cannot be learnt from.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from nofinding.data.decoding.decode import FilmFile, PublishedFile
from nofinding.data.ehr import EhrField, convert
from nofinding.data.nearest_value import EhrWindow
from nofinding.datasets.build.database import COLUMNS, CohortDatabase
from nofinding.datasets.build.flow import Flow
from nofinding.datasets.build.lesions import Box, BoxLesion
from nofinding.datasets.protocol import ExamSequence
from nofinding.errors import UserError
from nofinding.storage.file_names import as_path
from nofinding.types import Exam, Split, View

__all__ = ["COHORT", "PLACES", "CohortFolder", "Films", "read_description", "write_table"]

TABLE, DESCRIPTION = "films.parquet", "cohort.json"
PLACES = "places.parquet"
GREYS = "greys"  # how a PNG film's greys are read, where its publisher's table says so
VERSION = 1
ROWS = 16_384  # of a row group


def write_table(database: CohortDatabase, flow: Flow, folder: Path) -> dict[str, Any]:
    """Writes films.parquet, by image_id, and gives what cohort.json has to say of it."""
    fields = [f for f in database.fields.values() if f.name in database.offered]
    values = [GREYS] if (GREYS,) in database.run("SELECT column_name FROM (DESCRIBE films)") else []
    columns = ", ".join(f'"{name}"' for name in (*COLUMNS, *(f.name for f in fields), *values))
    if database.private:
        (folder / PLACES).touch(mode=0o600)
        _copy(database, "image_id, path", folder / PLACES)
        (folder / PLACES).chmod(0o600)
        columns = columns.replace('"path"', "NULL::VARCHAR AS path")
    _copy(database, columns, folder / TABLE)
    return {
        "version": VERSION,
        "base": str(database.base.resolve()),
        "source": database.source,
        "films": flow.left,
        "fields": {f.name: {"kind": f.kind, "unit": f.unit, "categories": [*f.categories]}
                   for f in fields},
        "fingerprint": fingerprint(folder / TABLE),
        "sha256": _sha256(folder / TABLE),
        "places": _sha256(folder / PLACES) if database.private else None,
        "flow": flow.to_json(),
    }  # fmt: skip


def _copy(database: CohortDatabase, columns: str, file: Path) -> None:
    target = database.reachable(file).replace("'", "''")
    database.run(
        f"COPY (SELECT {columns} FROM films ORDER BY image_id) TO '{target}' "
        f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS})"
    )


def fingerprint(table: Path) -> str:
    """One hash over who is in which part and what is known of them, without paths: two cohorts
    with the same one are the same, wherever their films lie."""
    digest = hashlib.sha256()
    with table.open("rb") as file:
        parquet = pq.ParquetFile(file)
        names = [name for name in parquet.schema_arrow.names if name not in ("path", "flags")]
        digest.update("|".join(names).encode())  # once, however many row groups were written
        for batch in parquet.iter_batches(batch_size=ROWS):
            columns = [batch.column(name).to_pylist() for name in names]
            for cells in zip(*columns, strict=True):
                digest.update(repr(cells).encode())
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_description(folder: Path) -> dict[str, Any]:
    """What cohort.json says. Raises UserError where there is no cohort, or a changed one."""
    file = folder / DESCRIPTION
    if not folder.is_dir():
        raise UserError(f"cohort:{folder}: is not a folder; `nofinding cohort` makes one")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        right = (
            description["version"] == VERSION
            and isinstance(description["base"], str)
            and isinstance(description["fields"], dict)
        )
        same = right and _sha256(folder / TABLE) == description["sha256"]
    except OSError as error:
        raise UserError(f"cohort:{folder}: {Path(error.filename or file).name} cannot be read "
                        f"({error.strerror})") from None  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{file}: is not a cohort's description") from None
    if not right:
        raise UserError(
            f"{file}: is of version {description['version']}; this program reads {VERSION}"
        )
    if not same:
        raise UserError(
            f"{folder / TABLE}: is not the table of {DESCRIPTION}; make the cohort again"
        )
    return cast("dict[str, Any]", description)


def _with_places(table: pa.Table, folder: Path, sha256: str) -> pa.Table:
    """The table with the paths that are kept apart. Raises UserError where they are not here."""
    file = folder / PLACES
    try:
        if _sha256(file) != sha256:
            raise UserError(f"{file}: is not the one of {DESCRIPTION}; make the cohort again")
        with file.open("rb") as stream:
            places = pq.read_table(stream)
    except FileNotFoundError:
        raise UserError(f"{file}, which says where the films lie, is not here") from None
    except (pa.ArrowException, OSError):
        raise UserError(f"{file}: cannot be read") from None
    return table.set_column(table.schema.get_field_index("path"), "path", places.column("path"))


class Films(ExamSequence):
    """The films of a cohort, made one by one when they are asked for: the table is kept as it is,
    some 200 bytes a film."""

    def __init__(self, folder: Path, fields: Mapping[str, EhrField]) -> None:
        """Raises UserError where the cohort is damaged, or a field has another unit here."""
        description = read_description(folder)
        self.folder, self.base = folder, Path(description["base"])
        self._fields = {n: f for n, f in fields.items() if n in description["fields"]}
        for name, field in self._fields.items():
            theirs = description["fields"][name]
            if field.kind == "categorical" and [*field.categories] != theirs["categories"]:
                raise UserError(
                    f"cohort:{folder}: field {name} has {', '.join(theirs['categories'])}, here "
                    f"{', '.join(field.categories)}"
                )
        self._units = {name: description["fields"][name]["unit"] for name in self._fields}
        try:
            with (folder / TABLE).open("rb") as stream:
                more = [GREYS] if GREYS in pq.read_schema(stream).names else []
                columns = [*COLUMNS, *self._fields, *more]
                self._table = pq.read_table(stream, columns=columns)
        except (pa.ArrowException, OSError):
            raise UserError(f"{folder / TABLE}: is damaged") from None
        if description.get("places"):
            self._table = _with_places(self._table, folder, description["places"])

    @property
    def offers(self) -> tuple[str, ...]:
        """The fields that the cohort has."""
        return tuple(self._fields)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def exam(self, index: int) -> Exam:
        """The film of that row."""
        return self._record(index, self._table.slice(index, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Exam]:
        row = 0
        for batch in self._table.to_batches(max_chunksize=1024):
            for cells in batch.to_pylist():
                yield self._record(row, cells)
                row += 1

    def _record(self, row: int, cells: dict[str, Any]) -> Exam:
        where = f"{self.folder}: film {row + 1}"
        path = PurePath(as_path(cells["path"]))
        if path.is_absolute() or ".." in path.parts:  # `cohort` writes no such path
            raise UserError(f"{where}: its path leads out of the folder of the films")
        greys, place = cells.get(GREYS), self.base / path
        film = PublishedFile(place, where, greys) if greys else FilmFile(place, where)
        ehr = {}
        for name, field in self._fields.items():
            value = cells[name]
            if value is None:
                continue
            if field.kind == "categorical":
                ehr[name] = float(field.categories.index(value))
            else:
                ehr[name] = convert(value, self._units[name] or field.unit, field)
        findings, taken = cells["findings"], cells["taken"]
        boxes = tuple(
            Box(b["left"], b["top"], b["wide"], b["high"], b["of_wide"], b["of_high"])
            for b in cells["boxes"] or ()
        )
        return Exam(
            image_id=cells["image_id"],
            patient_id=cells["patient_id"],
            pixels=film,
            ehr=ehr,
            view=next((view for view in get_args(View) if view == cells.get("view")), None),
            taken=taken.replace(tzinfo=UTC) if isinstance(taken, datetime) else None,
            findings=None if findings is None else frozenset(findings),
            split=cast("Split | None", cells["split"]),
            lesion=BoxLesion(boxes, film) if boxes else None,
            flags=tuple(cells["flags"] or ()),
        )


@dataclass(frozen=True, slots=True)
class CohortFolder:
    """The source: reads what `nofinding cohort` wrote."""

    name: str = "cohort"
    summary: str = "a cohort that `nofinding cohort` put together"

    def sequence(self, root: str, fields: Mapping[str, EhrField]) -> Films:
        """All films, read when asked for. Raises UserError as `Films` does."""
        return Films(Path(root).expanduser(), fields)

    def read(self, root: str, fields: Mapping[str, EhrField]) -> Iterator[Exam]:
        """The films, by image_id."""
        yield from self.sequence(root, fields)

    def offers(self, root: str, fields: Mapping[str, EhrField]) -> tuple[str, ...]:
        """The fields that the cohort has a column of."""
        description = read_description(Path(root).expanduser())
        return tuple(name for name in fields if name in description["fields"])

    def ehr_window(self, root: str) -> EhrWindow:
        """When a value of the EHR counted for a film. Raises UserError as `read_description`."""
        folder = Path(root).expanduser()
        choices = {"direction": EhrWindow().direction, **read_description(folder)["choices"]}
        try:
            return EhrWindow(days=choices["window"], direction=choices["direction"])
        except (LookupError, TypeError, UserError):
            raise UserError(f"{folder / DESCRIPTION}: has no window of days") from None


COHORT = CohortFolder()
