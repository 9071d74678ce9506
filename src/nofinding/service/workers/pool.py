"""Worker processes, watched: one that dies or takes too long is replaced, its films tried again.

Workers are forked from a small server process that has the libraries loaded already, and so a new
one is at work in the time that it takes to load a model.
"""

import contextlib
import logging
import multiprocessing
import os
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from nofinding.errors import UserError
from nofinding.service.options import ServiceOptions
from nofinding.service.store.home import Home
from nofinding.service.workers.liveness import alive
from nofinding.service.workers.worker import Lookup, run_worker

__all__ = ["Pool"]

log = logging.getLogger(__name__)
LOOK = 0.2  # seconds between looks at the workers
PAUSE = 2.0  # seconds until the next look where the queue cannot be written
LOADING = 300.0  # seconds that a worker may take to load its model
GIVE_UP = 5  # workers that die in a row before they have loaded their model


@dataclass(kw_only=True)
class Member:
    """One worker's process."""

    name: str
    process: BaseProcess
    link: Connection
    begun: float
    reported: bool = False
    counted: bool = False
    """Among the dead."""
    asking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ready(self) -> bool:
        """Whether it has had its model, dead or alive by now."""
        # It says so once: of two threads that saw it speak, one would wait for ever to hear it.
        with self.asking, contextlib.suppress(EOFError, OSError):
            self.reported = self.reported or (self.link.poll() and bool(self.link.recv_bytes(16)))
        return self.reported

    def close(self) -> None:
        """Of a dead one. Not while somebody listens: the descriptor's number may be another's."""
        with self.asking:
            self.link.close()

    def stop(self) -> None:
        """Asks it to end once it has finished what it holds."""
        with contextlib.suppress(OSError):
            self.link.send_bytes(b"stop")


class Pool:
    """`with Pool(...)`: workers are at work; at its end they finish what they hold."""

    def __init__(
        self,
        home: Home,
        options: ServiceOptions,
        *,
        lookup: Lookup | None = None,
        deliver: Sequence[str] = (),
        drain: float = 30.0,
    ) -> None:
        """`lookup`, which must be picklable, finds records; results go to `deliver`; at the end
        workers have `drain` seconds to finish what they hold."""
        self.home, self.drain = home, drain
        cores = os.cpu_count() or 1
        threads = options.threads or max(1, cores // max(1, options.workers))
        self.options = replace(options, threads=threads)
        self._given = (lookup, tuple(deliver))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["nofinding.service.workers.worker"])
        self._alive = ExitStack()
        self._own = ""
        self._stop = threading.Event()
        self._members: list[Member] = []
        self._unready = 0
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self.deaths = 0
        """Workers that have died, or were killed for taking too long."""
        self.broken = False
        """Whether workers die before they have loaded their model, and no more are made."""

    def __enter__(self) -> "Pool":
        try:
            self._own, dead = self._alive.enter_context(alive(self.home.folder / "running"))
        except OSError as error:
            raise UserError(f"--home {self.home.folder}: {error.strerror}") from None
        for service in dead:
            if again := self.home.queue.abandon(f"{service}."):
                log.warning("a service died; %d of its films are tried again", again)
        self._members = [self._new() for _ in range(self.options.workers)]
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watcher.join()
        for member in self._members:
            member.stop()
        end = time.monotonic() + self.drain
        for member in self._members:
            member.process.join(max(0.0, end - time.monotonic()))
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
            self.home.queue.abandon(member.name)
        self._alive.close()

    @property
    def ready(self) -> int:
        """How many workers have their model and live."""
        return sum(m.ready and m.process.is_alive() for m in self._members)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [member.process.pid or 0 for member in self._members]

    def wait_ready(self, seconds: float = LOADING, stop: threading.Event | None = None) -> None:
        """Waits for the first worker that has its model, or for `stop`. Raises UserError where none
        gets it."""
        end = time.monotonic() + seconds
        while self.options.workers and not self.ready and not (stop and stop.is_set()):
            if self.broken or time.monotonic() > end:
                raise UserError("no worker could load the model; its own lines say why")
            time.sleep(LOOK)

    def _new(self) -> Member:
        name = f"{self._own}.{secrets.token_hex(4)}"
        link, theirs = self._context.Pipe()
        process = self._context.Process(
            target=run_worker, args=(self.options, name, *self._given, theirs), daemon=True
        )
        process.start()
        theirs.close()
        return Member(name=name, process=process, link=link, begun=time.monotonic())

    def _watch(self) -> None:
        """Replaces workers until the pool ends."""
        while not self.broken and not self._stop.wait(LOOK):
            try:
                self._look()
            except Exception as error:  # a full disk, no process to be had: not for ever
                log.error("workers could not be looked after: %s", type(error).__name__)
                self._stop.wait(PAUSE)

    def _look(self) -> None:
        """Kills who is late, and replaces who is dead. Safe to be done again where it broke off."""
        late = self.home.queue.overdue() if self._members else set()
        for place, member in enumerate(self._members):
            slow = not member.ready and time.monotonic() - member.begun > LOADING
            if member.process.is_alive() and (member.name in late or slow):
                log.error("a worker took too long and was killed")
                member.process.kill()
                member.process.join()
            if member.process.is_alive():
                continue
            if not member.counted:
                self._unready = 0 if member.ready else self._unready + 1
                member.counted, self.deaths = True, self.deaths + 1
                member.close()
            again = self.home.queue.abandon(member.name)
            log.error("a worker died; %d of its films are tried again", again)
            if self._unready >= GIVE_UP:
                self.broken = True
                log.error("workers die before they have a model; no more are made")
                return
            self._members[place] = self._new()
