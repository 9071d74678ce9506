"""cache: decodes and prepares a whole cohort ahead, with every core, so that others only read."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Any, Literal

from nofinding.data.cache.film_cache import FilmCache, Once
from nofinding.data.decoding.decode import UnreadableError, VolumeFile
from nofinding.data.image import Aspect, OtherDimensionsError
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.errors import UserError
from nofinding.progress import say, tracked
from nofinding.ranges import Range, require_ranges
from nofinding.scoring.selection import Selection

__all__ = ["CacheOptions", "Cached", "cache_films"]

AT_ONCE = 8  # films that a process takes from the list


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Decodes films ahead and keeps them as the models take them, for any later command."""

    films: list[str]
    """Films, SOURCE:PATH, one or more."""
    size: Annotated[list[int], Range(1, 4096)] = field(default_factory=lambda: [224])
    """Pixels a side, one or more: those of the model, and 112 for its input gate."""
    aspect: Aspect = "pad"
    """pad: in proportion, with black beside it; squash: to a square."""
    split: Literal["train", "val", "test"] | None = None
    """Only this part of the source."""
    workers: Annotated[int, Range(0)] = 0
    """Processes; 0: one a core."""
    unreadable: Literal["stop", "list"] = "stop"
    """What to do where a film cannot be read: stop; or go on, and name it at the end."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


@dataclass(frozen=True, kw_only=True)
class Cached:
    """What was done."""

    films: int
    unreadable: tuple[tuple[str, str], ...]
    """image_id of the films that could not be read, and why."""
    seconds: float


def cache_films(options: CacheOptions) -> Cached:
    """Prepares every film that is not in the cache yet. Goes on where an earlier run was stopped.

    Raises UserError for a fault in the input; films that were prepared before it are kept.
    """
    cohort = Cohort(options.films, known_fields(None), look=options.unreadable == "stop")
    films = Selection(cohort.exams, options.split)
    if not len(films):
        raise UserError(f"{cohort.name}: no film in split {options.split}")
    cache_at(options.cache)  # a folder that cannot be made is told before the processes start
    begin = time.perf_counter()
    unreadable: list[tuple[str, str]] = []
    workers = min(options.workers or os.cpu_count() or 1, -(-len(films) // AT_ONCE))
    for report in tracked(_reports(films, options, workers), "caching", len(films)):
        if report is not None:
            unreadable.append(report)
    seconds = time.perf_counter() - begin
    for image_id, reason in sorted(unreadable):
        say(f"film {image_id!r} {reason}")
    note = f", {len(unreadable)} cannot be read" if unreadable else ""
    rate = len(films) / max(seconds, 1e-9)
    say(f"{len(films) - len(unreadable)} films in the cache{note}, {rate:.1f} films/s")
    return Cached(films=len(films), unreadable=tuple(sorted(unreadable)), seconds=seconds)


def _reports(
    films: Selection, options: CacheOptions, workers: int
) -> Iterator[tuple[str, str] | None]:
    """For each film None, or (image_id, why it cannot be read), from all processes.

    They are forked, so that they share the records; each decodes in a child of its own.
    """
    context = multiprocessing.get_context("fork")
    following = context.Value("q", 0)
    processes: dict[Connection, Any] = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(films, options, following, theirs), daemon=True
            )
            process.start()
            theirs.close()
            processes[ours] = process
        left = set(processes)
        while left:
            for ours in [pipe for pipe in wait([*left]) if isinstance(pipe, Connection)]:
                try:
                    report = ours.recv()
                except EOFError:
                    left.remove(ours)
                    _require_done(processes[ours])
                    continue
                if isinstance(report, str):
                    raise UserError(report)
                yield from report
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _require_done(process: Any) -> None:
    process.join()
    if process.exitcode:
        raise UserError(
            f"a process that decodes was killed (exit code {process.exitcode}), perhaps for want "
            "of memory; give less --workers. The same command goes on where this one stopped"
        )


def _work(films: Selection, options: CacheOptions, following: Any, reports: Connection) -> None:
    """Takes some films at a time until none is left."""
    cache, parent = cache_at(options.cache), os.getppid()
    try:
        while os.getppid() == parent:  # else it was killed, and nobody waits for this
            with following.get_lock():
                start = following.value
                following.value = start + AT_ONCE
            if start >= len(films):
                break
            stop = min(start + AT_ONCE, len(films))
            reports.send([_prepare(films, number, cache, options) for number in range(start, stop)])
    except UserError as error:
        reports.send(str(error))
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # the parent was interrupted as well, and says so, or it was killed


def _prepare(
    films: Selection, number: int, cache: FilmCache, options: CacheOptions
) -> tuple[str, str] | None:
    exam = films[number]
    dimensions = 3 if isinstance(exam.pixels, VolumeFile) else 2
    once = Once(exam.pixels)
    try:
        for size in options.size:
            cache.get(once, size, options.aspect, dimensions)
    except UnreadableError as error:
        if options.unreadable == "stop":
            raise
        return exam.image_id, error.reason
    except OtherDimensionsError as error:
        raise UserError(f"image_id {exam.image_id!r}: {error}") from None
    return None
