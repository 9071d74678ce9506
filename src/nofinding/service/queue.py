"""The jobs of the service: what was accepted is done, whatever happens in between.

One SQLite file in WAL mode with full synchronisation: a job that was accepted is on the disk. A job
is handed out under a lease; whoever holds it and dies loses it when the lease runs out, and the job
is handed out again, a bounded number of times. Leases count on a clock that never goes back.
"""

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nofinding.errors import UserError

__all__ = ["Accepted", "FullError", "Job", "Queue", "State"]

State: TypeAlias = Literal["waiting", "working", "done", "failed"]
TRIES = 2  # a job whose worker died is tried once more
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, film TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL,
  tries INTEGER NOT NULL, lease REAL, boot TEXT, made REAL NOT NULL, changed REAL NOT NULL,
  payload TEXT NOT NULL, result TEXT, why TEXT, conflict INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, made);
CREATE INDEX IF NOT EXISTS by_film ON jobs (film);
"""


class FullError(Exception):
    """No further job is taken now; ask again in `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, kw_only=True)
class Job:
    """One film on its way."""

    id: str
    film: str
    """A pseudonym of the film's SOP Instance UID, or of its content where it has none."""
    digest: str
    """SHA-256 of what is to be scored: pixels and record."""
    state: State
    tries: int
    payload: Mapping[str, Any]
    """What is to be done: where the film lies, the record."""
    result: Mapping[str, Any] | None
    why: str | None
    """Of a failed one: one line, without anything of the film."""
    conflict: bool
    """Whether the same UID came before with other pixels."""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What became of an offer."""

    job: Job
    new: bool
    """False: the same film with the same content is a job already, and this is that one."""


class Queue:
    """Safe to use from several threads and processes at once."""

    def __init__(
        self,
        file: Path,
        *,
        capacity: int = 1000,
        lease: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`capacity` is how many jobs may wait or be worked on, `lease` for how many seconds one is
        held. Raises UserError where the file is no queue or cannot be opened."""
        self.file, self.capacity, self.lease, self.clock = file, capacity, lease, clock
        self._local = threading.local()
        # A monotonic clock starts anew with the machine: leases of another boot have run out.
        self._boot = _boot()
        try:
            with self._changing() as db:
                db.executescript(SCHEMA)
        except sqlite3.DatabaseError:
            raise UserError(f"{file}: is not a queue of this program, or is damaged") from None

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "db"):
            db = sqlite3.connect(self.file, timeout=30, isolation_level=None)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            self._local.db = db
        connection: sqlite3.Connection = self._local.db
        return connection

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees and makes all of its changes, or none."""
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.rollback()
            raise
        db.commit()

    def offer(self, film: str, digest: str, payload: Mapping[str, Any]) -> Accepted:
        """Takes a job; when this returns it is on the disk.

        The same film and content again is the job that there is; the same film with other content
        is a job of its own, marked as a conflict. Raises FullError where too many wait.
        """
        now = time.time()
        with self._changing() as db:
            rows = db.execute("SELECT * FROM jobs WHERE film = ? ORDER BY made", [film]).fetchall()
            same = next((row for row in rows if row["digest"] == digest), None)
            if same is not None:
                return Accepted(job=_job(same), new=False)
            busy = db.execute(
                "SELECT count(*) FROM jobs WHERE state IN ('waiting', 'working')"
            ).fetchone()[0]
            if busy >= self.capacity:
                raise FullError(max(1, round(self.lease / 4)))
            name = uuid.uuid4().hex
            db.execute(
                "INSERT INTO jobs VALUES "
                "(?, ?, ?, 'waiting', 0, NULL, NULL, ?, ?, ?, NULL, NULL, ?)",
                [name, film, digest, now, now, json.dumps(dict(payload)), bool(rows)],
            )
            made = db.execute("SELECT * FROM jobs WHERE id = ?", [name]).fetchone()
        return Accepted(job=_job(made), new=True)

    def claim(self, most: int = 1) -> list[Job]:
        """The oldest waiting jobs, now held by the caller for `lease` seconds."""
        self.recover()
        with self._changing() as db:
            rows = db.execute(
                "SELECT id FROM jobs WHERE state = 'waiting' ORDER BY made, id LIMIT ?", [most]
            ).fetchall()
            held = []
            for row in rows:
                db.execute(
                    "UPDATE jobs SET state = 'working', tries = tries + 1, lease = ?, boot = ?, "
                    "changed = ? WHERE id = ?",
                    [self.clock() + self.lease, self._boot, time.time(), row["id"]],
                )
                held.append(db.execute("SELECT * FROM jobs WHERE id = ?", [row["id"]]).fetchone())
        return [_job(row) for row in held]

    def done(self, job: Job, result: Mapping[str, Any]) -> bool:
        """Keeps the result; False where somebody else has the job by now, and nothing is kept."""
        return self._end(job, "done", json.dumps(dict(result)), None)

    def fail(self, job: Job, why: str) -> bool:
        """Gives up on a job, with a line that says why."""
        return self._end(job, "failed", None, why)

    def _end(self, job: Job, state: State, result: str | None, why: str | None) -> bool:
        with self._changing() as db:
            changed = db.execute(
                "UPDATE jobs SET state = ?, result = ?, why = ?, lease = NULL, changed = ? "
                "WHERE id = ? AND state = 'working' AND tries = ?",
                [state, result, why, time.time(), job.id, job.tries],
            )
            return changed.rowcount == 1

    def release(self, job: Job) -> None:
        """Puts a job back that was not begun: a service that stops gives up what it holds."""
        with self._changing() as db:
            db.execute(
                "UPDATE jobs SET state = 'waiting', tries = tries - 1, lease = NULL "
                "WHERE id = ? AND state = 'working' AND tries = ?",
                [job.id, job.tries],
            )

    def recover(self) -> int:
        """Jobs whose lease has run out wait again, or have failed if they were tried enough."""
        late = "state = 'working' AND (lease < ? OR boot != ?)"
        when = [self.clock(), self._boot]
        with self._changing() as db:
            db.execute(
                f"UPDATE jobs SET state = 'failed', why = ?, lease = NULL, changed = ? "
                f"WHERE {late} AND tries >= ?",
                ["the worker died over it, twice", time.time(), *when, TRIES],
            )
            again = db.execute(
                f"UPDATE jobs SET state = 'waiting', lease = NULL WHERE {late}", when
            )
            return again.rowcount

    def get(self, name: str) -> Job | None:
        """The job of that id, or None."""
        row = self._connection().execute("SELECT * FROM jobs WHERE id = ?", [name]).fetchone()
        return None if row is None else _job(row)

    def counts(self) -> dict[State, int]:
        """How many jobs there are of each state."""
        counted: dict[State, int] = {"waiting": 0, "working": 0, "done": 0, "failed": 0}
        for row in self._connection().execute("SELECT state, count(*) AS n FROM jobs GROUP BY 1"):
            counted[row["state"]] = row["n"]
        return counted


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        film=row["film"],
        digest=row["digest"],
        state=row["state"],
        tries=row["tries"],
        payload=json.loads(row["payload"]),
        result=None if row["result"] is None else json.loads(row["result"]),
        why=row["why"],
        conflict=bool(row["conflict"]),
    )


def _boot() -> str:
    """What tells one run of the machine from another; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
