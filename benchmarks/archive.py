"""Scoring an archive: killed ten times, the same files; and the memory that it takes.

The first part scores phantom films once undisturbed, and once with ten SIGKILLs, evenly spread
over the batches. The second scores tables of 1,000 and of 100,000 rows, which share some hundred
films, and notes the most memory that the process and its decoder held.

usage: python benchmarks/archive.py FOLDER [--films 10000] [--rows 1000 100000] [--out FILE.md]
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from watching import machine, run

import nofinding
from nofinding.datasets.phantom.film import PhantomFilm
from nofinding.storage.journal import entries

KILLS = 10
SIDE = 64
SHARED = 200  # films that the rows of the tables share


def fitted(folder: Path) -> Path:
    """A model that costs next to nothing."""
    if not (folder / "model" / "model.json").exists():
        films = f"phantom:train=200,val=40,test=0,abnormal=0,size={SIDE}"
        fit = ["fit", "thumbnail", "--films", films, "--gate", "none", "--threads", 1]
        done = run([*fit, "--out", folder / "model"], environment(folder))
        assert done.status == 0, done.said
    return folder / "model"


def environment(folder: Path) -> dict[str, str]:
    return {"NOFINDING_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def journal_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial") / "part-0-of-1.journal"


def done_in(journal: Path) -> Counter[int]:
    """How often each batch stands in the journal."""
    if not journal.exists():
        return Counter()
    return Counter(entry["batch"] for _, entry in entries(journal))


def killed_at(command: Sequence[object], folder: Path, journal: Path, most: int) -> None:
    """Runs the command until its journal has so many batches, and kills it then."""
    package = str(Path(nofinding.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from nofinding.cli import main; sys.exit(main())"]
        + [str(a) for a in command],
        env={**os.environ, "PYTHONPATH": package, **environment(folder)},
        stderr=subprocess.DEVNULL,
    )
    size = 0
    while process.poll() is None:
        grown = journal.stat().st_size if journal.exists() else 0
        if grown != size and sum(done_in(journal).values()) >= most:
            process.send_signal(signal.SIGKILL)
            break
        size = grown
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL


def files_of(out: Path) -> dict[str, bytes]:
    """All files; of run.json all but the seconds."""
    contents = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    run = json.loads(contents["run.json"])
    run.pop("seconds_per_film")
    return contents | {"run.json": json.dumps(run).encode()}


def killing(folder: Path, count: int) -> Iterator[str]:
    films = f"phantom:train=0,val=0,test={count},abnormal=0,size={SIDE}"
    score = ["score", "--model", fitted(folder), "--films", films, "--threads", 1]
    score += ["--no-maps", "--out"]
    start = time.perf_counter()
    done = run([*score, folder / "whole"], environment(folder))
    assert done.status == 0, done.said
    yield f"| {count:,} films, undisturbed | {time.perf_counter() - start:.0f} s |"
    out = folder / "killed"
    batches = -(-count // 16)
    for kill in range(KILLS):
        most = round((kill + 0.5) * batches / KILLS)
        killed_at([*score, out], folder, journal_of(out), most)
    before = done_in(journal_of(out))
    done = run([*score, out], environment(folder))
    assert done.status == 0, done.said
    same = files_of(folder / "whole") == files_of(out)
    with (out / "scores.csv").open(newline="") as file:
        ids = [row["image_id"] for row in csv.DictReader(file)]
    assert ids == sorted(set(ids)) and len(ids) == count
    twice = sum(before.values()) - len(before)
    yield f"| killed (SIGKILL) {KILLS} times: every film once | {len(ids):,} rows |"
    yield f"| batches that stand in the journal twice | {twice} |"
    yield f"| files equal to those of the undisturbed run | {'yes' if same else 'NO'} |"
    assert same and not twice


def tables(folder: Path, rows: Sequence[int]) -> Iterator[tuple[int, Path]]:
    films = folder / "films"
    films.mkdir(parents=True, exist_ok=True)
    for number in range(SHARED):
        film = PhantomFilm(seed=7, index=number, size=SIDE)()
        Image.fromarray((film * 255).astype(np.uint8)).save(films / f"{number}.png")
    for count in rows:
        table = folder / f"rows-{count}.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", "path", "sex", "age", "view"])
            for row in range(count):
                path = f"films/{row % SHARED}.png"
                writer.writerow([f"film-{row:07d}", path, "FM"[row % 2], 20 + row % 60, "PA"])
        yield count, table


def memory(folder: Path, rows: Sequence[int]) -> Iterator[str]:
    model = fitted(folder)
    for count, table in tables(folder, rows):
        score = ["score", "--model", model, "--films", f"table:{table}", "--threads", 1]
        score += ["--missing-fields", "mask", "--no-maps", "--overwrite"]
        cost = run([*score, "--out", folder / f"scores-{count}"], environment(folder))
        assert cost.status == 0, cost.said
        size = (folder / f"scores-{count}" / "scores.csv").stat().st_size / 2**20
        yield (
            f"| table of {count:,} rows: peak memory | {cost.mib:.0f} MiB, {cost.seconds:.0f} s "
            f"(scores.csv: {size:.1f} MiB) |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--films", type=int, default=10_000)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 100_000])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Scoring an archive",
        "",
        f"`python benchmarks/archive.py FOLDER --films {options.films} --rows "
        f"{' '.join(map(str, options.rows))}`.",
        f"`thumbnail`, batches of 16, no maps. {machine()};",
        f"load average at the start {os.getloadavg()[0]:.1f}, of other work.",
        "",
        "| what | measured |",
        "|---|---|",
    ]
    parts = [memory(options.folder, options.rows)]
    if options.films:
        parts.append(killing(options.folder, options.films))
    for line in (line for part in parts for line in part):
        lines.append(line)
        print(line, flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
