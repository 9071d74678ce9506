"""All that runs behind an intake: workers, the outbox, the sweeping of old films."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from nofinding.errors import UserError
from nofinding.model.pretrained import AUTO, model_folder
from nofinding.service.delivery.connections import lookup_of, senders, targets
from nofinding.service.delivery.outbox import Outbox
from nofinding.service.options import ServiceOptions
from nofinding.service.store.home import Home
from nofinding.service.workers.pool import Pool

__all__ = ["Running", "logged", "stopped_by_signals"]

log = logging.getLogger(__name__)
SWEEP = 600.0  # seconds between looks for what is old


class Running:
    """`with Running(options) as running`: films in its queue are scored, and results sent."""

    def __init__(self, options: ServiceOptions) -> None:
        """Raises UserError where the home, the model or a connection is not what it must be."""
        if options.model != AUTO and not (model_folder(options.model) / "model.json").is_file():
            raise UserError(f"--model {options.model}: holds no model.json")
        self.options = options
        self.home = Home.of(options)
        sent_to = targets(options)
        self.pool = Pool(self.home, options, lookup=lookup_of(options), deliver=sent_to)
        self.outbox = Outbox(self.home, senders(options), sent_to)
        self._stop = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="sweeper", daemon=True)
        self._stack = ExitStack()

    def __enter__(self) -> "Running":
        with ExitStack() as stack:
            stack.enter_context(self.outbox)
            stack.enter_context(self.pool)
            self.home.audit.write("service", "started", workers=self.options.workers)
            self._stack = stack.pop_all()
        self._sweeper.start()
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
            except Exception as error:  # the queue, the audit log: they may be well next time
                log.error("old films could not be deleted: %s", type(error).__name__)
            if self._stop.wait(SWEEP):
                return


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, as long as this lasts."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def logged() -> Iterator[None]:
    """One line an event on stderr, as long as this lasts."""
    logger, handler = logging.getLogger("nofinding"), logging.StreamHandler(sys.stderr)
    form = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler.setFormatter(form)
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
