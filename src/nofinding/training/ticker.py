"""How far a long piece of work without a training loop is: a bar, or a line now and then."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Ticker"]

QUIET_SECONDS = 10.0  # between two lines, where stderr is a file and not a terminal


class Ticker:
    """Tells on stderr how many of `total` are done; a context manager. `show` False: silent."""

    def __init__(self, what: str, total: int, *, show: bool) -> None:
        self._what, self._total, self._show = what, total, show
        self._bar: Progress | None = None
        if show and Console(stderr=True).is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(
                *columns,
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=False,
            )
            self._task = self._bar.add_task(what, total=total)
        self._statement = time.monotonic()

    def __enter__(self) -> "Ticker":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, done: int) -> None:
        """Cheap enough for every step."""
        if self._bar:
            self._bar.update(self._task, completed=done)
        elif self._show and time.monotonic() - self._statement > QUIET_SECONDS:
            print(f"{self._what}: {done} of {self._total}", file=sys.stderr, flush=True)
            self._statement = time.monotonic()
