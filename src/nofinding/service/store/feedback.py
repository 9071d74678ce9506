"""What readers say of results: agree, disagree, a comment. Kept in the home, to be exported."""

import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nofinding.storage.sqlite import Database

__all__ = ["COLUMNS", "COMMENT_LONGEST", "Feedback", "TooManyError", "Verdict", "as_csv"]

Verdict: TypeAlias = Literal["agree", "disagree"]
COMMENT_LONGEST = 2000  # characters
MOST = 100  # remarks on one result
COLUMNS = (
    *("id", "made", "job", "film", "verdict", "comment", "who"),
    *("score", "p_value", "model", "sha256"),
)
SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback (
  id INTEGER PRIMARY KEY, made REAL NOT NULL, job TEXT NOT NULL, film TEXT NOT NULL,
  verdict TEXT NOT NULL, comment TEXT NOT NULL, who TEXT NOT NULL,
  score REAL, p_value REAL, model TEXT, sha256 TEXT);
CREATE INDEX IF NOT EXISTS by_job ON feedback (job);
"""


class TooManyError(Exception):
    """A result has as many remarks as are kept."""


class Feedback:
    """A table of remarks. Safe for several threads and processes."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises UserError where the file is no such table."""
        self.clock = clock
        self._db = Database(file, SCHEMA, "feedback")

    def add(
        self,
        job: str,
        film: str,
        verdict: Verdict,
        comment: str,
        who: str,
        result: Mapping[str, Any],
    ) -> int:
        """Keeps a remark beside the score that it is on, and gives its number.

        Raises TooManyError where the result has a hundred already.
        """
        said = [result.get(name) for name in ("score", "p_value", "model", "sha256")]
        with self._db.changing() as db:
            row = db.execute(
                f"INSERT INTO feedback ({', '.join(COLUMNS[1:])}) SELECT ?,?,?,?,?,?,?,?,?,? "
                "WHERE (SELECT count(*) FROM feedback WHERE job = ?) < ?",
                [self.clock(), job, film, verdict, comment, who, *said, job, MOST],
            )
        if row.rowcount != 1:
            raise TooManyError
        return int(row.lastrowid or 0)

    def of(self, job: str) -> list[dict[str, Any]]:
        """All remarks on a result, the first one first."""
        rows = self._db.connection().execute(
            "SELECT * FROM feedback WHERE job = ? ORDER BY id", [job]
        )
        return [dict(row) for row in rows]

    def all(self) -> Iterator[dict[str, Any]]:
        """Every remark, the first one first."""
        last = 0
        while (
            rows := self._db.connection()
            .execute("SELECT * FROM feedback WHERE id > ? ORDER BY id LIMIT 500", [last])
            .fetchall()
        ):
            yield from (dict(row) for row in rows)
            last = rows[-1]["id"]


def as_csv(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """The remarks as CSV, piece by piece. A comment that a spreadsheet would take for a formula
    gets an apostrophe before it."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    for row in rows:
        comment = row["comment"]
        if comment[:1] in ("=", "+", "-", "@", "\t", "\r"):
            comment = f"'{comment}"
        writer.writerow({**row, "comment": comment})
        yield stream.getvalue()
        stream.seek(0)
        stream.truncate()
    yield stream.getvalue()
