"""What a use case tells while it works: on stderr, and live only on a terminal."""

import os
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.distributed import is_torchelastic_launched

from nofinding.storage.file_names import printed

__all__ = ["is_first_process", "say", "silently", "tracked"]

T = TypeVar("T")
_silent: ContextVar[bool] = ContextVar("_silent", default=False)


def is_first_process() -> bool:
    """Whether this process may write and speak: under torchrun only the first one does."""
    return not is_torchelastic_launched() or os.environ.get("RANK", "0") == "0"


def say(line: str, *, everywhere: bool = False) -> None:
    """One line on stderr; under torchrun from the first process alone, unless `everywhere`."""
    if _silent.get() or (not everywhere and not is_first_process()):
        return
    Console(stderr=True, highlight=False, soft_wrap=True).print(printed(line), markup=False)


@contextmanager
def silently() -> Iterator[None]:
    """A use case inside another: only the outer one speaks."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def tracked(items: Iterable[T], what: str, count: int | None = None) -> Iterator[T]:
    """The items, with a bar and the time left while they last; no bar where nobody looks.

    `count` says how many there are, where they themselves cannot.
    """
    console = Console(stderr=True)
    total = len(items) if isinstance(items, Sized) else count
    if _silent.get() or not console.is_terminal or not total:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        yield from bar.track(items, total=total, description=what)
