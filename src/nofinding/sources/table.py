"""`table:films.csv`: films listed in a CSV or Parquet table, one row a film.

Columns: `path` (relative to the table, or absolute) is the only one that must be there.
`image_id` is the file's name without ending if not given, `patient_id` the image_id.
`findings` are joined by "|"; empty or "No Finding" is a normal film; without the column every
film is unlabelled. `split` is train, val, test or empty. Any field of the record is a column
of its name, with its unit where it is another than the field's: `height [in]`, `weight (lb)`.
`mask` is the path of a PNG that is not black on the finding; else a file `boxes.csv` beside
the table (`lesions.py`) says where findings are. Other columns are ignored.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from nofinding.data.decode import FilmFile, VolumeFile
from nofinding.data.ehr import EhrField, convert, parse, plausible
from nofinding.errors import UserError
from nofinding.sources.lesions import Box, BoxLesion, MaskLesion, read_boxes
from nofinding.sources.rows import read_header, read_rows
from nofinding.types import Record, Split, View

__all__ = ["TABLE", "Table", "name_and_unit"]

PLAIN = ("image_id", "path", "patient_id", "findings", "split", "mask")
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column that holds a field of the record."""

    place: int
    title: str  # as the user wrote it
    field: EhrField
    unit: str | None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which column holds what."""

    file: Path
    plain: dict[str, int]
    ehr: tuple[_Column, ...]
    boxes: Mapping[str, tuple[Box, ...]]
    volumes: bool = False

    def text(self, cells: list[str], name: str) -> str:
        """The cell's text, empty where there is no such column."""
        return cells[self.plain[name]].strip() if name in self.plain else ""


@dataclass(frozen=True, slots=True)
class Table:
    """The source: reads a table of films, or of NIfTI volumes (`nifti.py`), row by row."""

    name: str = "table"
    summary: str = "films listed in a CSV or Parquet table, with any fields of the record"
    volumes: bool = False

    def read(self, root: str, fields: Mapping[str, EhrField]) -> Iterator[Record]:
        """The rows as records, in order; pixels are decoded when they are asked for.

        Raises UserError, naming file, row and column, for everything that cannot be right:
        no `path`, an image_id given twice, an unknown category or split, a number that is none.
        """
        file = Path(root).expanduser()
        layout = _layout(file, fields, self.volumes)
        rows: dict[str, int] = {}
        for row, cells in read_rows(file):
            record = _record(layout, fields, row, cells)
            first = rows.setdefault(record.image_id, row)
            if first != row:
                raise UserError(
                    f"{file}: image_id {record.image_id!r} is in row {first} and in row {row}"
                )
            yield record

    def offers(self, root: str, fields: Mapping[str, EhrField]) -> tuple[str, ...]:
        """The fields that have a column, whether or not anything stands in it."""
        columns = _layout(Path(root).expanduser(), fields, self.volumes).ehr
        offered = {column.field.name for column in columns}
        return tuple(name for name in fields if name in offered)


TABLE = Table()


def name_and_unit(title: str) -> tuple[str, str | None]:
    """("height", "in") of "Height [in]" or "height (in)"; no name where it is written otherwise."""
    match = re.fullmatch(r"(\w+)\s*(?:\[(.+)\]|\((.+)\))?", title.strip(), re.ASCII)
    return (match[1].lower(), match[2] or match[3]) if match else ("", None)


def _layout(file: Path, fields: Mapping[str, EhrField], volumes: bool) -> _Layout:
    """What each column is, from the titles alone; every unit is tried before a row is read."""
    plain: dict[str, int] = {}
    ehr: dict[str, _Column] = {}
    for place, title in enumerate(read_header(file)):
        name, unit = name_and_unit(title)
        if name in plain or name in ehr:
            raise UserError(f"{file}: two columns are called {name!r}")
        if name in PLAIN and unit is None:
            plain[name] = place
        elif name in fields:
            try:
                convert(0.0, unit or fields[name].unit, fields[name]) if unit else None
            except UserError as error:
                raise UserError(f"{file}: column {title.strip()!r}: {error}") from None
            ehr[name] = _Column(place, title.strip(), fields[name], unit)
    if "path" not in plain:
        raise UserError(f"{file}: has no column 'path'")
    boxes = {} if volumes else read_boxes(file.parent / "boxes.csv")
    return _Layout(file, plain, tuple(ehr.values()), boxes, volumes)


def _record(layout: _Layout, fields: Mapping[str, EhrField], row: int, cells: list[str]) -> Record:
    where = f"{layout.file}: row {row}"
    path = layout.text(cells, "path")
    if not path or "\0" in path:
        raise UserError(f"{where}, column path: is empty")
    film = (VolumeFile if layout.volumes else FilmFile)(layout.file.parent / path, where)
    stem = film.path.stem.removesuffix(".nii") if layout.volumes else film.path.stem
    image_id = layout.text(cells, "image_id") or stem
    if not _names_a_file(image_id):
        raise UserError(
            f"{where}, column image_id: {image_id[:40]!r} must be able to name a file: at most "
            "200 characters, no / or \\, none that cannot be printed"
        )
    stated = {}
    for column in layout.ehr:
        try:
            value = parse(column.field, cells[column.place], column.unit)
        except UserError as error:
            reason = str(error).removeprefix(f"{column.field.name}: ")
            raise UserError(f"{where}, column {column.title}: {reason}") from None
        if value is not None:
            stated[column.field.name] = value
    ehr, flags = plausible(stated, fields)
    return Record(
        image_id=image_id,
        patient_id=layout.text(cells, "patient_id") or image_id,
        pixels=film,
        ehr=ehr,
        view=_view(ehr, fields),
        findings=_findings(layout, cells, where),
        split=_split(layout.text(cells, "split"), where),
        lesion=_lesion(layout, cells, film, where),
        flags=flags,
    )


def _names_a_file(image_id: str) -> bool:
    safe = image_id.isprintable() and not set(image_id) & {"/", "\\"}
    return safe and image_id not in (".", "..") and len(image_id.encode()) <= 200


def _view(ehr: Mapping[str, float], fields: Mapping[str, EhrField]) -> View | None:
    name = fields["view"].categories[int(ehr["view"])] if "view" in ehr else None
    return next((view for view in get_args(View) if view == name), None)


def _findings(layout: _Layout, cells: list[str], where: str) -> frozenset[str] | None:
    if "findings" not in layout.plain:
        return None
    named = {part.strip() for part in layout.text(cells, "findings").split("|")} - {""}
    found = frozenset(name for name in named if name.casefold() != "no finding")
    if found and found != named:
        raise UserError(f"{where}, column findings: 'No Finding' stands beside a finding")
    return found


def _split(text: str, where: str) -> Split | None:
    for split in SPLITS:
        if text.casefold() == split:
            return split
    if text:
        raise UserError(
            f"{where}, column split: {text[:40]!r} is not one of {', '.join(SPLITS)}, or empty"
        )
    return None


def _lesion(
    layout: _Layout, cells: list[str], film: FilmFile, where: str
) -> MaskLesion | BoxLesion | None:
    if mask := layout.text(cells, "mask"):
        drawn, named = layout.file.parent / mask, f"{where}, column mask"
        file = VolumeFile(drawn, named, mask=True) if layout.volumes else FilmFile(drawn, named)
        return MaskLesion(file, film)
    if boxes := layout.boxes.get(film.path.stem):
        return BoxLesion(boxes, film)
    return None
