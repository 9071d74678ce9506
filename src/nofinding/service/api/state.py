"""What the routes work with, and how they refuse."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import HTTPException, Request

from nofinding.data.ehr import EhrField
from nofinding.errors import UserError
from nofinding.service.monitoring import Drifting
from nofinding.service.store.feedback import Feedback
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import FullError, QueuedJob

__all__ = ["LOCAL", "Limits", "Service", "Workers", "refused", "service_of", "who"]

LOCAL = "local"  # who it is where no token is asked for
DISK_FULL_AGAIN = 60  # seconds
NOT_READY_AGAIN = 10


class Workers(Protocol):
    """What is asked of the pool."""

    @property
    def ready(self) -> int: ...

    deaths: int
    broken: bool


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a caller may send, and how slowly."""

    film: int = 256 * 2**20
    """Bytes of a film."""
    films: int = 100
    """Films of a batch."""
    batch: int = 2**30
    """Bytes of a batch."""
    text: int = 2**16
    """Bytes of every other body, and of a record beside a film."""
    silence: float = 20.0
    """Seconds without a byte of a body that is not whole yet."""
    upload: float = 300.0
    """Seconds for the whole of a body."""
    requests: int = 512
    """Requests at a time."""


@dataclass(kw_only=True)
class Service:
    """One running service."""

    home: Home
    fields: Mapping[str, EhrField]
    drifting: Drifting
    feedback: Feedback
    pool: Workers | None = None
    """None: films are only taken in here."""
    token: str | None = None
    """None: everybody on this machine may do everything."""
    limits: Limits = field(default_factory=Limits)
    counted: Callable[[str, str, int, float], None] = lambda method, route, status, seconds: None
    """Told of every request that was answered."""
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """There is one decoder child: whoever waits for it holds no thread."""
    _visited: threading.Event = field(default_factory=threading.Event)

    @property
    def loaded(self) -> bool:
        """Whether there has been a worker with its model, and there will be again."""
        if self.pool is None:
            return True
        if not self._visited.is_set() and self.pool.ready:
            self._visited.set()
        return self._visited.is_set() and not self.pool.broken

    def require_room(self, count: int = 0) -> None:
        """Raises 503 where films cannot be taken now, 429 where too many wait.

        It is asked before a body is read: whoever is turned away need not send it first.
        """
        if not self.loaded:
            raise refused(503, "no worker has its model yet", again=NOT_READY_AGAIN)
        self.require_disk(count)
        counts = self.home.queue.counts()
        if counts["waiting"] + counts["working"] >= self.home.queue.capacity:
            raise full(FullError(max(1, round(self.home.queue.lease / 4))))

    def require_disk(self, count: int = 0) -> None:
        """Raises 503 where that many bytes do not fit on the disk."""
        try:
            self.home.spool.require(count)
        except OSError:
            raise no_disk() from None

    def job(self, name: str) -> QueuedJob:
        """The job of that id. Raises 404."""
        job = self.home.queue.get(name)
        if job is None:
            raise refused(404, "there is no such job")
        return job

    def payload(self, job: QueuedJob) -> dict[str, Any]:
        """What is said of a job that is done. Raises 409 where it is not, 404 without a result."""
        if job.state != "done":
            raise refused(409, f"the job is {job.state}", again=1 if job.why is None else None)
        payload = self.home.results.payload(job.id)
        if payload is None:
            raise refused(404, "its result is no longer kept")
        return payload

    def note(self, by: str, what: str, job: QueuedJob | None = None) -> None:
        """Writes the audit log. Raises 503 where that cannot be: nothing is shown unwritten."""
        about = {} if job is None else {"film": job.film, "job": job.id}
        try:
            self.home.audit.write(by, what, **about)
        except UserError:
            raise refused(503, "the audit log is damaged; nothing is given out") from None
        except OSError:
            raise no_disk() from None


def refused(status: int, error: str, again: int | None = None) -> HTTPException:
    """An answer that says no in one line; `again` in seconds is when to try again."""
    headers = None if again is None else {"Retry-After": str(again)}
    return HTTPException(status, error, headers)


def full(error: FullError) -> HTTPException:
    """Too many films wait."""
    return refused(429, str(error), again=error.seconds)


def no_disk() -> HTTPException:
    """There is no room."""
    return refused(503, "the disk is full or nearly full", again=DISK_FULL_AGAIN)


def service_of(request: Request) -> Service:
    """The service that this request is made to."""
    service: Service = request.app.state.service
    return service


def who(request: Request) -> str:
    """Who asks, as the audit log calls them; the guard has found out."""
    name: str = request.scope["nofinding.who"]
    return name
