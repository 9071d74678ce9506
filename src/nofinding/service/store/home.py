"""The folder that a service lives in: its queue, received films, results, audit log and key.

    HOME/
      key              256 random bits: pseudonyms in file names, logs and the audit log
      queue.sqlite     jobs (queue.py)
      spool/           films as they came, under keyed names (listen.py)
      results/JOB/     what is said of each film (kept.py)
      audit.log        who did what (audit.py)

Only its owner may read it. All of one hospital's service may share one: `serve` and `listen`.
"""

import contextlib
import os
import secrets
import stat
import time
from functools import cached_property
from pathlib import Path
from typing import Self

from nofinding.errors import UserError
from nofinding.service.options import ServiceOptions
from nofinding.service.store.audit_log import AuditLog
from nofinding.service.store.job_queue import Queue
from nofinding.service.store.result_store import Results
from nofinding.service.store.spool import LEFT_OVER, Spool, pseudonym
from nofinding.storage.atomic import write_durably

__all__ = ["Home"]

DIGITS = 64  # of the key, hexadecimal


class Home:
    """A service's folder; made where it is not there. Safe for several processes."""

    def __init__(
        self, folder: Path, *, capacity: int = 1000, lease: float = 120.0, keep_free: int = 2**30
    ) -> None:
        """`capacity` of the queue, `lease` in seconds, `keep_free` in bytes of the disk.

        Raises UserError where the folder cannot be made or written to, others may read it, or
        what is in it is damaged.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            mode = folder.stat().st_mode
        except OSError as error:
            raise UserError(f"--home {folder}: {error.strerror}") from None
        if mode & (stat.S_IROTH | stat.S_IXOTH | stat.S_IWOTH):
            raise UserError(f"--home {folder}: everybody may look into it; `chmod 700` it first")
        try:
            self.key = _key(folder / "key")
            self.queue = Queue(folder / "queue.sqlite", capacity=capacity, lease=lease)
            self.spool = Spool(folder / "spool", self.key, keep_free=keep_free)
            self.results = Results(folder / "results")
        except OSError as error:
            raise UserError(f"--home {folder}: {error.strerror}") from None

    @classmethod
    def of(cls, options: ServiceOptions) -> Self:
        """The home that the options of a command name. Raises UserError."""
        return cls(
            options.home,
            capacity=options.capacity,
            lease=options.limit,
            keep_free=round(options.keep_free * 2**30),
        )

    @cached_property
    def audit(self) -> AuditLog:
        """The audit log, opened when it is first written to."""
        return AuditLog(self.folder / "audit.log", self.key)

    def sweep(self, keep_days: float) -> int:
        """Deletes films, results and jobs that ended more than `keep_days` days ago (0: none),
        and what is of no job: films that never became one, and what a killed process left of
        results; gives how many jobs went."""
        now, gone = time.time(), 0
        while keep_days and (jobs := self.queue.forget(now - keep_days * 86_400)):
            for job in jobs:
                self.results.remove(job.id)
            gone += len(jobs)
        needed = self.queue.files()
        for file in self.spool.folder.iterdir():
            with contextlib.suppress(OSError):
                if file.name not in needed and now - file.stat().st_mtime > LEFT_OVER:
                    file.unlink()
        self.results.clear(self.queue.ids, now - LEFT_OVER)
        if gone:
            self.audit.write("service", "deleted", jobs=gone)
        return gone

    def pseudonym(self, kind: str, text: str) -> str:
        """What an id is called in this home (`spool.pseudonym`)."""
        return pseudonym(self.key, kind, text)


def _key(file: Path) -> bytes:
    """The service's secret, made by whoever comes first. Raises UserError where it is not one."""
    if not file.exists():
        temporary = file.with_name(f".key.{os.getpid()}.{secrets.token_hex(4)}")
        write_durably(temporary, f"{secrets.token_hex(DIGITS // 2)}\n".encode())
        with contextlib.suppress(FileExistsError):  # another process was faster: its key counts
            os.link(temporary, file)
        temporary.unlink()
    key = file.read_bytes().strip()
    if len(key) != DIGITS:
        raise UserError(f"{file}: has {len(key)} digits, a key has {DIGITS}; was it changed?")
    return key
