"""Published lists of films: who is in which part, as the authors of a split ship it.

Read are a CSV file with the columns `film` (or `image_id`, `path`) and `split`, and, where it
has one, `label` (0 or normal; unlabelled; anything else abnormal); the data.json of Med-AD,
{"train": {"0": [...], "unlabeled": {"0": [...], "1": [...]}}, "test": {"0": [...], "1": [...]}};
and BMAD's folders, train/good, valid/good, valid/Ungood, test/good, test/Ungood, with one file a
film, perhaps in a folder img beside the masks in label. A film is named by its id, or by its
file's name with as many folders before it as it takes, with or without ending.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import pyarrow as pa

from nofinding.data.ehr import MISSING
from nofinding.datasets.build.column_titles import require_commas
from nofinding.datasets.build.words import is_no_finding
from nofinding.errors import UserError
from nofinding.storage.file_names import as_text
from nofinding.storage.folder_walk import walk_files

if TYPE_CHECKING:
    from nofinding.datasets.build.database import CohortDatabase

__all__ = ["Listed", "apply_lists", "read_lists"]

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val",
          "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
LARGEST = 2**28  # bytes of a list


Label: TypeAlias = Literal["normal", "abnormal", "unlabelled"]
DEEPEST = 6  # folders of a name that are looked at


class Listed(NamedTuple):
    """One film of a list."""

    name: str
    """With the folders that the list gives, without ending."""
    split: str
    label: Label | None
    """None: the list does not say; unlabelled: it takes the film without its label."""


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


def _name(text: str) -> str:
    whole = text.strip().replace("\\", "/").removeprefix("./")
    before, dot, ending = whole.rpartition(".")
    return before if dot and ending.lower() in ("png", "jpg", "jpeg", "dcm", "dicom") else whole


def _label(word: str) -> Label:
    folded = word.strip().lower()
    if folded in ("unlabeled", "unlabelled"):
        return "unlabelled"
    return "normal" if is_no_finding(folded) else "abnormal"


def _split(word: str, where: str) -> str:
    if word.strip().lower() not in SPLITS:
        raise UserError(f"{where}: {word[:40]!r} is not one of train, val, test")
    return SPLITS[word.strip().lower()]


def _csv(path: Path, text: str) -> Iterator[Listed]:
    rows = csv.DictReader(text.splitlines())
    try:
        yield from _rows(path, rows)
    except csv.Error:
        raise UserError(f"{path}: row {rows.line_num}: is not CSV") from None


def _rows(path: Path, rows: "csv.DictReader[str]") -> Iterator[Listed]:
    titles = {title.strip().lower(): title for title in rows.fieldnames or ()}
    film = next((titles[t] for t in ("film", "image_id", "path") if t in titles), None)
    require_commas(path, [*(rows.fieldnames or ("",))])
    if film is None or "split" not in titles:
        raise UserError(f"{path}: needs the columns film and split")
    for row, cells in enumerate(rows, start=2):
        where = f"{path}: row {row}"
        name, word = cells[film] or "", cells[titles["split"]] or ""
        if not name.strip():
            raise UserError(f"{where}, column {film}: is empty")
        label = (cells[titles["label"]] or "").strip() if "label" in titles else ""
        label = "" if label.casefold() in MISSING else label
        yield Listed(_name(name), _split(word, f"{where}, column split"),
                     _label(label) if label else None)  # fmt: skip


def _json(path: Path, text: str) -> Iterator[Listed]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: must map train, val, test to lists of films by label")
    for word, labels in content.items():
        split = _split(word, str(path))
        if not isinstance(labels, dict):
            raise UserError(f"{path}: {word}: must map labels (0: normal) to lists of films")
        for label, names in labels.items():
            shown = _label(label)
            # what Med-AD learns from without its label is sorted by it all the same
            inner = names if shown == "unlabelled" and isinstance(names, dict) else {"": names}
            for key, films in inner.items():
                if not isinstance(films, list) or not all(isinstance(f, str) for f in films):
                    at = ": ".join(filter(None, (word, label, key)))
                    raise UserError(f"{path}: {at}: must be a list of file names")
                yield from (Listed(_name(film), split, shown) for film in films)


def _folders(path: Path) -> Iterator[Listed]:
    any_folder = False
    for part in sorted(p for p in path.iterdir() if p.is_dir() and p.name.lower() in SPLITS):
        for label in sorted(p for p in part.iterdir() if p.is_dir()):
            for walked in walk_files(label, links="always"):
                *inside, name = walked.path.split("/")
                if walked.kind == "hidden" or "label" in inside:
                    continue  # a folder label holds masks
                any_folder = True
                listed = _name(as_text(name))
                yield Listed(listed, SPLITS[part.name.lower()], _label(label.name))
    if not any_folder:
        raise UserError(f"{path}: has no films in train/good, valid/good, test/good, test/Ungood")


def apply_lists(database: "CohortDatabase", path: Path) -> None:
    """Gives the films of a list their split, leaves out the others, and counts who is missing.
    Films that the list takes without a label lose theirs.

    Raises UserError where one film is listed in two splits or with two labels.
    """
    rows = sorted(set(read_lists(path)), key=lambda row: row.name)
    for one, other in pairwise(rows):
        if one.name == other.name:
            raise UserError(f"{path}: film {one.name[:60]!r} is listed twice, in two ways")
    _match(database, rows)
    twice = database.run(
        "SELECT min(name) FROM matched GROUP BY film HAVING count(DISTINCT (split, label)) > 1"
    )
    if twice:
        raise UserError(f"{path}: film {twice[0][0][:60]!r} is listed twice, in two ways")
    database.run("UPDATE films SET split = NULL")
    database.run("UPDATE films SET split = matched.split FROM matched WHERE film = image_id")
    for what, count in (
        ("films of the published lists that are not here, or were left out above",
         "SELECT count(*) FROM published WHERE name NOT IN (SELECT name FROM matched) "
         "AND name NOT IN (SELECT name FROM ambiguous)"),
        ("names in the published lists that fit several films: left out",
         "SELECT count(*) FROM ambiguous"),
        ("films whose label in the published lists is another than the publisher's",
         "SELECT count(DISTINCT image_id) FROM films JOIN matched ON film = image_id "
         "WHERE findings IS NOT NULL AND label IN ('normal', 'abnormal') "
         "AND (label = 'normal') != (len(findings) = 0)"),
        ("films that the published lists take without a label",
         "SELECT count(DISTINCT film) FROM matched WHERE label = 'unlabelled'"),
    ):  # fmt: skip
        database.remark(what, database.one(count))
    database.run(
        "UPDATE films SET findings = NULL FROM matched WHERE film = image_id "
        "AND label = 'unlabelled'"
    )
    database.drop("split IS NULL", "not in the published lists")


def _match(database: "CohortDatabase", rows: Sequence[Listed]) -> None:
    """The tables published (name, split, label), matched (the same, and film: the image_id) and
    ambiguous (name).

    A name fits a film by the longest end that both have, a folder at a time; or if the folders,
    joined by _, are its id, as those of CheXpert are.
    """
    table = {
        "name": pa.array([row.name for row in rows], pa.string()),
        "split": pa.array([row.split for row in rows], pa.string()),
        "label": pa.array([row.label for row in rows], pa.string()),
    }
    database.run_with(pa.table(table), "CREATE OR REPLACE TABLE published AS SELECT * FROM chunk")
    ends = (
        "SELECT {key} AS key, k, array_to_string(list_slice(parts, len(parts) - k + 1, len(parts)),"
        " '/') AS ending FROM (SELECT *, string_split({path}, '/') AS parts FROM {table}), "
        f"range(1, {DEEPEST + 1}) AS depth(k) WHERE k <= len(parts)"
    )
    bare = r"regexp_replace(path, '\.[^./]*$', '')"
    database.run(
        f"""
        CREATE OR REPLACE TABLE fits AS
        WITH theirs AS ({ends.format(key="name", path="name", table="published")}),
        ours AS ({ends.format(key="image_id", path=bare, table="films")})
        SELECT theirs.key AS name, theirs.k AS k, ours.key AS film
        FROM theirs JOIN ours USING (ending)
        UNION SELECT theirs.key, theirs.k, image_id
        FROM theirs JOIN films ON replace(ending, '/', '_') = image_id
        """
    )
    database.run(
        """
        CREATE OR REPLACE TABLE matched AS
        WITH sure AS (SELECT name, k, min(film) AS film FROM fits GROUP BY name, k
                      HAVING count(DISTINCT film) = 1)
        SELECT published.*, arg_max(film, k) AS film FROM published JOIN sure USING (name)
        GROUP BY ALL
        """
    )
    database.run(
        "CREATE OR REPLACE TABLE ambiguous AS SELECT DISTINCT name FROM fits "
        "WHERE name NOT IN (SELECT name FROM matched)"
    )
