"""`nofinding cache`: films decoded ahead, by several processes, and killed in between."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nofinding.cli import main
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.decoding.decode import FilmFile
from nofinding.data.image import fit_square
from nofinding.workflows import warm_cache
from support.tables import Rows, write_table

Refused = Callable[..., str]


def cache(films: str, folder: Path, *more: object) -> list[str]:
    return ["cache", "--films", films, "--cache", str(folder), *map(str, more)]


def paths(cohort: Path, rows: Rows) -> list[Path]:
    return [cohort / row["path"] for row in rows]


def test_every_film_is_there_in_every_size_and_equals_a_fresh_one(
    cohort: Path,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    films = f"table:{cohort / 'films.csv'}"
    assert main(cache(films, tmp_path / "c", "--size", 16, 8, "--workers", 3)) == 0
    assert f"{len(rows)} films in the cache" in capsys.readouterr().err
    fresh = {p: FilmFile(p)() for p in paths(cohort, rows)}
    monkeypatch.setattr(FilmFile, "__call__", None)  # from here on nothing can be decoded
    for path, pixels in fresh.items():
        for size in (16, 8):
            stored = FilmCache(tmp_path / "c").get(FilmFile(path), size)
            np.testing.assert_array_equal(stored, fit_square(pixels, size))
    assert main(cache(films, tmp_path / "c", "--size", 16)) == 0


def test_a_killed_run_goes_on(
    cohort: Path, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = cache(f"table:{cohort / 'films.csv'}", tmp_path / "c", "--size", 16, "--workers", 1)
    child = os.fork()
    if child == 0:
        own, count = FilmFile.decode, [0]

        def deadly(film: FilmFile) -> object:
            count[0] += 1
            if count[0] == 11:
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            return own(film)

        FilmFile.decode = deadly  # type: ignore[method-assign, assignment]
        os._exit(main(command))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    log = tmp_path / "decoded"
    own = FilmFile.decode

    def noting(film: FilmFile) -> object:
        with log.open("a") as file:
            file.write(f"{film.path.name}\n")
        return own(film)

    monkeypatch.setattr(FilmFile, "decode", noting)
    assert main(command) == 0
    assert len(log.read_text().split()) == len(rows) - 10


def test_processes_whose_parent_was_killed_stop(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, films = tmp_path / "log", f"table:{cohort / 'films.csv'}"
    command = cache(films, tmp_path / "c", "--size", 16, "--workers", 2)
    child = os.fork()
    if child == 0:
        parent, own = os.getpid(), warm_cache._prepare

        def deadly(*given: Any) -> object:
            with log.open("a") as file:
                file.write(f"{os.getpid()}\n")
            if os.getppid() == parent:
                os.kill(parent, signal.SIGKILL)
                while os.getppid() == parent:
                    time.sleep(0.01)
            return own(*given)

        warm_cache._prepare = deadly
        os._exit(main(command))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    deadline = time.monotonic() + 20
    orphans = {int(line) for line in log.read_text().split()}
    while any(Path(f"/proc/{pid}").exists() for pid in orphans) and time.monotonic() < deadline:
        time.sleep(0.05)
        orphans |= {int(line) for line in log.read_text().split()}
    assert len(log.read_text().split()) <= 2 * warm_cache.AT_ONCE


def test_a_damaged_film_stops_it_or_is_named(
    cohort: Path,
    rows: Rows,
    tmp_path: Path,
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = [{**row, "path": str(cohort / row["path"])} for row in rows]
    (tmp_path / "cut.png").write_bytes(Path(wrong[5]["path"]).read_bytes()[:200])
    wrong[5]["path"] = str(tmp_path / "cut.png")
    films = write_table(tmp_path / "t.csv", wrong)
    assert "cut.png is damaged" in refused(*cache(films, tmp_path / "c", "--size", 8))
    assert main(cache(films, tmp_path / "c", "--size", 8, "--unreadable", "list")) == 0
    said = capsys.readouterr().err
    assert f"film '{wrong[5]['image_id']}' is damaged or cut short" in said
    assert "35 films in the cache, 1 cannot be read" in said


def test_a_process_that_is_killed_is_told(
    cohort: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(warm_cache, "_prepare", die)
    line = refused(*cache(f"table:{cohort / 'films.csv'}", tmp_path / "c"))
    assert "was killed" in line and "--workers" in line


@pytest.mark.parametrize("more", [("--size", 0), ("--workers", -1), ("--split", "val")])
def test_what_cannot_be_is_refused(tmp_path: Path, refused: Refused, more: tuple) -> None:
    films = "phantom:train=2,val=0,test=0,abnormal=0,size=32"
    assert str(more[1]) in refused(*cache(films, tmp_path / "c", *more))
