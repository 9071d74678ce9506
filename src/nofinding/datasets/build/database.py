"""Where a cohort is put together: publisher's tables in, one row a film out, every loss counted.

DuckDB does the work, out of core: a join over millions of measurements takes seconds, and memory
stays bounded. A source states its tables and its joins in SQL, and this file sees to it that a
fault is one line and that no film goes missing silently.
"""

import csv
import gzip
import os
import re
import secrets
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import duckdb
import pyarrow as pa

from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import EhrField
from nofinding.datasets.build.choices import Choices
from nofinding.datasets.build.column_titles import lacks_column, require_commas
from nofinding.datasets.build.flow import Remark, Step
from nofinding.datasets.build.words import MACROS as WORDS
from nofinding.errors import UserError
from nofinding.storage.file_names import as_path, as_text, is_text, safe_id
from nofinding.storage.folder_walk import walk_files

__all__ = ["CohortDatabase", "Progress"]

Progress = Callable[[Sequence[Path], str], Iterator[Path]]
MEMORY = "1GB"  # of DuckDB; more is spilled to its folder
LINE = 2**20  # characters of a table's titles
# What is the fault of a table; the others are this program's.
FAULTS = (duckdb.DataError, duckdb.InvalidInputException, duckdb.IOException,
          duckdb.OutOfMemoryException)  # fmt: skip
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".dcm", ".dicom"})

# What a row may hold; a source leaves out what it has not.
COLUMNS = {
    "image_id": "VARCHAR",  # a pseudonym
    "patient_id": "VARCHAR",
    "study_id": "VARCHAR",
    "path": "VARCHAR",  # from the base folder; NULL: the publisher lists it, but it is not there
    "taken": "TIMESTAMP",
    "split": "VARCHAR",  # train, val, test, or NULL
    "findings": "VARCHAR[]",  # NULL: unlabelled; empty: "No Finding"
    "boxes": 'STRUCT("left" DOUBLE, top DOUBLE, wide DOUBLE, high DOUBLE, of_wide DOUBLE, '
    "of_high DOUBLE)[]",  # in pixels of a film of of_wide x of_high; NULL there: of the film itself
    "flags": "VARCHAR[]",  # what was wrong with the record
}

# A number alone, in the notations that tables have; NULL for ">60", "1,5" or "unable". An id that
# went through floating point ("17.0") is the whole number that it was. A time is the clock as it
# stands there, whatever offset from UTC stands behind it: a film's clock has none.
MACROS = r"""
CREATE MACRO number(t) AS CASE WHEN
  regexp_full_match(trim(t), '[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?') THEN
  CASE WHEN isfinite(try_cast(trim(t) AS DOUBLE)) THEN try_cast(trim(t) AS DOUBLE) END END;
CREATE MACRO whole(t) AS regexp_replace(trim(t), '^(\d+)\.0+$', '\1');
CREATE MACRO clock(t) AS replace(replace(whole(regexp_replace(trim(t),
  '^(.*\d\d:\d\d.*?)\s*(Z|z|UTC|GMT|[+-]\d\d(:?\d\d)?)$', '\1')), 'T', ' '), '/', '-');
CREATE MACRO moment(t) AS coalesce(
  try_strptime(trim(t), '%Y-%m-%d %H:%M:%S'), try_strptime(trim(t), '%Y-%m-%d'),
  try_strptime(clock(t), '%Y-%m-%d %H:%M:%S.%f'), try_strptime(clock(t), '%Y-%m-%d %H:%M:%S'),
  try_strptime(clock(t), '%Y-%m-%d %H:%M'), try_strptime(clock(t), '%Y-%m-%d'),
  CASE WHEN regexp_full_match(clock(t), '\d{8}( .*|\d{6})?') THEN coalesce(
    try_strptime(clock(t), '%Y%m%d'), try_strptime(clock(t), '%Y%m%d %H:%M:%S'),
    try_strptime(clock(t), '%Y%m%d %H:%M'), try_strptime(clock(t), '%Y%m%d%H%M%S')) END);
CREATE MACRO stem(p) AS regexp_replace(regexp_replace(p, '^.*/', ''), '\.[^.]*$', '');
"""


class CohortDatabase:
    """One cohort in the making: a database of its own, and the films' table in it.

    A source calls `csv` for its tables, `films` once, `drop` and `remark` for what it decides;
    `completion.complete` does the rest.
    """

    def __init__(
        self,
        source: str,
        root: Path,
        fields: Mapping[str, EhrField],
        choices: Choices,
        workshop: Path,
        threads: int = 0,
        progress: Progress | None = None,
        *,
        place: str = "",
        cache: FilmCache | None = None,
    ) -> None:
        """`workshop` is an empty folder for what does not fit into memory; `progress` goes through
        files and shows how far it is; `place` is what the user wrote behind "source:", where that
        is more than a folder.

        Raises UserError where `root` is not a folder.
        """
        if not root.is_dir():
            raise UserError(f"{source}:{root}: is not a folder")
        self.source, self.root, self.base = source, root, root
        self.place = place or str(root)
        self.private = False
        """Whether the films' paths may name a patient, and are kept apart from the cohort."""
        self.fields, self.choices = fields, choices
        self.workshop = workshop
        self.threads = threads or os.cpu_count() or 1
        self.progress: Progress = progress or (lambda files, what: iter(files))
        self.cache = cache
        self.twins: list[dict[str, str]] = []
        """Pairs of films in two splits that are one film, where they are let through."""
        self.steps: list[Step] = []
        self.remarks: list[Remark] = []
        self.counts_at_start = (0, 0)
        """Films and patients that the publisher lists."""
        self.offered: set[str] = set()
        """Fields that the source can give."""
        self.links: tempfile.TemporaryDirectory[str] | None = None
        self.con = duckdb.connect()
        self.con.execute(f"SET memory_limit='{MEMORY}'")
        self.con.execute(f"SET threads={self.threads}")
        self.con.execute("SET enable_progress_bar=false")
        self.con.execute("SET temp_directory=?", [self.reachable(workshop)])
        self.con.execute(WORDS + MACROS)

    def close(self) -> None:
        """Lets the database go."""
        self.con.close()
        if self.links is not None:
            self.links.cleanup()

    def reachable(self, path: Path) -> str:
        """The path as the database can take it, which knows UTF-8 alone: of another one, a path by
        way of a link."""
        if is_text(str(path)):
            return str(path)
        if self.links is None:
            self.links = tempfile.TemporaryDirectory(prefix="nofinding-")
        target, rest = (path.parent, path.name) if is_text(path.name) else (path, "")
        link = Path(self.links.name) / secrets.token_hex(8)
        link.symlink_to(target.absolute())
        return str(link / rest) if rest else str(link)

    def file(self, path: str) -> Path:
        """The file of a path as the films' table has it."""
        return self.base / as_path(path)

    # --- tables in -----------------------------------------------------------------------------

    def find(self, *patterns: str, under: Path | None = None, what: str = "") -> Path:
        """The first file under the folder that one of the patterns names ("a/*.csv", ...).

        Raises UserError naming the folder and the first pattern where there is none.
        """
        files = self.find_if_there(*patterns, under=under)
        if files is None:
            note = f"; {what}" if what else ""
            raise UserError(f"{under or self.root}: has no file {patterns[0]}{note}")
        return files

    def find_if_there(self, *patterns: str, under: Path | None = None) -> Path | None:
        """The first file that one of the patterns names, or None."""
        for pattern in patterns:
            for name in (pattern, f"{pattern}.gz"):
                for file in sorted((under or self.root).glob(name)):
                    if file.is_file():
                        return file
        return None

    def titles(self, file: Path, separator: str = ",") -> tuple[str, ...]:
        """The titles of a CSV file, plain or gzipped. Raises UserError where it is none."""
        return tuple(title.strip() for title in _titles(file, separator))

    def csv(
        self,
        table: str,
        file: Path,
        needs: Sequence[str],
        *,
        versions: str = "",
        also: Sequence[str] = (),
        separator: str = ",",
    ) -> tuple[str, ...]:
        """Lets `table` stand for a CSV file, plain or gzipped; every cell is text. An empty one is
        NULL, and so is a word for a missing value ("NaN", "NULL", ...).

        `needs` are its columns by name, whatever stands between them; `also` are NULL where the
        file lacks them. `versions` says which releases have the columns. Names are those in the
        file but for case and blanks around them. A tab as `separator` means that there are no
        quotes. Gives the titles found.

        Raises UserError where the file is absent, damaged, or lacks a column. A fault further
        down shows when the table is read.
        """
        titles = _titles(file, separator)
        folded = [title.strip().casefold() for title in titles]
        for name in needs:
            if name.casefold() not in folded:
                note = f"; {versions}" if versions else ""
                raise UserError(f"{lacks_column(file, name, titles)}{note}")
        twice = next((t for t in (*needs, *also) if folded.count(t.casefold()) > 1), None)
        if twice is not None:
            raise UserError(f"{file}: two columns are called {twice!r}")
        types = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(titles)))
        columns_needed = [
            f'stated(c{folded.index(name.casefold())}) AS "{name}"'
            if name.casefold() in folded
            else f'NULL::VARCHAR AS "{name}"'
            for name in (*needs, *also)
        ]
        quoted = self.reachable(file).replace("'", "''")
        quotes = "quote='', escape=''" if separator == "\t" else "quote='\"', escape='\"'"
        self.con.execute(
            f'CREATE OR REPLACE VIEW "{table}" AS SELECT {", ".join(columns_needed)} FROM '
            f"read_csv('{quoted}', columns={{{types}}}, auto_detect=false, header=true, "
            f"delim='{separator}', {quotes})"
        )
        return tuple(title.strip() for title in titles)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query. Raises UserError, one line, for a fault in a table that it reads."""
        try:
            return self.con.execute(sql, list(parameters)).fetchall()
        except FAULTS as e:
            raise UserError(_plain(str(e))) from None

    def run_with(self, chunk: pa.Table, sql: str) -> None:
        """Runs a query that may read from `chunk`, a table in Python's memory."""
        self.con.register("chunk", chunk)
        try:
            self.run(sql)
        finally:
            self.con.unregister("chunk")

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The one value of a query."""
        return self.run(sql, parameters)[0][0]

    # --- the films -----------------------------------------------------------------------------

    def films(self, select: str, offers: Sequence[str] = ()) -> None:
        """Takes the rows of a SELECT as what the publisher lists, one a film.

        Its columns are any of COLUMNS and of the fields' names: a number in the field's unit, a
        category as its text. `offers` names the fields that the source can give; default: the
        fields among the columns. A further column `unfit` is why a row is left out before
        anything else, or NULL. Rows without image_id or patient_id, and the second of two with
        one image_id, are left out and counted.
        """
        self.run(f"CREATE OR REPLACE TABLE listed AS {select}")
        has = {row[0] for row in self.run("DESCRIBE listed")}
        offered = offers or [name for name in self.fields if name in has]
        self.offered = {name for name in offered if name in self.fields}
        columns = dict(COLUMNS)
        for field in self.fields.values():
            columns[field.name] = "DOUBLE" if field.kind == "numeric" else "VARCHAR"
        if "unfit" in has:
            columns["unfit"] = "VARCHAR"
        if "greys" in has:  # as `data.raster.read` takes it, where the publisher's table says it
            columns["greys"] = "VARCHAR"
        columns_text = ", ".join(
            f'CAST("{name}" AS {kind}) AS "{name}"'
            if name in has
            else f'CAST({"[]" if name == "flags" else "NULL"} AS {kind}) AS "{name}"'
            for name, kind in columns.items()
        )
        self.run(f"CREATE OR REPLACE TABLE films AS SELECT {columns_text} FROM listed")
        self.run("UPDATE films SET flags = [] WHERE flags IS NULL")
        self.run("DROP TABLE listed")
        self.run("CREATE OR REPLACE TABLE referred AS SELECT DISTINCT path FROM films")
        self.counts_at_start = self._count()
        if "unfit" in has:
            for (reason,) in self.run(
                "SELECT unfit FROM films WHERE unfit IS NOT NULL "
                "GROUP BY 1 ORDER BY count(*) DESC, 1"
            ):
                self.drop("unfit = ?", reason, [reason])
            self.run("ALTER TABLE films DROP COLUMN unfit")
        self.drop("image_id IS NULL OR patient_id IS NULL", "no id of the film or the patient")
        self.drop(
            "rowid NOT IN (SELECT min(rowid) FROM films GROUP BY image_id)",
            "listed twice (the first stays)",
        )
        self.drop(
            r"NOT regexp_full_match(image_id, '[^/\\"
            "\x00-\x1f\x7f]{1,200}') "
            "OR image_id IN ('.', '..')",
            "an id that cannot name a file",
        )

    def drop(self, where: str, reason: str, parameters: Sequence[Any] = ()) -> int:
        """Leaves out the films that an SQL condition holds for; gives how many, counted or not."""
        films, patients = self._count()
        self.run(f"DELETE FROM films WHERE {where}", parameters)
        left_films, left_patients = self._count()
        gone = films - left_films
        if gone:
            self.steps.append(Step(reason=reason, films=gone, patients=patients - left_patients))
        return gone

    def remark(self, what: str, count: int) -> None:
        """Keeps in mind what was changed or noticed, if it occurred."""
        if count:
            self.remarks.append(Remark(what=what, count=int(count)))

    def _count(self) -> tuple[int, int]:
        films, patients = self.run("SELECT count(*), count(DISTINCT patient_id) FROM films")[0]
        return int(films), int(patients)

    # --- files -----------------------------------------------------------------------------------

    def list_files(self, *, any_ending: bool = False) -> None:
        """Fills the table `present` (path, name, stem, outside) with the films in the base folder,
        or with all files: DICOM needs no ending.

        Goes into no link to a folder unless it stays inside or --follow-links; `outside` is true
        of a link to a file that leads out of the folder. What is not looked at is counted. Called
        once; later calls do nothing. A path is text (`file_names.as_text`), of which `file` gives
        the file; a stem may be an id (`file_names.safe_id`).
        """
        if self.run("SELECT 1 FROM duckdb_tables() WHERE table_name = 'present'"):
            return
        self.run("CREATE TABLE present (path VARCHAR, name VARCHAR, stem VARCHAR, outside BOOLEAN)")
        passed: Counter[str] = Counter()
        for rows in _chunks(self._files(passed, any_ending), 50_000):
            paths, outside = zip(*rows, strict=True)
            names = [path.rpartition("/")[2] for path in paths]
            stems = [safe_id(as_path(name.rpartition(".")[0] or name)) for name in names]
            chunk = pa.table({"path": paths, "name": names, "stem": stems, "outside": outside})
            self.run_with(chunk, "INSERT INTO present SELECT * FROM chunk")
        self.remark("links to folders elsewhere, not entered (--follow-links enters them)",
                    passed["folder link"])  # fmt: skip
        self.remark("files and folders whose names begin with a dot, not looked at",
                    passed["hidden"])  # fmt: skip

    def _files(self, passed: Counter[str], any_ending: bool) -> Iterator[tuple[str, bool]]:
        """(path from the base as text, whether a link leads it out) of every file with a film's
        ending; `passed` counts what was not looked at."""
        for result in walk_files(
            self.base, links="always" if self.choices.follow_links else "inside"
        ):
            if result.kind in ("file", "link out"):
                if any_ending or Path(result.path).suffix.lower() in SUFFIXES:
                    yield as_text(result.path), result.kind == "link out"
            elif (
                any_ending or result.kind == "folder link" or _may_be_film(self.base / result.path)
            ):
                passed[result.kind] += 1


def _chunks(items: Iterator[tuple[str, bool]], size: int) -> Iterator[list[tuple[str, bool]]]:
    rows: list[tuple[str, bool]] = []
    for item in items:
        rows.append(item)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows


def _may_be_film(hidden: Path) -> bool:
    return hidden.suffix.lower() in SUFFIXES or (hidden.is_dir() and hidden.name != ".git")


def _titles(file: Path, separator: str = ",") -> list[str]:
    """The first row of a CSV file. Raises UserError where there is none to be read."""
    try:
        with (gzip.open if file.suffix == ".gz" else open)(
            file, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as lines:  # what stands in later rows is said with its row
            titles = next(csv.reader(_short(lines), strict=True, delimiter=separator), [])
            "".join(titles).encode()
    except FileNotFoundError:
        raise UserError(f"{file}: does not exist") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{file}: is not a whole gzip file; download it again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or 'damaged'})") from None
    except (csv.Error, UnicodeError):
        raise UserError(f"{file}: is not a CSV file (UTF-8, separated by commas)") from None
    if not titles:
        raise UserError(f"{file}: is empty")
    if separator == ",":
        require_commas(file, titles)
    return titles


def _short(lines: TextIO) -> Iterator[str]:
    """The lines; a .gz of a kilobyte may have one of gigabytes. Raises csv.Error for such."""
    while line := lines.readline(LINE):
        if len(line) == LINE:
            raise csv.Error
        yield line


def _plain(error: str) -> str:
    """One line of what the database says of a table, without the cells that it quotes."""
    file = re.search(r"^\s*file = (.+?)\s*$", error, re.MULTILINE)
    name = file[1] if file else ""
    if gz := re.search(r"Unexpected end of GZIP stream: (.+)", error):
        return f"{gz[1].strip()}: is cut off; download it again"
    if re.search(r"gzip|GZIP", error) and not name:
        return "a .gz file is damaged; download it again"
    line = re.search(r"on Line: (\d+)", error)
    row = f": row {line[1]}" if line else ""
    if "utf-8" in error:
        return f"{name}{row}: is not UTF-8"
    if count := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", error):
        return f"{name}{row} has {count[2]} cells, not {count[1]}"
    if "unterminated quote" in error:
        return f"{name}{row}: a quote is not closed"
    if "Out of Memory" in error:
        return "the work did not fit into memory and the disk's free space"
    if name:
        return f"{name}{row}: cannot be read as CSV"
    if re.match(r"(Conversion|Out of Range) Error", error):
        column = re.search(r"source column (\w+)", error)
        return f"{f'column {column[1]}' if column else 'a table'}: has a cell that is no such value"
    return " ".join(error.split())[:200]
