"""Published lists of films: who is in which part, as the authors of a split ship it.

Read are a CSV file with the columns `film` (or `image_id`, `path`) and `split`, and, where it
has one, `label` (0 or normal, anything else abnormal); the JSON of the Med-AD repository,
{"train": {"0": [...], ...}, "test": {"0": [...], "1": [...]}}; and BMAD's folders, train/good,
valid/good, valid/Ungood, test/good, test/Ungood, with one file a film. A film is named by its
file's name, with or without folder and ending.
"""

import csv
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from nofinding.errors import UserError

if TYPE_CHECKING:
    from nofinding.sources.assembly import Assembly

__all__ = ["Listed", "apply_lists", "read_lists"]

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val",
          "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
NORMAL = frozenset({"0", "normal", "good", "no finding", "no_finding"})
LARGEST = 2**28  # bytes of a list


class Listed(NamedTuple):
    """One film of a list."""

    stem: str
    split: str
    normal: bool | None
    """None: the list does not say."""


def read_lists(path: Path) -> Iterator[Listed]:
    """The films of a published list. Raises UserError, naming file and row or key."""
    if path.is_dir():
        yield from _folders(path)
        return
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: is larger than {LARGEST // 2**20} MiB; a list is not")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8") from None
    yield from (_json(path, text) if path.suffix.lower() == ".json" else _csv(path, text))


def _stem(name: str) -> str:
    last = name.strip().replace("\\", "/").rpartition("/")[2]
    before, dot, ending = last.rpartition(".")
    return before if dot and ending.lower() in ("png", "jpg", "jpeg", "dcm", "dicom") else last


def _split(word: str, where: str) -> str:
    if word.strip().lower() not in SPLITS:
        raise UserError(f"{where}: {word[:40]!r} is not one of train, val, test")
    return SPLITS[word.strip().lower()]


def _csv(path: Path, text: str) -> Iterator[Listed]:
    rows = csv.DictReader(text.splitlines())
    titles = {title.strip().lower(): title for title in rows.fieldnames or ()}
    film = next((titles[t] for t in ("film", "image_id", "path") if t in titles), None)
    if film is None or "split" not in titles:
        raise UserError(f"{path}: needs the columns film and split")
    for row, cells in enumerate(rows, start=2):
        where = f"{path}: row {row}"
        name, word = cells[film] or "", cells[titles["split"]] or ""
        if not name.strip():
            raise UserError(f"{where}, column {film}: is empty")
        label = (cells[titles["label"]] or "").strip().lower() if "label" in titles else ""
        yield Listed(_stem(name), _split(word, f"{where}, column split"),
                     label in NORMAL if label else None)  # fmt: skip


def _json(path: Path, text: str) -> Iterator[Listed]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: must map train, val, test to lists of films by label")
    for word, labels in content.items():
        if not isinstance(labels, dict):
            raise UserError(f"{path}: {word}: must map labels (0: normal) to lists of films")
        for label, names in labels.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise UserError(f"{path}: {word}: {label}: must be a list of file names")
            told = None if label.lower().startswith("unlabel") else label.lower() in NORMAL
            for name in names:
                yield Listed(_stem(name), _split(word, f"{path}"), told)


def _folders(path: Path) -> Iterator[Listed]:
    found = False
    for part in sorted(p for p in path.iterdir() if p.is_dir() and p.name.lower() in SPLITS):
        for label in sorted(p for p in part.iterdir() if p.is_dir()):
            for file in sorted(label.rglob("*")):
                if file.is_file() and not file.name.startswith("."):
                    found = True
                    yield Listed(
                        _stem(file.name), SPLITS[part.name.lower()], label.name.lower() in NORMAL
                    )
    if not found:
        raise UserError(f"{path}: has no films in train/good, valid/good, test/good, test/Ungood")


def apply_lists(assembly: "Assembly", path: Path) -> None:
    """Gives the films of a list their split, leaves out the others, and counts who is missing.

    Raises UserError where one film is listed in two splits or with two labels.
    """
    rows = sorted(set(read_lists(path)), key=lambda row: row.stem)
    for one, other in pairwise(rows):
        if one.stem == other.stem:
            raise UserError(f"{path}: film {one.stem[:60]!r} is listed twice, in two ways")
    table = {
        "stem": pa.array([row.stem for row in rows], pa.string()),
        "split": pa.array([row.split for row in rows], pa.string()),
        "normal": pa.array([row.normal for row in rows], pa.bool_()),
    }
    assembly.con.register("chunk", pa.table(table))
    assembly.run("CREATE OR REPLACE TABLE published AS SELECT * FROM chunk")
    assembly.con.unregister("chunk")
    # A list names films by the file's name or by the id.
    assembly.run("UPDATE films SET split = NULL")
    for key in ("image_id", "stem(path)"):
        assembly.run(
            f"UPDATE films SET split = published.split FROM published WHERE {key} = published.stem "
            "AND films.split IS NULL"
        )
    assembly.remark(
        "films of the published lists that are not here",
        len(rows) - assembly.one("SELECT count(*) FROM films WHERE split IS NOT NULL"),
    )
    assembly.drop("split IS NULL", "not in the published lists")
    assembly.remark(
        "films whose label in the published lists is another than the publisher's",
        assembly.one(
            "SELECT count(*) FROM films JOIN published ON published.stem IN "
            "(image_id, stem(path)) WHERE findings IS NOT NULL AND normal IS NOT NULL "
            "AND normal != (len(findings) = 0)"
        ),
    )
