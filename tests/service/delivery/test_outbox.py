"""What is to be sent arrives, however often the other side fails before."""

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from nofinding.errors import UserError
from nofinding.service.delivery.connections import senders
from nofinding.service.delivery.outbox import MOST_TRIES, Outbox
from nofinding.service.options import ServiceOptions
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import Delivery
from support.serving import until

A = "stow:http://a"


class Archive:
    """A receiver that is down for as long as it is told."""

    def __init__(self, down: int) -> None:
        self.down, self.asked, self.got = down, 0, list[str]()

    def __call__(self, home: Home, job: str, address: str) -> None:
        self.asked += 1
        if self.asked <= self.down:
            raise UserError("the archive does not answer")
        self.got.append(f"{address}/{job}")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", keep_free=0)


def sent_to(home: Home, target: str, films: int = 1) -> list[str]:
    """The jobs, done and to be sent."""
    names = []
    for number in range(films):
        home.queue.offer(f"film {number}", "d", {})
        (job,) = home.queue.claim()
        home.queue.done(job, {}, deliver=[target])
        names.append(job.id)
    return names


def test_what_fails_is_sent_again_later_and_later(home: Home) -> None:
    (job,) = sent_to(home, A)
    archive, now = Archive(down=3), [0.0]
    outbox = Outbox(home, {"stow": archive}, [A], clock=lambda: now[0])
    pauses = []
    while not archive.got:
        before = now[0]
        outbox.step()
        while not archive.got and not home.queue.due(now[0], [A], 0):
            now[0] += 1
        pauses.append(now[0] - before)
    assert archive.got == [f"http://a/{job}"] and archive.asked == 4
    assert pauses[0] < pauses[1] < pauses[2] < 60
    assert outbox.step() == 0 and home.queue.delivery_counts()["done"] == 1


def test_what_arrived_is_said_by_job_and_nothing_else(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    (job,) = sent_to(home, A)
    with caplog.at_level(logging.INFO, "nofinding"):
        assert Outbox(home, {"stow": Archive(down=0)}, [A]).step() == 1
    assert caplog.messages == [f"job {job} sent by stow"]


def test_an_archive_that_is_down_is_asked_once_and_not_for_every_film(home: Home) -> None:
    sent_to(home, A, films=3)
    archive = Archive(down=1)
    outbox = Outbox(home, {"stow": archive}, [A], clock=lambda: 0.0)
    assert outbox.step() == 0 and archive.asked == 1
    assert outbox.step() == 2  # the first of them waits for its time


def test_in_the_end_it_is_given_up_and_said_so(home: Home) -> None:
    (job,) = sent_to(home, A)
    now = [0.0]
    outbox = Outbox(home, {"stow": Archive(down=10**6)}, [A], clock=lambda: now[0])
    for _ in range(MOST_TRIES):
        outbox.step()
        now[0] += 5000
    assert not home.queue.due(1e12, [A], 0)
    (row,) = home.queue.deliveries(job)
    assert (row["state"], row["tries"]) == ("failed", MOST_TRIES)
    assert row["why"] == "the archive does not answer"


def test_a_library_that_breaks_is_a_failure_like_others_and_says_nothing_of_the_film(
    home: Home,
) -> None:
    (job,) = sent_to(home, A)

    def breaks(home: Home, job: str, address: str) -> None:
        raise ValueError("CANARY")

    Outbox(home, {"stow": breaks}, [A]).step()
    assert home.queue.deliveries(job)[0]["why"] == "ValueError"


def test_a_queue_that_cannot_be_written_stops_the_outbox_for_a_while_only(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent_to(home, A)
    archive, due, asked = Archive(down=0), home.queue.due, list[int]()

    def full(*about: Any) -> Delivery | None:
        asked.append(1)
        if len(asked) < 3:
            raise sqlite3.OperationalError("database or disk is full")
        return due(*about)

    monkeypatch.setattr(home.queue, "due", full)
    monkeypatch.setattr("nofinding.service.delivery.outbox.LOOK", 0.01)
    monkeypatch.setattr("nofinding.service.delivery.outbox.PAUSE", 0.01)
    with Outbox(home, {"stow": archive}, [A]):
        until(lambda: archive.got, 5)


@pytest.mark.parametrize(
    "kind", ["dicom:A@127.0.0.1:1", "stow:http://127.0.0.1:1", "fhir:http://a"]
)
def test_what_is_no_longer_there_does_not_count_as_sent(home: Home, kind: str) -> None:
    (job,) = sent_to(home, kind)
    options = ServiceOptions(home=home.folder)
    assert Outbox(home, senders(options), [kind]).step() == 0
    (row,) = home.queue.deliveries(job)
    assert row["state"] == "waiting" and row["why"] == "the result is no longer in the home"


def test_two_services_on_one_home_send_a_result_once_and_each_to_its_own(home: Home) -> None:
    names = sent_to(home, A, films=2)
    archive, other = Archive(down=0), Archive(down=0)
    first = Outbox(home, {"stow": archive}, [A], clock=lambda: 0.0)
    assert home.queue.due(0.0, [A]) is not None  # the second has it, and dies
    assert first.step() == 1 and Outbox(home, {"stow": other}, ["stow:http://b"]).step() == 0
    later = Outbox(home, {"stow": archive}, [A], clock=lambda: 400.0)
    assert later.step() == 1 and not other.got
    assert sorted(archive.got) == sorted(f"http://a/{name}" for name in names)
