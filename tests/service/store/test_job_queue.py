"""What was accepted is done once, whatever dies in between."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nofinding.errors import UserError
from nofinding.service.store.job_queue import SPARE, FullError, Queue


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Queue:
    return Queue(tmp_path / "queue.sqlite", capacity=5, lease=60, clock=clock)


def test_a_job_goes_its_way(queue: Queue) -> None:
    accepted = queue.offer("film", "digest", {"path": "a"})
    assert accepted.new and accepted.job.state == "waiting"
    (job,) = queue.claim()
    assert job.payload == {"path": "a"} and job.state == "working" and not queue.claim()
    assert queue.done(job, {"score": 1.5})
    ended = queue.get(job.id)
    assert ended is not None and ended.state == "done" and ended.result == {"score": 1.5}
    assert queue.counts() == {"waiting": 0, "working": 0, "done": 1, "failed": 0}


def test_what_is_not_in_the_list_is_not_counted_with_it(queue: Queue) -> None:
    queue.offer("film", "one", {})
    (job,) = queue.claim()
    queue.done(job, {}, pixels="a")
    queue.offer("film", "sent otherwise", {})
    (again,) = queue.claim()
    queue.done(again, {}, pixels="a", twin=job.id)
    queue.offer("film", "what if", {}, kind="what-if")
    assert len(queue.listed()) == 1
    assert queue.counts(listed=True) == {"waiting": 0, "working": 0, "done": 1, "failed": 0}
    assert queue.counts() == {"waiting": 1, "working": 0, "done": 2, "failed": 0}


def test_the_same_film_again_is_one_job(queue: Queue) -> None:
    first = queue.offer("film", "one", {})
    again = queue.offer("film", "one", {})
    assert not again.new and again.job.id == first.job.id
    assert queue.offer("film", "two", {}).new


def test_other_pixels_of_one_film_are_a_conflict_and_other_bytes_a_twin(queue: Queue) -> None:
    first = queue.offer("film", "one", {"record": {"age": 63}}).job
    for digest, age in (("two", 63), ("three", 63), ("four", 70)):
        queue.offer("film", digest, {"record": {"age": age}})
    collected = []
    for pixels in ("a", "a", "b", "a"):
        (job,) = queue.claim(5)  # never two of one film at a time
        conflict, twin = queue.earlier(job, pixels)
        collected.append((conflict, twin == first.id))
        queue.done(job, {}, pixels=pixels, conflict=conflict, twin=twin, deliver=["x"])
    # The fourth has the pixels of the first with another record, after others: a conflict, no twin.
    assert collected == [(False, False), (False, True), (True, False), (True, False)]
    assert [job.conflict for job in queue.find("film")] == [False, False, True, True]
    assert len(queue.listed()) == 3


def test_what_a_dead_holder_had_waits_again_and_is_given_out_alone(queue: Queue) -> None:
    for i in range(3):
        queue.offer(f"film {i}", "d", {})
    assert len(queue.claim(2, "dead")) == 2 and queue.abandon("other") == 0
    assert queue.abandon("dead") == 2
    assert [job.film for job in queue.claim(3, "a")] == ["film 2"]  # first who is not suspected
    assert [len(queue.claim(3, "b")) for _ in range(3)] == [1, 1, 0]
    assert queue.abandon("b") == 0 and queue.counts()["failed"] == 2


def test_a_question_comes_before_films_and_is_not_listed(queue: Queue) -> None:
    queue.offer("film 0", "d", {})
    queue.offer("film 1", "d", {}, kind="what-if")
    assert [job.kind for job in queue.claim(2)] == ["what-if", "film"]
    assert len(queue.listed()) == 1


def test_films_are_listed_by_p_and_those_without_come_last(queue: Queue) -> None:
    for name, p in (("a", 0.5), ("b", None), ("c", 0.01)):
        queue.offer(name, "d", {})
        (job,) = queue.claim()
        queue.done(job, {"p_value": p, "score": 1.0})
    assert [job.film for job in queue.listed()] == ["c", "a", "b"]
    assert [job.film for job in queue.listed(descending=True)] == ["a", "c", "b"]
    assert [job.film for job in queue.listed(most=1, skip=1)] == ["a"]
    assert not queue.listed(state="failed")


def test_of_films_with_one_p_the_higher_score_comes_first(queue: Queue) -> None:
    """25 calibration films: a film with masses and an unremarkable one both lie beyond them."""
    for name, p, score in (("mass", 0.038, 5.36), ("plain", 0.038, 1.81), ("usual", 0.5, 9.0)):
        queue.offer(name, "d", {})
        (job,) = queue.claim()
        queue.done(job, {"p_value": p, "score": score})
    assert [job.film for job in queue.listed()] == ["mass", "plain", "usual"]
    assert [job.film for job in queue.listed(descending=True)] == ["usual", "plain", "mass"]


def test_a_score_that_is_no_number_breaks_no_list(queue: Queue) -> None:
    queue.offer("film", "d", {})
    (job,) = queue.claim()
    queue.done(job, {"score": float("nan"), "point": [float("inf"), 1.0]})
    (result,) = queue.listed(order="score")
    assert result.result == {"score": None, "point": [None, 1.0]}


def test_how_long_films_took_is_told_once(queue: Queue) -> None:
    since = time.time()
    queue.offer("film", "d", {})
    queue.offer("film", "d", {}, kind="what-if")
    for job in queue.claim(1) + queue.claim(1):
        queue.done(job, {})
    since, (seconds,) = queue.finished(since)
    assert 0 <= seconds < 60 and queue.finished(since)[1] == []


def test_a_result_is_sent_until_it_arrived_or_is_given_up(queue: Queue) -> None:
    queue.offer("film", "d", {})
    (job,) = queue.claim()
    queue.done(job, {}, deliver=["dicom:A@b:1", "stow:http://c"])
    both = ["dicom:A@b:1", "stow:http://c"]
    first, second = (queue.due(5.0, [target]) for target in both)
    assert first is not None and second is not None and queue.due(6.0, both) is None
    queue.delivered(first)
    queue.not_delivered(second, "refused", again=60.0)
    assert queue.due(59.0, both) is None
    again = queue.due(61.0, both)
    assert again is not None and again.tries == 1
    queue.not_delivered(again, "refused", again=None)
    assert queue.due(1e12, both) is None
    assert queue.delivery_counts() == {"waiting": 0, "done": 1, "failed": 1}
    assert [row["state"] for row in queue.deliveries(job.id)] == ["done", "failed"]


def test_a_clock_that_is_set_back_or_forth_holds_nothing_up(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.offer("film", "d", {})
    monkeypatch.setattr("nofinding.service.store.job_queue.time.time", lambda: 0.0)  # back to 1970
    assert queue.ready() == (1, 0.0)
    (job,) = queue.claim()
    assert queue.done(job, {})
    queue.offer("film 1", "d", {})
    monkeypatch.setattr("nofinding.service.store.job_queue.time.time", lambda: 4e9)
    assert queue.claim() and not queue.claim()  # a lease is no matter of the wall clock


def test_a_delivery_of_a_future_that_the_clock_left_again_is_due(queue: Queue) -> None:
    queue.offer("film", "d", {})
    (job,) = queue.claim()
    queue.done(job, {}, deliver=["a"])
    delivery = queue.due(4e9, ["a"])  # in 2096
    assert delivery is not None
    queue.not_delivered(delivery, "refused", again=4e9 + 3600)
    assert queue.due(4e9 + 60, ["a"]) is None
    assert queue.due(1.8e9, ["a"]) is not None


def test_jobs_are_done_in_the_order_they_came(queue: Queue) -> None:
    names = [queue.offer(f"film {i}", "d", {}).job.id for i in range(4)]
    assert [job.id for job in queue.claim(3)] == names[:3]
    assert [job.id for job in queue.claim(3)] == names[3:]


def test_a_full_queue_refuses_and_takes_again(queue: Queue) -> None:
    for i in range(5):
        queue.offer(f"film {i}", "d", {})
    with pytest.raises(FullError) as refused:
        queue.offer("film 5", "d", {})
    assert refused.value.seconds > 0
    assert not queue.offer("film 0", "d", {}).new  # what is there already is no new work
    (job,) = queue.claim()
    queue.done(job, {})
    assert queue.offer("film 5", "d", {}).new


def test_a_worker_that_dies_loses_the_job_once_more_and_then_it_has_failed(
    queue: Queue, clock: Clock
) -> None:
    queue.offer("film", "d", {})
    (first,) = queue.claim()
    clock.now += 60 + SPARE + 1
    (second,) = queue.claim()
    assert second.id == first.id and second.tries == 2
    assert not queue.done(first, {"late": True})  # whose lease ran out may not answer any more
    clock.now += 60 + SPARE + 1
    assert not queue.claim()
    ended = queue.get(first.id)
    assert ended is not None and ended.state == "failed" and "twice" in str(ended.why)


def test_who_hangs_is_seen_by_his_own_service_before_another_takes_his_job(
    queue: Queue, clock: Clock
) -> None:
    queue.offer("film", "d", {})
    queue.claim(1, "hangs")
    queue.offer("other", "d", {})
    clock.now += 61
    assert [job.film for job in queue.claim(2, "busy")] == ["other"]
    assert queue.overdue() == {"hangs"}


def test_a_job_put_back_was_not_tried(queue: Queue) -> None:
    queue.offer("film", "d", {})
    (job,) = queue.claim()
    queue.release(job)
    (again,) = queue.claim()
    assert again.tries == 1


def test_leases_of_another_boot_have_run_out(tmp_path: Path, clock: Clock) -> None:
    queue = Queue(tmp_path / "q.sqlite", clock=clock)
    queue.offer("film", "d", {})
    assert queue.claim()
    after = Queue(tmp_path / "q.sqlite", clock=lambda: 5.0)  # the clock began anew
    assert not after.claim()
    after._boot = "another"
    assert len(after.claim()) == 1


def test_several_threads_never_get_one_job_twice(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.sqlite")
    for i in range(30):
        queue.offer(f"film {i}", "d", {})
    held: list[str] = []
    lock = threading.Lock()

    def work() -> None:
        while jobs := queue.claim(2):
            with lock:
                held.extend(job.id for job in jobs)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 30 and len(set(held)) == 30


CHILD = """
import os, sys
from pathlib import Path
from nofinding.service.store.job_queue import Queue
queue = Queue(Path(sys.argv[1]))
for i in range(1000):
    job = queue.offer(f"film {i}", "d", {}).job
    os.write(1, f"{job.id}\\n".encode())
"""


def test_what_was_accepted_survives_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(file)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    values = [child.stdout.readline().decode().strip() for _ in range(20)]
    os.kill(child.pid, signal.SIGKILL)
    values += child.stdout.read().decode().split("\n")[:-1]
    child.wait()
    queue = Queue(file)
    assert all(queue.get(name) is not None for name in values)


def test_two_services_may_make_the_queue_at_once(tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE made (a)")
    other.execute("BEGIN IMMEDIATE")  # as the other one does before the file is one with WAL
    ends = threading.Timer(0.5, other.execute, ["COMMIT"])
    ends.start()
    assert Queue(file).counts()["waiting"] == 0
    ends.join()
    other.close()


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.sqlite").write_bytes(b"not a database at all, but long enough to look at" * 9)
    with pytest.raises(UserError, match="is not a queue"):
        Queue(tmp_path / "q.sqlite")


def test_acceptance_is_on_the_disk_before_it_is_told(queue: Queue) -> None:
    db = queue._db.connection()
    assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert sqlite3.threadsafety > 0
