"""A SQLite file that threads and processes share, and that holds what was said to be in it."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nofinding.errors import UserError

__all__ = ["Database"]

OPENING = 30.0  # seconds that others may take to make the same file


class Database:
    """One file in WAL mode with full synchronisation: what was committed is on the disk."""

    def __init__(self, file: Path, schema: str, what: str) -> None:
        """`schema` makes its tables where they are not there; `what` it is, in words: "a queue".

        Raises UserError where the file is another, damaged, or cannot be opened or written to.
        """
        self.file = file
        self._local = threading.local()
        # Threads wait here in a row: before the file's lock each would sleep and try again.
        self._turn = threading.Lock()
        try:
            with self.changing() as db:
                for statement in filter(str.strip, schema.split(";")):
                    db.execute(statement)
        except sqlite3.OperationalError as error:
            raise UserError(f"{file}: cannot be opened or written to ({error})") from None
        except sqlite3.DatabaseError:
            raise UserError(f"{file}: is not {what} of this program, or is damaged") from None

    def connection(self) -> sqlite3.Connection:
        """This thread's, to read with."""
        if not hasattr(self._local, "db"):
            db = sqlite3.connect(self.file, timeout=30, isolation_level=None)
            db.row_factory = sqlite3.Row
            _to_wal(db)
            db.execute("PRAGMA synchronous=FULL")
            self._local.db = db
        connection: sqlite3.Connection = self._local.db
        return connection

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees and makes all of its changes, or none."""
        with self._turn:
            db = self.connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.rollback()
                raise
            db.commit()


def _to_wal(db: sqlite3.Connection) -> None:
    """Two that open a new file at once: to the second it is locked, and SQLite does not wait."""
    end = time.monotonic() + OPENING
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            locked = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not locked or time.monotonic() > end:
                raise
            time.sleep(0.01)
