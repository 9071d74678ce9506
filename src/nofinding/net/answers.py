"""What a server may do wrong, and how often it is asked again: needs no package for the network."""

import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from nofinding.errors import UserError

__all__ = ["BUSY", "HttpError", "SilentError", "patiently"]

BUSY = frozenset({429, 502, 503, 504})  # answers that may be others a moment later
T = TypeVar("T")


class HttpError(UserError):
    """A server did not do what was asked: one line, without a password or anything that was
    asked for."""

    def __init__(self, message: str, *, answered: bool = True, busy: bool = False) -> None:
        super().__init__(message)
        self.answered = answered
        """Whether there was a whole answer; False: it may be worth while to ask again later."""
        self.busy = busy
        """Whether the server asks to come again."""

    def __reduce__(self) -> tuple[Callable[..., "HttpError"], tuple[str, bool, bool]]:
        return _again, (str(self), self.answered, self.busy)


def _again(message: str, answered: bool, busy: bool) -> HttpError:
    return HttpError(message, answered=answered, busy=busy)


class SilentError(HttpError):
    """It does not answer at all."""

    def __init__(self, message: str) -> None:
        super().__init__(message, answered=False)


def patiently(call: Callable[[], T], waits: Sequence[float], until: float = math.inf) -> T:
    """What the call gives; a server that is busy or silent is asked again, after each of `waits`
    seconds, as long as `until` (of `time.monotonic`) is not reached.

    Raises HttpError, that of the last try.
    """
    for wait in (*waits, None):
        try:
            return call()
        except HttpError as error:
            again = error.busy or isinstance(error, SilentError)
            if not again or wait is None or time.monotonic() + wait >= until:
                raise
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")
