"""The folder beside --out in which films are scored, until all are: then it becomes --out.

Several processes may work in it at once (shards). Each holds its lock shared; whoever finds that
every batch is there takes it alone, and finishes. A job that was stopped is found again by its
identity: the model, the films and every option that a score could depend on.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np

from nofinding.errors import UserError
from nofinding.storage.atomic import move_into_place, write_atomic
from nofinding.storage.journal import Journal, Place, entries, entry_at
from nofinding.storage.lock import lock, try_lock, unlock

__all__ = [
    "Index",
    "Workspace",
    "clear_finished",
    "identity_hash",
    "partial_of",
]


def identity_hash(identity: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what a job is."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def partial_of(out: Path) -> Path:
    """The folder in which the scores of `out` are made."""
    return out.with_name(f".{out.name}.partial")


class Index:
    """Where the entry of each batch lies. Twelve bytes a batch."""

    def __init__(self, count: int) -> None:
        self._files: list[Path] = []
        self._file = np.full(count, -1, dtype=np.int32)
        self._start = np.zeros(count, dtype=np.int64)

    def put(self, number: int, place: Place) -> None:
        """Batch `number` lies there; what was known of it before is forgotten."""
        if place.file not in self._files:
            self._files.append(place.file)
        self._file[number] = self._files.index(place.file)
        self._start[number] = place.start

    def drop(self, number: int) -> None:
        """Batch `number` is to be done again."""
        self._file[number] = -1

    def __contains__(self, number: int) -> bool:
        return bool(self._file[number] >= 0)

    def __len__(self) -> int:
        return len(self._file)

    @property
    def done(self) -> int:
        """Batches that are there."""
        return int((self._file >= 0).sum())

    def entry(self, number: int) -> dict[str, Any]:
        """What was written of a batch."""
        return entry_at(Place(self._files[self._file[number]], int(self._start[number])))


class Workspace:
    """The folder of a job that is not done yet, held by this process among others."""

    def __init__(self, out: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
        """Makes it, or finds it again.

        Raises UserError where it holds another job, unless `overwrite` drops that one.
        """
        self.out = out
        self.folder = partial_of(out)
        self.result = self.folder / "result"
        own = self._locked(shared=True)
        assert own is not None  # it waits
        self._lock = own
        content: dict[str, Any] = json.loads(json.dumps(identity))
        job = self.folder / "job.json"
        stored = _read(job)
        if stored is not None and not self.result.is_dir():  # it was finished, and then killed
            self._drop_other()
        elif stored not in (None, content):
            if not overwrite:
                self._lock.close()
                other = next(k for k in content if (stored or {}).get(k) != content[k])
                raise UserError(
                    f"--out {out}: {self.folder.name} beside it holds unfinished scores of another "
                    f"job ({other} differs); give --overwrite to drop them, or another folder"
                )
            self._drop_other()
        try:
            self.result.mkdir(exist_ok=True)  # before the job: one without a result is finished
            if _read(job) is None:
                write_atomic(job, json.dumps(content, indent=1).encode())
        except (OSError, UserError):
            if self.is_new():
                self.remove_if_alone()
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _locked(self, *, shared: bool) -> TextIO | None:
        """The lock of the folder as it is now, not of one that was finished meanwhile. Waits for
        a shared one; None where another process is in the folder, so that nobody has it alone."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / "lock"
            try:
                file = path.open("a")
            except FileNotFoundError:
                continue
            if shared:
                lock(file, shared=True)
            elif not try_lock(file):
                file.close()
                return None
            if self._is_current(file):
                return file
            file.close()

    def _is_current(self, file: TextIO) -> bool:
        """Whether a lock is that of the folder as it is now."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), (self.folder / "lock").stat())
        except FileNotFoundError:
            return False

    def _drop_other(self) -> None:
        self._lock.close()
        alone = self._locked(shared=False)
        if alone is None:
            raise UserError(f"--out {self.out}: another process is scoring into it just now")
        self._lock = alone
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == "job.json"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        lock(self._lock, shared=True)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Once no other process is in it: whether it still waits to be finished."""
        unlock(self._lock)
        lock(self._lock)
        yield self._is_current(self._lock) and self.result.is_dir()

    def part(self, shard: tuple[int, int]) -> Journal:
        """The journal of this process. Raises UserError where another process has it."""
        return Journal(self.folder / f"part-{shard[0]}-of-{shard[1]}.journal")

    def index(self, count: int, still_true: Callable[[dict[str, Any]], bool]) -> Index:
        """Which batches are done, by any process, and whose films are what they were."""
        index = Index(count)
        for file in sorted(self.folder.glob("*.journal")):
            for place, entry in entries(file):
                if still_true(entry):
                    index.put(entry["batch"], place)
        return index

    def is_new(self) -> bool:
        """Whether nothing has been scored in it yet."""
        return not any(self.folder.glob("*.journal"))

    def remove_if_alone(self) -> bool:
        """Takes all of it away, unless another process is in it; whether it did."""
        unlock(self._lock)
        if not try_lock(self._lock):
            return False
        _remove(self.folder)
        return True

    def move(self) -> None:
        """Puts the result in place; what was there goes only once the new one is whole."""
        move_into_place(self.result, self.out)
        _remove(self.folder)


def _read(job: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(job.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):  # damaged: no job of ours
        content = {}
    return content if isinstance(content, dict) else {}


def _remove(folder: Path) -> None:
    """The result goes first and at once: what is left of the folder then tells that it is done."""
    with suppress(OSError):
        (folder / "result").rename(folder / "gone")
    shutil.rmtree(folder, ignore_errors=True)


def clear_finished(out: Path) -> None:
    """Takes away what a finished job, killed at its very end, has left beside its folder."""
    folder = partial_of(out)
    if folder.is_dir() and not (folder / "result").exists():
        shutil.rmtree(folder, ignore_errors=True)
