"""What faults cost the service: workers killed, a film that kills, the service killed.

usage: python benchmarks/faults.py FOLDER [--out benchmarks/results/faults.md]
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nofinding.datasets.local.single_files import NOTHING, Known
from nofinding.service.intake.offer import offer
from nofinding.service.options import ServiceOptions
from nofinding.service.store.home import Home
from nofinding.service.workers.pool import Pool
from service import file_of, model_in, numbered, template

KILLS = b"THIS FILM KILLS"
TIMES = 5


def deadly(path: Path) -> Known:
    """Dies over one film, as over a fault in a library."""
    if KILLS in path.read_bytes():
        os.kill(os.getpid(), signal.SIGKILL)
    return NOTHING


def until(what: Callable[[], object]) -> float:
    """Seconds until it is so."""
    begin = time.monotonic()
    while not what():
        assert time.monotonic() < begin + 600
        time.sleep(0.02)
    return time.monotonic() - begin


def sent(home: Home, folder: Path, first: int, count: int, deadly_one: bool = False) -> None:
    film = template(folder / f"template-{first}")
    for number in range(first, first + count):
        data = file_of(numbered(film, number))
        home_of = home.spool.put(str(number), data + (KILLS if deadly_one else b""))
        offer(home, home_of)


@contextmanager
def served(place: Path, model: Path) -> Iterator["subprocess.Popen[str]"]:
    """`nofinding serve` as a process."""
    command = [
        "serve",
        "--home",
        str(place),
        "--model",
        str(model),
        "--port",
        "0",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "nofinding", *command, "--keep-free", "0", "--batch-size", "1"],
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def killed_workers(home: Home, options: ServiceOptions) -> list[float]:
    """Seconds from the death of one of two workers to another that has its model."""
    took = []
    with Pool(home, replace(options, workers=2)) as pool:
        until(lambda: pool.ready == 2)
        for _ in range(TIMES):
            dead = pool.pids[0]
            os.kill(dead, signal.SIGKILL)
            took.append(until(lambda dead=dead: dead not in pool.pids and pool.ready == 2))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    model = model_in(folder)
    options = ServiceOptions(
        home=folder / "home", model=str(model), keep_free=0, threads=1, wait=0.0, batch_size=8
    )
    rows = []
    home = Home(options.home, keep_free=0)
    shipped = killed_workers(
        Home(folder / "shipped", keep_free=0),
        replace(options, home=folder / "shipped", model="adult"),
    )
    for name, took in (("small", killed_workers(home, options)), ("shipped adult", shipped)):
        rows.append(
            (
                f"worker with the {name} model killed, {TIMES} times: another is ready after",
                f"{statistics.median(took):.1f} s in the median, {max(took):.1f} s at most",
            )
        )
    sent(home, folder, 0, 20)
    sent(home, folder, 20, 1, deadly_one=True)
    sent(home, folder, 21, 20)
    with Pool(home, options, lookup=deadly) as pool:
        took_all = until(lambda: sum(home.queue.counts()[s] for s in ("waiting", "working")) == 0)
        counts, deaths = home.queue.counts(), pool.deaths
    rows.append(
        (
            "one film in 41 kills whoever looks at it",
            f"{counts['done']} scored, {counts['failed']} failed, {deaths} workers died, "
            f"{took_all:.0f} s",
        )
    )
    place = folder / "killed"
    killed = Home(place, keep_free=0)
    sent(killed, folder, 100, 60)
    kills = 0
    begin = time.monotonic()
    while killed.queue.counts()["done"] < 60 and kills < TIMES:
        already = killed.queue.counts()["done"]
        with served(place, model) as process:
            until(lambda already=already: killed.queue.counts()["done"] > already)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    with served(place, model) as process:
        until(lambda: sum(killed.queue.counts()[s] for s in ("waiting", "working")) == 0)
        counts = killed.queue.counts()
        whole = time.monotonic() - begin
        sent(killed, folder, 200, 40)
        stop = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        stopped = time.monotonic() - stop
    rows += [
        (
            f"60 films, the service killed (SIGKILL) {kills} times on the way",
            f"{counts['done']} scored once, {counts['failed']} failed, {whole:.0f} s in all",
        ),
        (
            "SIGTERM with 40 films waiting",
            f"ended after {stopped:.1f} s with code {code}; "
            f"{killed.queue.counts()['waiting']} wait for the next start, "
            f"{killed.queue.counts()['failed'] - counts['failed']} lost",
        ),
    ]
    lines = [
        "# The service and its faults\n",
        f"`python benchmarks/faults.py FOLDER`, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}. The model is `thumbnail` where nothing else is said.\n",
        "| fault | measured |",
        "|---|---|",
        *(f"| {what} | {outcome} |" for what, outcome in rows),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
