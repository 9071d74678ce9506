"""Workers that die or hang: they are replaced, and no film is lost or done twice."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nofinding.errors import UserError
from nofinding.service.store.home import Home
from nofinding.service.workers.pool import Member, Pool
from support.serving import deadly, dicom_film, options_for, send, slow, small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "ae")


def wait_for(what: Callable[[], bool], seconds: float = 60) -> float:
    """Seconds until it is so."""
    begin = time.monotonic()
    while not what():
        assert time.monotonic() < begin + seconds, "it took too long"
        time.sleep(0.02)
    return time.monotonic() - begin


def test_a_killed_worker_is_replaced_within_five_seconds(tmp_path: Path, model: Path) -> None:
    options = options_for(tmp_path, model)
    home = Home(options.home, keep_free=0)
    with Pool(home, options) as pool:
        pool.wait_ready()
        (dead,) = pool.pids
        os.kill(dead, signal.SIGKILL)
        wait_for(lambda: pool.deaths == 1, 5)
        assert wait_for(lambda: pool.ready == 1 and pool.pids != [dead], 20) < 5
        job = send(home, dicom_film(tmp_path / "films", 0)).job
        wait_for(lambda: home.queue.counts()["done"] == 1)
    done = home.queue.get(job.id)
    assert done is not None and done.tries == 1


def test_the_film_that_kills_takes_no_other_with_it(tmp_path: Path, model: Path) -> None:
    options = options_for(tmp_path, model)
    home = Home(options.home, keep_free=0)
    names = ("fine", "KILLS", "fine too")
    films = [
        dicom_film(tmp_path / "films", i, StudyDescription=name) for i, name in enumerate(names)
    ]
    jobs = [send(home, film).job for film in films]
    with Pool(home, options, lookup=deadly) as pool:
        wait_for(lambda: home.queue.counts()["waiting"] + home.queue.counts()["working"] == 0)
        assert pool.deaths == 2
    ended = [home.queue.get(job.id) for job in jobs]
    assert [job and job.state for job in ended] == ["done", "failed", "done"]
    assert ended[1] is not None and ended[1].why == "the worker crashed on it, twice"


def test_a_worker_that_hangs_is_killed_and_its_film_tried_once_more(
    tmp_path: Path, model: Path
) -> None:
    options = options_for(tmp_path, model, limit=6.0)
    home = Home(options.home, keep_free=0, lease=6.0)
    send(home, dicom_film(tmp_path / "films", 0, StudyDescription="HANGS"))
    with Pool(home, options, lookup=slow) as pool:
        wait_for(lambda: home.queue.counts()["failed"] == 1)
        wait_for(lambda: pool.deaths == 2)
        send(home, dicom_film(tmp_path / "films", 1))
        wait_for(lambda: home.queue.counts()["done"] == 1)


def test_at_its_end_the_pool_finishes_what_it_holds_or_puts_it_back(
    tmp_path: Path, model: Path
) -> None:
    options = options_for(tmp_path, model)
    home = Home(options.home, keep_free=0)
    send(home, dicom_film(tmp_path / "films", 0, StudyDescription="HANGS"))
    with Pool(home, options, lookup=slow, drain=0.5) as pool:
        wait_for(lambda: home.queue.counts()["working"] == 1)
        (worker,) = pool.pids
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    assert home.queue.counts()["waiting"] == 1
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_however_many_ask_whether_a_worker_is_ready_none_waits_for_ever() -> None:
    for _ in range(30):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process()
        member = Member(name="m", process=process, link=ours, begun=0.0)
        begin = threading.Barrier(9)
        answers: list[bool] = []

        def ask(member: Member = member, begin: threading.Barrier = begin) -> None:
            begin.wait(10)
            while not member.ready:
                pass
            answers.append(True)  # noqa: B023, of this round

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        begin.wait(10)
        theirs.send_bytes(b"ready")
        for thread in threads:
            thread.join(5)
        assert len(answers) == 8


def test_a_queue_that_cannot_be_written_leaves_no_dead_worker_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(tmp_path, tmp_path / "no model")
    home = Home(options.home, keep_free=0)
    outputs: list[Member] = []
    failed: list[str] = []

    def new(pool: Pool) -> Member:
        process = multiprocessing.Process(target=time.sleep, args=(30,), daemon=True)
        if outputs:
            process.start()  # the first one is dead
        outputs.append(
            Member(name="m", process=process, link=multiprocessing.Pipe()[0], begun=1e12)
        )
        return outputs[-1]

    def full(name: str) -> int:
        failed.append(name)
        if len(failed) < 3:
            raise sqlite3.OperationalError("database or disk is full")
        return 0

    monkeypatch.setattr(Pool, "_new", new)
    monkeypatch.setattr(home.queue, "abandon", full)
    monkeypatch.setattr("nofinding.service.workers.pool.PAUSE", 0.01)
    with Pool(home, options, drain=0) as pool:
        wait_for(lambda: len(outputs) == 2, 5)
        assert pool.deaths == 1 and not pool.broken


def test_who_is_told_to_stop_does_not_wait_for_a_model(tmp_path: Path) -> None:
    options = options_for(tmp_path, tmp_path / "no model")
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    begin = time.monotonic()
    Pool(Home(options.home, keep_free=0), options).wait_ready(20, stop)
    assert time.monotonic() - begin < 5


def test_without_a_model_the_pool_says_so_and_stops_trying(tmp_path: Path) -> None:
    options = options_for(tmp_path, tmp_path / "no model")
    home = Home(options.home, keep_free=0)
    with Pool(home, options) as pool, pytest.raises(UserError, match="could load the model"):
        pool.wait_ready()
    assert pool.broken
