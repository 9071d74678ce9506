"""Results on their way to archives and record systems: sent until they arrive or are given up.

What is to be sent was written with the result, in one transaction: a crash forgets nothing. The
receiver gets an object twice where we died before we noted that it arrived; its UID is the same.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from nofinding.errors import UserError
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import Delivery

__all__ = ["MOST_TRIES", "Outbox", "Sender"]

log = logging.getLogger(__name__)
LOOK = 0.5  # seconds between looks at what is due
PAUSE = 10.0  # seconds until the next look where the queue or the audit log cannot be written
FIRST, LONGEST = 5.0, 3600.0  # seconds until the second try, and at most between any two
MOST_TRIES = 40
"""Then a delivery is given up: after about a day and a half."""

Sender: TypeAlias = Callable[[Home, str, str], None]
"""send(home, job, address): returns once the other side has it. Raises UserError or OSError."""


class Outbox:
    """`with Outbox(...)`: a thread that sends what is due."""

    def __init__(
        self,
        home: Home,
        senders: Mapping[str, Sender],
        targets: Sequence[str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`senders` by what a target begins with: "dicom", "stow", "fhir". Only what goes to one of
        `targets` is sent: another service on the home may have the login for others."""
        self.home, self.senders, self.targets, self.clock = home, senders, tuple(targets), clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def __enter__(self) -> "Outbox":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            try:
                self.step()
            except Exception as error:  # a full disk: what is due stays due
                log.error("nothing could be sent: %s", type(error).__name__)
                self._stop.wait(PAUSE)

    def step(self) -> int:
        """Sends everything that is due; gives how much of it arrived."""
        arrived, up = 0, [*self.targets]
        while up and not self._stop.is_set():
            delivery = self.home.queue.due(self.clock(), up)
            if delivery is None:
                break
            if self._send(delivery):
                arrived += 1
            else:  # it did not answer: all that goes there waits for the next look
                up.remove(delivery.target)
        return arrived

    def _send(self, delivery: Delivery) -> bool:
        kind, _, address = delivery.target.partition(":")
        try:
            self.senders[kind](self.home, delivery.job, address)
        except (UserError, OSError, KeyError) as error:
            why = type(error).__name__ if isinstance(error, KeyError) else str(error)
            self._again(delivery, why)
            return False
        except Exception as error:  # a library's own: whatever it was, the object is not there
            self._again(delivery, type(error).__name__)
            return False
        self.home.queue.delivered(delivery)
        self.home.audit.write("outbox", "sent", job=delivery.job, to=kind)
        log.info("job %s sent by %s", delivery.job, kind)
        return True

    def _again(self, delivery: Delivery, why: str) -> None:
        tries = delivery.tries + 1
        if tries >= MOST_TRIES:
            log.error("a result was given up after %d tries: %s", tries, why)
            self.home.queue.not_delivered(delivery, why, None)
            return
        pause = min(LONGEST, FIRST * 2 ** min(tries - 1, 16)) * random.uniform(0.8, 1.2)
        log.warning("a result did not arrive, try %d, again in %.0f s: %s", tries, pause, why)
        self.home.queue.not_delivered(delivery, why, self.clock() + pause)
