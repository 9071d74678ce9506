"""All that runs behind an intake: workers, the outbox, the sweeping of old films."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from nofinding.service.connections import make_lookup, senders, targets
from nofinding.service.home import Home
from nofinding.service.options import ServiceOptions
from nofinding.service.outbox import Outbox
from nofinding.service.pool import Pool

__all__ = ["Service", "stopped_by_signals"]

log = logging.getLogger(__name__)
SWEEP = 600.0  # seconds between looks for what is old


class Service:
    """`with Service(options) as service`: films in its queue are scored, and results sent."""

    def __init__(self, options: ServiceOptions) -> None:
        """Raises UserError where the home or a connection is not what it must be."""
        self.options = options
        self.home = Home(
            options.home,
            capacity=options.capacity,
            lease=options.limit,
            keep_free=round(options.keep_free * 2**30),
        )
        sent_to = targets(options)
        self.pool = Pool(self.home, options, make_lookup=make_lookup(options), deliver=sent_to)
        self.outbox = Outbox(self.home, senders(options))
        self._stop = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="sweeper", daemon=True)
        self._stack = ExitStack()

    def __enter__(self) -> "Service":
        with ExitStack() as stack:
            stack.enter_context(self.outbox)
            stack.enter_context(self.pool)
            self._stack = stack.pop_all()
        self._sweeper.start()
        self.home.audit.write("service", "started", workers=self.options.workers)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._stack.close()
        self.home.audit.write("service", "stopped")

    def _sweep(self) -> None:
        while True:
            try:
                if gone := self.home.sweep(self.options.keep_days):
                    log.info("%d old films were deleted", gone)
            except OSError as error:
                log.error("old films could not be deleted: %s", error.strerror)
            if self._stop.wait(SWEEP):
                return


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second SIGINT interrupts as ever."""
    stop = threading.Event()

    def ask(number: int, frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
