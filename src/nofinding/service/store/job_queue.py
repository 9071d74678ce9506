"""The jobs of the service: what was accepted is done, whatever happens in between.

One SQLite file in WAL mode with full synchronisation: a job that was accepted is on the disk. A job
is handed out under a lease; whoever holds it and dies loses it when the lease runs out, and the job
is handed out again, a bounded number of times. Leases count on a clock that never goes back.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from nofinding.storage.plain_json import finite
from nofinding.storage.sqlite import Database

__all__ = ["Accepted", "Delivery", "FullError", "Order", "Queue", "QueuedJob", "State"]

State: TypeAlias = Literal["waiting", "working", "done", "failed"]
Order: TypeAlias = Literal["created", "p_value", "score", "state"]
TRIES = 2  # a job whose worker died is tried once more
DIED = "the worker crashed on it, twice"
SPARE = 5.0  # seconds from the end of a lease in which its holder's own service may kill it first
FURTHEST = 7200.0  # seconds; no delivery is put off for longer
ORDERS: dict[Order, str] = {
    "created": "made",  # the column keeps its name in files that are there
    "p_value": "json_extract(result, '$.p_value')",
    "score": "json_extract(result, '$.score')",
    "state": "state",
}
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, film TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL,
  tries INTEGER NOT NULL, lease REAL, boot TEXT, made REAL NOT NULL, changed REAL NOT NULL,
  payload TEXT NOT NULL, result TEXT, why TEXT, conflict INTEGER NOT NULL,
  holder TEXT, kind TEXT NOT NULL, pixels TEXT, twin TEXT);
CREATE TABLE IF NOT EXISTS deliveries (
  id INTEGER PRIMARY KEY, job TEXT NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL,
  tries INTEGER NOT NULL, due REAL NOT NULL, why TEXT, UNIQUE (job, target));
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, made);
CREATE INDEX IF NOT EXISTS by_film ON jobs (film);
"""


class FullError(Exception):
    """No further job is taken now; ask again in `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """One film on its way."""

    id: str
    film: str
    """A pseudonym of the film's SOP Instance UID, or of its content where it has none."""
    digest: str
    """SHA-256 of what came: the film's bytes and the record."""
    state: State
    tries: int
    payload: Mapping[str, Any]
    """What is to be done: where the film lies, the record."""
    result: Mapping[str, Any] | None
    why: str | None
    """Of a failed one: one line, without anything of the film."""
    conflict: bool
    """Whether the same UID came before with other pixels; known once it is done."""
    twin: str | None
    """The job whose result this is, too: the same pixels with the same record, sent otherwise."""
    kind: str = "film"
    """What is asked: "film", or "what-if" for a film that was scored, with another record."""
    created: float = 0.0
    """When it was taken, in seconds of the wall clock since 1970."""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What became of an offer."""

    job: QueuedJob
    new: bool
    """False: the same film with the same content is a job already, and this is that one."""


class Delivery(NamedTuple):
    """A result on its way to somebody."""

    id: int
    job: str
    target: str
    """Whom to: "dicom:TITLE@host:port", "stow:URL", "fhir:URL"."""
    tries: int


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
        # A monotonic clock starts anew with the machine: leases of another boot have run out.
        self._boot = _boot()
        self._db = Database(file, SCHEMA, "a queue")

    def offer(
        self, film: str, digest: str, payload: Mapping[str, Any], *, kind: str = "film"
    ) -> Accepted:
        """Takes a job; when this returns it is on the disk.

        The same film and content again is the job that there is, even if it has failed; the same
        film with other content is a job of its own. Raises FullError where too many wait.
        """
        now = time.time()
        with self._db.changing() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE film = ? AND kind = ? ORDER BY made", [film, kind]
            ).fetchall()
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
                "(?, ?, ?, 'waiting', 0, NULL, NULL, ?, ?, ?, NULL, NULL, 0, NULL, ?, NULL, NULL)",
                [name, film, digest, now, now, json.dumps(dict(payload)), kind],
            )
            stored = db.execute("SELECT * FROM jobs WHERE id = ?", [name]).fetchone()
        return Accepted(job=_job(stored), new=True)

    def claim(self, most: int = 1, holder: str = "") -> list[QueuedJob]:
        """The oldest waiting jobs, now held by the caller for `lease` seconds.

        A job whose worker died is given out alone: if it was the one that killed, nobody else's
        film dies with it. What-if questions, at which somebody waits, come before films.
        """
        self.recover()
        with self._db.changing() as db:
            # Two jobs of one film are not worked on at once: the second is told of the first.
            rows = db.execute(
                "SELECT id, tries FROM jobs AS own WHERE state = 'waiting' AND NOT EXISTS ("
                "SELECT 1 FROM jobs AS other WHERE other.film = own.film AND other.id != own.id "
                "AND (other.state = 'working' OR (other.state = 'waiting' AND "
                "(other.made, other.id) < (own.made, own.id)))) "
                "ORDER BY kind = 'film', tries > 0, made, id LIMIT ?",
                [most],
            ).fetchall()
            if rows and rows[0]["tries"]:
                rows = rows[:1]
            held = []
            for row in (row for row in rows if row["tries"] == rows[0]["tries"]):
                db.execute(
                    "UPDATE jobs SET state = 'working', tries = tries + 1, lease = ?, boot = ?, "
                    "changed = ?, holder = ? WHERE id = ?",
                    [self.clock() + self.lease, self._boot, time.time(), holder, row["id"]],
                )
                held.append(db.execute("SELECT * FROM jobs WHERE id = ?", [row["id"]]).fetchone())
        return [_job(row) for row in held]

    def ready(self) -> tuple[int, float]:
        """How many jobs wait, and for how many seconds the oldest of them has."""
        row = (
            self._db.connection()
            .execute("SELECT count(*) AS n, min(made) AS first FROM jobs WHERE state = 'waiting'")
            .fetchone()
        )
        # The wall clock may be set back; a job then has waited for no time, not for less.
        return row["n"], max(0.0, time.time() - row["first"]) if row["n"] else 0.0

    def earlier(self, job: QueuedJob, pixels: str) -> tuple[bool, str | None]:
        """Whether the job's film was done before with other pixels than those whose SHA-256 is
        `pixels`, and which job did it with these and the same record."""
        rows = self._db.connection().execute(
            "SELECT id, pixels, payload FROM jobs WHERE film = ? AND kind = 'film' AND id != ? "
            "AND state = 'done' AND pixels IS NOT NULL ORDER BY made, id",
            [job.film, job.id],
        )
        conflict, twin = False, None
        for row in rows:
            if row["pixels"] != pixels:
                conflict = True
            elif twin is None and json.loads(row["payload"]).get("record") == job.payload.get(
                "record"
            ):
                twin = row["id"]
        return conflict, twin

    def done(
        self,
        job: QueuedJob,
        result: Mapping[str, Any],
        *,
        pixels: str | None = None,
        conflict: bool = False,
        twin: str | None = None,
        deliver: Sequence[str] = (),
    ) -> bool:
        """Keeps the result, and with it to whom it must be sent; False where somebody else has
        the job by now, and nothing is kept."""
        with self._db.changing() as db:
            # One NaN would make the database refuse to read any list.
            if not _end(db, job, "done", json.dumps(finite(dict(result))), None):
                return False
            db.execute(
                "UPDATE jobs SET pixels = ?, conflict = ?, twin = ? WHERE id = ?",
                [pixels, conflict, twin, job.id],
            )
            db.executemany(
                "INSERT OR IGNORE INTO deliveries (job, target, state, tries, due) "
                "VALUES (?, ?, 'waiting', 0, 0)",
                [(job.id, target) for target in deliver],
            )
        return True

    def fail(self, job: QueuedJob, why: str) -> bool:
        """Gives up on a job, with a line that says why."""
        with self._db.changing() as db:
            return _end(db, job, "failed", None, why)

    def release(self, job: QueuedJob) -> None:
        """Puts a job back that was not begun: a service that stops gives up what it holds."""
        with self._db.changing() as db:
            db.execute(
                "UPDATE jobs SET state = 'waiting', tries = tries - 1, lease = NULL "
                "WHERE id = ? AND state = 'working' AND tries = ?",
                [job.id, job.tries],
            )

    def recover(self) -> int:
        """Jobs whose lease has run out wait again, or have failed if they were tried enough.

        Not at once: who holds them may hang, and once they are taken back he is not `overdue`, and
        nobody would kill him.
        """
        return self._take_back("(lease < ? OR boot != ?)", [self.clock() - SPARE, self._boot])

    def abandon(self, holder: str) -> int:
        """The same for all that this holder, who is dead, has; its leases count no longer. Of a
        whole service it is what the names of its holders begin with, "SERVICE."."""
        own = "(holder = ? OR (? LIKE '%.' AND instr(holder, ?) = 1))"
        return self._take_back(own, [holder, holder, holder])

    def overdue(self) -> set[str]:
        """The holders of jobs whose lease has run out."""
        rows = self._db.connection().execute(
            "SELECT DISTINCT holder FROM jobs WHERE state = 'working' AND (lease < ? OR boot != ?)",
            [self.clock(), self._boot],
        )
        return {row["holder"] for row in rows}

    def _take_back(self, which: str, values: list[Any]) -> int:
        with self._db.changing() as db:
            db.execute(
                "UPDATE jobs SET state = 'failed', why = ?, lease = NULL, changed = ? "
                f"WHERE state = 'working' AND {which} AND tries >= ?",
                [DIED, time.time(), *values, TRIES],
            )
            again = db.execute(
                "UPDATE jobs SET state = 'waiting', lease = NULL "
                f"WHERE state = 'working' AND {which}",
                values,
            )
            return again.rowcount

    def get(self, name: str) -> QueuedJob | None:
        """The job of that id, or None."""
        row = self._db.connection().execute("SELECT * FROM jobs WHERE id = ?", [name]).fetchone()
        return None if row is None else _job(row)

    def find(self, film: str) -> list[QueuedJob]:
        """All jobs of a film, the first one first."""
        rows = self._db.connection().execute(
            "SELECT * FROM jobs WHERE film = ? ORDER BY made, id", [film]
        )
        return [_job(row) for row in rows]

    def listed(
        self,
        *,
        order: Order = "p_value",
        descending: bool = False,
        state: State | None = None,
        most: int = 100,
        skip: int = 0,
    ) -> list[QueuedJob]:
        """The films, in that order; those without the value come last.

        Of films with one p-value the higher score comes first: n calibration films give n + 1
        p-values, and all films beyond them share the smallest.
        """
        value, turn = ORDERS[order], "DESC" if descending else "ASC"
        back = "ASC" if descending else "DESC"
        tie = f"{ORDERS['score']} {back}, " if order == "p_value" else ""
        rows = self._db.connection().execute(
            "SELECT * FROM jobs WHERE kind = 'film' AND twin IS NULL AND (? IS NULL OR state = ?) "
            f"ORDER BY {value} IS NULL, {value} {turn}, {tie}made DESC, id LIMIT ? OFFSET ?",
            [state, state, most, skip],
        )
        return [_job(row) for row in rows]

    def forget(self, before: float, most: int = 500) -> list[QueuedJob]:
        """Deletes films that ended before that time, with nothing left to send, and the what-ifs
        of then; gives what they were."""
        with self._db.changing() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE state IN ('done', 'failed') AND changed < ? AND NOT "
                "EXISTS (SELECT 1 FROM deliveries WHERE job = jobs.id AND state = 'waiting') "
                "ORDER BY changed LIMIT ?",
                [before, most],
            ).fetchall()
            for row in rows:
                db.execute("DELETE FROM deliveries WHERE job = ?", [row["id"]])
                db.execute("DELETE FROM jobs WHERE id = ?", [row["id"]])
        return [_job(row) for row in rows]

    def ids(self) -> set[str]:
        """Of all jobs that there are."""
        return {row[0] for row in self._db.connection().execute("SELECT id FROM jobs")}

    def files(self) -> set[str]:
        """The names of the files that jobs are about."""
        rows = self._db.connection().execute("SELECT json_extract(payload, '$.file') FROM jobs")
        return {row[0] for row in rows if row[0]}

    def due(self, now: float, targets: Sequence[str], lease: float = 300.0) -> Delivery | None:
        """What is to be sent to one of these targets now, in seconds since 1970, the longest
        overdue; nobody else gets it for `lease` seconds."""
        marks = ", ".join("?" * len(targets))
        with self._db.changing() as db:
            row = db.execute(
                "SELECT id, job, target, tries FROM deliveries WHERE state = 'waiting' "
                f"AND (due <= ? OR due > ?) AND target IN ({marks}) ORDER BY due, id LIMIT 1",
                [now, now + FURTHEST, *targets],  # so far off: the clock was set back
            ).fetchone()
            if row is None:
                return None
            db.execute("UPDATE deliveries SET due = ? WHERE id = ?", [now + lease, row["id"]])
        return Delivery(*row)

    def delivered(self, delivery: Delivery) -> None:
        """It arrived."""
        self._deliver(delivery, "done", 0.0, None)

    def not_delivered(self, delivery: Delivery, why: str, again: float | None) -> None:
        """It did not; it is due again at `again`, or never where that is None."""
        self._deliver(delivery, "failed" if again is None else "waiting", again or 0.0, why)

    def _deliver(self, delivery: Delivery, state: str, due: float, why: str | None) -> None:
        with self._db.changing() as db:
            db.execute(
                "UPDATE deliveries SET state = ?, due = ?, why = ?, tries = tries + 1 WHERE id = ?",
                [state, due, why, delivery.id],
            )

    def deliveries(self, job: str) -> list[dict[str, Any]]:
        """To whom a job's result goes, and how far that is: target, state, tries, why."""
        rows = self._db.connection().execute(
            "SELECT target, state, tries, why FROM deliveries WHERE job = ? ORDER BY id", [job]
        )
        return [dict(row) for row in rows]

    def delivery_counts(self) -> dict[str, int]:
        """How many deliveries wait, are done and have failed."""
        rows = self._db.connection().execute(
            "SELECT state, count(*) FROM deliveries GROUP BY state"
        )
        return {"waiting": 0, "done": 0, "failed": 0} | {row[0]: row[1] for row in rows}

    def finished(self, since: float) -> tuple[float, list[float]]:
        """How many seconds each film took that ended after `since`, in seconds since 1970, from
        its arrival on; and what to ask with next time. Of jobs of the last week."""
        rows = (
            self._db.connection()
            .execute(
                "SELECT changed, changed - made AS took FROM jobs WHERE state = 'done' "
                "AND made > ? AND changed > ? AND kind = 'film'",
                [since - 7 * 86400, since],
            )
            .fetchall()
        )
        return max((row["changed"] for row in rows), default=since), [row["took"] for row in rows]

    def counts(self, *, listed: bool = False) -> dict[State, int]:
        """How many jobs there are of each state; `listed`: of those alone that `listed` gives."""
        counted: dict[State, int] = {"waiting": 0, "working": 0, "done": 0, "failed": 0}
        rows = self._db.connection().execute(
            "SELECT state, count(*) AS n FROM jobs "
            "WHERE NOT ? OR (kind = 'film' AND twin IS NULL) GROUP BY 1",
            [listed],
        )
        for row in rows:
            counted[row["state"]] = row["n"]
        return counted


def _end(
    db: sqlite3.Connection, job: QueuedJob, state: State, result: str | None, why: str | None
) -> bool:
    changed = db.execute(
        "UPDATE jobs SET state = ?, result = ?, why = ?, lease = NULL, changed = ? "
        "WHERE id = ? AND state = 'working' AND tries = ?",
        [state, result, why, time.time(), job.id, job.tries],
    )
    return changed.rowcount == 1


def _job(row: sqlite3.Row) -> QueuedJob:
    return QueuedJob(
        id=row["id"],
        film=row["film"],
        digest=row["digest"],
        state=row["state"],
        tries=row["tries"],
        payload=json.loads(row["payload"]),
        result=None if row["result"] is None else json.loads(row["result"]),
        why=row["why"],
        conflict=bool(row["conflict"]),
        twin=row["twin"],
        kind=row["kind"],
        created=row["made"],
    )


def _boot() -> str:
    """What tells one run of the machine from another; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
