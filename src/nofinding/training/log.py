"""What a run tells while it runs: progress on stderr, log.csv, TensorBoard."""

import csv
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from nofinding.errors import UserError
from nofinding.storage.atomic import write_atomic

__all__ = ["Log"]

QUIET_SECONDS = 30.0  # between two lines, where stderr is a file and not a terminal
REDRAW_SECONDS = 0.2


class Log:
    """Progress and numbers of one run; a context manager.

    `folder` None writes no file; `progress` False shows nothing. `step` is where the run starts
    from: what an interrupted one logged beyond it is dropped, so that no step stands twice.
    """

    def __init__(self, folder: Path | None, *, step: int, steps: int, progress: bool) -> None:
        self._steps = steps
        self._path = folder / "log.csv" if folder else None
        self._columns = _cut(self._path, step) if self._path else []
        self._tensorboard = _tensorboard(folder, step) if folder else None
        self._bar = _bar() if progress and Console(stderr=True).is_terminal else None
        self._lines = progress and self._bar is None
        self._task = self._bar.add_task("", total=steps, completed=step) if self._bar else None
        self._shown = time.monotonic()

    def __enter__(self) -> "Log":
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
        if self._tensorboard:
            self._tensorboard.close()

    def show(self, step: int, loss: float, films_per_second: float) -> None:
        """Live progress; cheap enough for every step."""
        now = time.monotonic()
        last = step == self._steps
        if self._bar and self._task is not None and (last or now - self._shown > REDRAW_SECONDS):
            text = f"loss {loss:.4g}  {films_per_second:.3g} films/s"
            self._bar.update(self._task, completed=step, description=text)
            self._bar.refresh()
            self._shown = now
        elif self._lines and (last or now - self._shown > QUIET_SECONDS):
            line = f"step {step} of {self._steps}: loss {loss:.4g}, {films_per_second:.3g} films/s"
            print(line, file=sys.stderr, flush=True)
            self._shown = now

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """One row of log.csv, and the same as TensorBoard scalars."""
        if self._path:
            if not self._columns:
                self._columns = ["step", *numbers]
                write_atomic(self._path, _csv([self._columns]))
            row = {"step": str(step)} | {k: f"{v:.8g}" for k, v in numbers.items()}
            try:
                with self._path.open("ab") as file:
                    file.write(_csv([[row.get(column, "") for column in self._columns]]))
            except OSError as error:
                raise UserError(f"{self._path}: cannot be written ({error.strerror})") from error
        if self._tensorboard:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(f"train/{name}", value, step)

    def pictures(self, step: int, images: Mapping[str, Tensor]) -> None:
        """Sample pictures, (n, 1, h, w) in [-1, 1], to TensorBoard."""
        if self._tensorboard:
            for name, image in images.items():
                shown = ((image.detach().float().cpu() + 1) / 2).clamp(0, 1)
                self._tensorboard.add_images(f"sample/{name}", shown, step)


def _bar() -> Progress:
    return Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,  # no thread of its own: films are decoded in child processes
        redirect_stdout=False,
    )


def _tensorboard(folder: Path, step: int) -> Any | None:
    """A writer, or None where TensorBoard is not installed: it is a convenience."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # a second to import
    except ImportError:
        return None
    # purge_step hides what an interrupted run wrote beyond its last checkpoint.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def _csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _cut(path: Path, step: int) -> list[str]:
    """Drops the rows after `step`, and a torn last one; gives the columns, if there were any."""
    if step == 0:
        path.unlink(missing_ok=True)
    if not path.is_file():
        return []
    rows = list(csv.reader(path.read_text(errors="replace").splitlines()))
    columns = rows[0] if rows else []
    lines_before = [
        row
        for row in rows[1:]
        if len(row) == len(columns) and row[0].isdigit() and int(row[0]) <= step
    ]
    write_atomic(path, _csv([columns, *lines_before]) if columns else b"")
    return columns
