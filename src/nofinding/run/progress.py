"""What a use case tells while it works: on stderr, and live only on a terminal."""

import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.distributed import is_torchelastic_launched

__all__ = ["is_first_process", "say", "tracked"]

T = TypeVar("T")


def is_first_process() -> bool:
    """Whether this process may write and speak: under torchrun only the first one does."""
    return not is_torchelastic_launched() or os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """One line on stderr; under torchrun from the first process alone."""
    if not is_first_process():
        return
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


def tracked(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a bar and the time left while they last; no bar where nobody looks."""
    console = Console(stderr=True)
    if not console.is_terminal or not len(items):
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        yield from bar.track(items, description=what)
