"""`table:films.csv`: films listed in a CSV or Parquet table, one row a film.

Columns: `path` (relative to the table, or absolute) is the only one that must be there.
`image_id` is the file's name without ending if not given, `patient_id` the image_id.
`findings` are joined by "|"; empty or "No Finding" is a normal film; without the column every
film is unlabelled. `split` is train, val, test or empty. Any field of the record is a column
of its name, with its unit where it is another than the field's: `height [in]`, `weight (lb)`.
`mask` is the path of a PNG that is not black on the finding; else a file `boxes.csv` beside
the table (`lesions.py`) says where findings are. `taken` is when (ISO 8601). Other columns are
ignored, and those that are nearly called as one of these are remarked.

A word for a missing value ("NaN", "NULL", ...) is an empty cell, in every column. Where findings
are lists, as in the films.parquet of a cohort, an empty list is a normal film, and no list an
unlabelled one; films.parquet beside its cohort.json knows where the films lie.
"""

import ast
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from nofinding.data.decoding.decode import FilmFile, VolumeFile
from nofinding.data.ehr import MISSING, EhrField, convert, parse, plausible
from nofinding.datasets.build.column_titles import Titles, lacks_column, read_titles
from nofinding.datasets.build.flow import Remark
from nofinding.datasets.build.lesions import Box, BoxLesion, MaskLesion, read_boxes
from nofinding.datasets.build.rows import list_columns, read_header, read_rows
from nofinding.datasets.build.words import findings_in, is_list, is_no_finding
from nofinding.errors import UserError
from nofinding.storage.file_names import as_path, safe_id
from nofinding.types import Exam, Split, View

__all__ = ["TABLE", "Table"]

PLAIN = ("image_id", "path", "patient_id", "findings", "split", "mask", "taken")
OWN = frozenset({"image_id", "patient_id", "study_id", "path", "findings", "boxes", "flags"})
"""The columns by which a table is that of a cohort: films.parquet, or a part of it."""
COHORT = "cohort.json"
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
    base: Path
    """Where the paths begin."""
    lists: bool
    """Whether findings are lists."""
    volumes: bool = False
    titles: Titles = field(default=Titles((), ()))

    def text(self, cells: list[str], name: str) -> str:
        """The cell's text; empty where a word for a missing value stands in it, or there is no such
        column."""
        text = cells[self.plain[name]].strip() if name in self.plain else ""
        return "" if text.casefold() in MISSING else text


@dataclass(frozen=True, slots=True)
class Table:
    """The source: reads a table of films, or of NIfTI volumes (`nifti.py`), row by row."""

    name: str = "table"
    summary: str = "films listed in a CSV or Parquet table, with any fields of the record"
    volumes: bool = False

    def read(self, root: str, fields: Mapping[str, EhrField]) -> Iterator[Exam]:
        """The rows as records, in order; pixels are decoded when they are asked for.

        Raises UserError, naming file, row and column, for everything that cannot be right:
        no `path`, an image_id given twice, an unknown category or split, a number that is none.
        """
        file = Path(root).expanduser()
        layout = _layout(file, fields, self.volumes)
        rows: dict[str, int] = {}
        for row, cells in read_rows(file):
            exam = _record(layout, fields, row, cells)
            first = rows.setdefault(exam.image_id, row)
            if first != row:
                raise UserError(
                    f"{file}: image_id {exam.image_id!r} is in row {first} and in row {row}"
                )
            yield exam

    def offers(self, root: str, fields: Mapping[str, EhrField]) -> tuple[str, ...]:
        """The fields that have a column, whether or not anything stands in it."""
        columns = _layout(Path(root).expanduser(), fields, self.volumes).ehr
        offered = {column.field.name for column in columns}
        return tuple(name for name in fields if name in offered)

    def folder(self, root: str) -> Path:
        """The folder that the films of a table lie in: its own, or that of the cohort it is of."""
        file = Path(root).expanduser()
        own = file.suffix.lower() == ".parquet" and set(read_header(file)) >= OWN
        return _base(file) if own else file.parent

    def remarks(self, root: str, fields: Mapping[str, EhrField]) -> tuple[Remark, ...]:
        """What is noticed of the table: titles, films without a patient, words for a normal film.

        Raises UserError as `read` does for titles and numbers of cells.
        """
        file = Path(root).expanduser()
        layout = _layout(file, fields, self.volumes)
        return layout.titles.remarks + _counted(layout, file)


TABLE = Table()


def _layout(file: Path, fields: Mapping[str, EhrField], volumes: bool) -> _Layout:
    """What each column is, from the titles alone; every unit is tried before a row is read."""
    plain: dict[str, int] = {}
    ehr: dict[str, _Column] = {}
    written = read_header(file)
    own = set(written) >= OWN
    titles = read_titles(written, (*PLAIN, *(("boxes", "flags") if own else ()), *fields))
    for place, (title, (name, unit)) in enumerate(zip(written, titles.columns, strict=True)):
        if name in plain or name in ehr:
            raise UserError(f"{file}: two columns are called {name!r}")
        if name in fields:
            try:
                convert(0.0, unit or fields[name].unit, fields[name]) if unit else None
            except UserError as error:
                raise UserError(f"{file}: column {title.strip()!r}: {error}") from None
            ehr[name] = _Column(place, title.strip(), fields[name], unit)
        elif name and unit is None:
            plain[name] = place
    if "path" not in plain:
        raise UserError(lacks_column(file, "path", written))
    boxes = {} if volumes else read_boxes(file.parent / "boxes.csv")
    return _Layout(
        file,
        plain,
        tuple(ehr.values()),
        boxes,
        _base(file) if own else file.parent,
        _findings_are_lists(file, written, plain),
        volumes,
        titles,
    )


def _base(file: Path) -> Path:
    """The folder that a cohort's paths begin in, by the cohort.json beside its table; else the
    table's own."""
    try:
        base = json.loads((file.parent / COHORT).read_text(encoding="utf-8"))["base"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return file.parent
    return Path(base) if isinstance(base, str) else file.parent


def _findings_are_lists(file: Path, written: list[str], plain: Mapping[str, int]) -> bool:
    if "findings" not in plain:
        return False
    if file.suffix.lower() == ".parquet":
        return written[plain["findings"]] in list_columns(file)
    cells = (cells[plain["findings"]].strip() for _, cells in read_rows(file))
    return is_list(next((cell for cell in cells if cell.casefold() not in MISSING), ""))


def _counted(layout: _Layout, file: Path) -> tuple[Remark, ...]:
    """What the cells say of patients and normal films, by the number of rows."""
    counts: Counter[str] = Counter()
    for _, cells in read_rows(file):
        if not layout.text(cells, "patient_id"):
            counts[
                "rows without a patient_id, each of which counts as one patient"
                if "patient_id" in layout.plain
                else "films, each of which counts as one patient, as there is no column patient_id"
            ] += 1
        if "findings" not in layout.plain:
            continue
        raw = cells[layout.plain["findings"]].strip()
        if raw and raw.casefold() in MISSING:
            kind = "unlabelled film" if layout.lists else "normal film, as an empty cell does"
            counts[f"cells of findings that say {raw!r}, which stands for a {kind}"] += 1
        words = findings_in(raw)
        if len(words) == 1 and is_no_finding(words[0]) and words[0].casefold() != "no finding":
            counts[f"cells of findings that say {words[0]!r}, read as No Finding"] += 1
    return tuple(Remark(what=what, count=count) for what, count in counts.items())


def _record(layout: _Layout, fields: Mapping[str, EhrField], row: int, cells: list[str]) -> Exam:
    where = f"{layout.file}: row {row}"
    path = layout.text(cells, "path")
    if not path or "\0" in path:
        raise UserError(f"{where}, column path: is empty")
    film = (VolumeFile if layout.volumes else FilmFile)(layout.base / as_path(path), where)
    stem = film.path.stem.removesuffix(".nii") if layout.volumes else film.path.stem
    image_id = layout.text(cells, "image_id") or safe_id(stem)
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
    return Exam(
        image_id=image_id,
        patient_id=layout.text(cells, "patient_id") or image_id,
        pixels=film,
        ehr=ehr,
        view=_view(ehr, fields),
        findings=_findings(layout, cells, where),
        split=_split(layout.text(cells, "split"), where),
        lesion=_lesion(layout, cells, film, where),
        taken=_taken(layout.text(cells, "taken")),
        flags=(*findings_in(layout.text(cells, "flags")), *flags),
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
    text = layout.text(cells, "findings")
    if layout.lists and not text:
        return None
    named = set(findings_in(text))
    findings = frozenset(name for name in named if not is_no_finding(name))
    if findings and findings != named:
        raise UserError(f"{where}, column findings: 'No Finding' stands beside a finding")
    return findings


def _taken(text: str) -> datetime | None:
    try:
        taken = datetime.fromisoformat(text)
    except ValueError:
        return None
    return taken.replace(tzinfo=UTC)  # the clock as it is written, as everywhere


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
    if text := layout.text(cells, "boxes"):
        return BoxLesion(_boxes(text, where), film)
    if boxes := layout.boxes.get(film.path.stem):
        return BoxLesion(boxes, film)
    return None


def _boxes(text: str, where: str) -> tuple[Box, ...]:
    """The boxes of a cohort's table, as Python writes their list."""
    try:
        boxes = ast.literal_eval(text)
        return tuple(
            Box(b["left"], b["top"], b["wide"], b["high"], b["of_wide"], b["of_high"])
            for b in boxes
        )
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{where}, column boxes: is not a list of boxes of a cohort") from None
