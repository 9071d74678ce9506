"""The memory of every command at 1,000 and at 100,000 films.

The rows of the table share some hundred small films, so that what grows is what is kept of a row
and not the disk's cache. The cohort goes the way of a user: table, cohort folder, fit, score,
evaluate. What is noted is the most that the process and its children held at once.

usage: python benchmarks/memory.py FOLDER [--rows 1000 100000] [--method thumbnail] [--out FILE.md]
"""

import argparse
import csv
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from watching import machine, run

from nofinding.datasets.phantom.film import PhantomFilm

SIDE = 64
SHARED = 300  # films that the rows share: a third for each split, so that no film is in two
SPLITS = ("train", "val", "test")


def table_of(folder: Path, count: int) -> Path:
    """A table of so many rows; a tenth of the val and test films has a finding."""
    films = folder / "films"
    films.mkdir(parents=True, exist_ok=True)
    for number in range(SHARED):
        file = films / f"{number}.png"
        if not file.exists():
            kind = "mass" if number % 3 and number % 30 < 3 else None
            film = PhantomFilm(seed=7, index=number, size=SIDE, kind=kind)()
            Image.fromarray((film * 255).astype(np.uint8)).save(file)
    table = folder / f"rows-{count}.csv"
    with table.open("w", newline="") as file_:
        writer = csv.writer(file_)
        writer.writerow(
            ["image_id", "patient_id", "path", "sex", "age", "view", "findings", "split"]
        )
        for row in range(count):
            number = row % SHARED
            ill = "Mass" if number % 3 and number % 30 < 3 else ""
            who = (f"film-{row:07d}", f"p{row:07d}", f"films/{number}.png")
            record = ("FM"[row % 2], 20 + row % 60, "PA")
            writer.writerow([*who, *record, ill, SPLITS[number % 3]])
    return table


def measured(folder: Path, count: int, method: str) -> Iterator[tuple[str, float, float]]:
    """(command, peak MiB, seconds) of each."""
    here = folder / f"{count}"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True, exist_ok=True)
    table, cohort = table_of(folder, count), here / "cohort"
    films = ["--films", f"cohort:{cohort}"]
    scores = ["--scores", here / "scores" / "scores.csv", *films, "--out", here / "report"]
    commands = {
        "cohort": ["cohort", f"table:{table}", "--out", cohort, "--overwrite",
                   "--verify", "present"],
        "fit": ["fit", method, *films, "--out", here / "model", "--threads", 1,
                "--gate", "none"],
        "score": ["score", "--model", here / "model", *films, "--split", "test", "--threads", 1,
                  "--no-maps", "--out", here / "scores", "--overwrite"],
        "evaluate": ["evaluate", *scores, "--baselines", "none"],
    }  # fmt: skip
    environment = {"NOFINDING_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    for name, command in commands.items():
        cost = run(command, environment)
        assert cost.status == 0, cost.said
        yield name, cost.mib, cost.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--method", default="thumbnail")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cells: dict[str, list[str]] = {}
    for count in options.rows:
        for name, mib, seconds in measured(options.folder, count, options.method):
            cells.setdefault(name, []).append(f"{mib:.0f} MiB, {seconds:.0f} s")
            print(count, name, cells[name][-1], flush=True)
    lines = page(options.rows, options.method, cells)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("\n".join(lines) + "\n")


def page(rows: Sequence[int], method: str, cells_of: dict[str, list[str]]) -> list[str]:
    """The results as Markdown."""
    heads = " | ".join(f"{count:,} films" for count in rows)
    return [
        "# Memory by number of films",
        "",
        f"`python benchmarks/memory.py FOLDER --rows {' '.join(map(str, rows))}`, `{method}`.",
        f"{machine()}; load average at the start {os.getloadavg()[0]:.1f}. Peak over the process",
        "and its children; a third of the films is train, val and test each. `fit` without a",
        "gate, `evaluate` without baselines: those are detectors of their own, fitted to all",
        "normal films, and the nearest neighbour keeps the features of all.",
        "",
        f"| command | {heads} |",
        "|---" * (len(rows) + 1) + "|",
        *(f"| `{name}` | {' | '.join(cells)} |" for name, cells in cells_of.items()),
    ]


if __name__ == "__main__":
    main()
