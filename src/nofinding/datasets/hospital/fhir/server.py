"""A FHIR server, asked within bounds: of time, of pages, of bytes, and at its own address alone.

One reader of servers for all: a cohort is read by long searches, the record of one film by short
ones that have to be over in seconds (`Limits`).
"""

import json
import math
import os
import queue
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from pathlib import Path
from typing import Any

from nofinding.datasets.hospital.fhir.resources import objects, resources_in
from nofinding.errors import UserError

__all__ = ["TOKEN", "TOKEN_FILE", "FhirError", "Limits", "Server", "escaped", "is_address"]

TOKEN = "NOFINDING_FHIR_TOKEN"  # names the variable; is not what is in it
TOKEN_FILE = "NOFINDING_FHIR_TOKEN_FILE"  # names the variable with the path of a file
LONGEST = 2**16  # characters of a token
BUSY = frozenset({429, 500, 502, 503, 504})  # answers that may be others a moment later
JSON = "application/fhir+json"


class FhirError(UserError):
    """A server without an answer that can be used: one line, without anything that was asked."""

    def __init__(self, message: str, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered
        """Whether there was an answer at all; False: it may be worth while to ask again later."""

    def __reduce__(self) -> tuple[type["FhirError"], tuple[str, bool]]:
        return type(self), (str(self), self.answered)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a server is waited for, and how much is taken from it."""

    seconds: float = math.inf
    """For everything that is asked, further tries included."""
    page_seconds: float = 60.0
    """For one answer."""
    waits: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Seconds before each further try where the server is busy; where it does not answer at all
    there is one further try, after the first of them."""
    page_bytes: int = 2**26
    total_bytes: float = math.inf
    """Of everything that is answered."""
    pages: int = 100_000
    """Of one search."""


def is_address(text: str) -> bool:
    """Whether this is a server's address, though a path may have lost one of its slashes."""
    return re.match(r"https?:/", text) is not None


def escaped(value: str) -> str:
    """The value as a search takes it: comma, bar and dollar mean something there."""
    return re.sub(r"([\\,|$])", r"\\\1", value)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer that points elsewhere is an error: nothing is fetched that was not given."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follows nothing."""


def _opener(sockets: list[socket.socket]) -> urllib.request.OpenerDirector:
    """What opens addresses, and notes the sockets: whoever gives up closes them."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class OpensPlain(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Plain, req)

    class OpensSecure(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Secure, req)

    return urllib.request.build_opener(_NoRedirect, OpensPlain, OpensSecure)


class Server:
    """A FHIR server at the address that the user gave, and nothing beside it."""

    def __init__(self, address: str, limits: Limits | None = None) -> None:
        """The time runs from now on. Raises UserError for an address with a password, a token that
        would go openly, or one that cannot be read."""
        self.address = re.sub(r"^(https?):/+", r"\1://", address).rstrip("/")
        self.limits = limits or Limits()
        self.until = time.monotonic() + self.limits.seconds
        self.taken = 0  # bytes so far
        try:
            parts = urllib.parse.urlsplit(self.address)
        except ValueError:
            raise UserError("fhir:http...: is no address of a server") from None
        if "@" in parts.netloc or parts.query or not parts.hostname:
            raise UserError("fhir:http...: give the server's base address alone; a token goes "
                            f"into the variable {TOKEN}")  # fmt: skip
        self.origin = (parts.scheme, parts.netloc)
        self.token = _token()
        here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if self.token and parts.scheme == "http" and not here:
            raise UserError(f"fhir:{self.address}: {TOKEN} is not sent over http; give https")

    def search(
        self, kind: str, query: dict[str, str] | Sequence[tuple[str, str]]
    ) -> Iterator[dict[str, Any]]:
        """All pages of a search. Raises FhirError where the server does not answer, or its next
        page is elsewhere, was there before, or there is no end."""
        url = f"{self.address}/{kind}?{urllib.parse.urlencode(query)}"
        pages: set[str] = set()
        while url:
            if url in pages or len(pages) == self.limits.pages:
                raise self._error(f"its pages of {kind} have no end")
            pages.add(url)
            page = self._bundle(urllib.request.Request(url))
            yield from resources_in(page, (kind,))
            onward = [link.get("url") for link in objects(page.get("link"))
                      if link.get("relation") == "next"]  # fmt: skip
            try:
                url = urllib.parse.urljoin(url, str(onward[0])) if onward else ""
                elsewhere = bool(url) and urllib.parse.urlsplit(url)[:2] != self.origin
            except ValueError:
                elsewhere = True
            if elsewhere:
                raise self._error("its next page is on another server, which is not asked")

    def post(self, content: dict[str, Any]) -> dict[str, Any]:
        """Sends a Bundle to the base address, and gives the Bundle that is answered. It may be
        sent twice where the first answer is lost. Raises FhirError."""
        data = json.dumps(content, allow_nan=False).encode()
        headers = {"Content-Type": JSON}
        return self._bundle(
            urllib.request.Request(self.address, data=data, headers=headers, method="POST")
        )

    def _error(self, message: str, *, answered: bool = True) -> FhirError:
        return FhirError(f"fhir:{self.address}: {message}", answered)

    def _bundle(self, request: urllib.request.Request) -> dict[str, Any]:
        text = self._answer(request)
        most = self.limits.page_bytes
        self.taken += len(text)
        if self.taken > self.limits.total_bytes:
            raise self._error(f"sent more than {self.limits.total_bytes / 2**20:g} MiB")
        try:
            content = json.loads(text) if len(text) <= most else None
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or content.get("resourceType") != "Bundle":
            raise self._error(
                f"answered with something else than a Bundle of at most {most // 2**20} MiB"
            )
        return content

    def _answer(self, request: urllib.request.Request) -> bytes:
        """What the server says, after as many tries as it gets."""
        request.add_header("Accept", JSON)
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        waits = [*self.limits.waits]
        while True:
            left = min(self.limits.page_seconds, self.until - time.monotonic())
            try:
                return _within(left, partial(self._read, request, left))
            except urllib.error.HTTPError as error:
                error.close()
                hint = f"; set {TOKEN}" if error.code in (401, 403) else ""
                failed = self._error(f"answered {error.code}{hint}")
                if error.code not in BUSY:
                    raise failed from None
            except (OSError, HTTPException, ValueError):  # URLError, time-outs, cut connections
                failed = self._error("does not answer", answered=False)
                waits = waits[:1] if len(waits) == len(self.limits.waits) else []
            if not waits or time.monotonic() + waits[0] >= self.until:
                raise failed from None
            time.sleep(waits.pop(0))

    def _read(
        self, request: urllib.request.Request, seconds: float, opener: urllib.request.OpenerDirector
    ) -> bytes:
        pieces, size = [], 0
        with opener.open(request, timeout=seconds) as answer:
            while size <= self.limits.page_bytes and (piece := answer.read1(2**20)):
                pieces.append(piece)
                size += len(piece)
            if size <= self.limits.page_bytes and answer.length:  # less than was announced
                raise IncompleteRead(b"", answer.length)
        return b"".join(pieces)


def _within(seconds: float, ask: Callable[[urllib.request.OpenerDirector], bytes]) -> bytes:
    """What `ask` gives, from a thread of its own. Raises TimeoutError once the time is over.

    A time-out of a socket is one for each piece that comes: who sends a byte now and then, or has
    a name that is looked up for minutes, is not stopped by it.
    """
    if seconds <= 0:
        raise TimeoutError
    answers: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
    sockets: list[socket.socket] = []

    def work() -> None:
        try:
            answers.put(ask(_opener(sockets)))
        except BaseException as error:
            answers.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    finally:
        for one in sockets:
            with suppress(OSError):  # is closed already
                socket.socket.shutdown(one, socket.SHUT_RDWR)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _token() -> str:
    """The token of the variable, or of the file that another variable names; "" for none. Raises
    UserError, without quoting it, where it is none."""
    text, file = os.environ.get(TOKEN, ""), os.environ.get(TOKEN_FILE, "")
    where = TOKEN
    if not text and file:
        where = TOKEN_FILE
        try:
            with Path(file).open(encoding="ascii") as stream:
                text = stream.read(LONGEST + 1)
        except (OSError, ValueError):
            raise UserError(f"{TOKEN_FILE}: the file that it names cannot be read") from None
    text = text.strip()
    if text and (len(text) > LONGEST or not re.fullmatch(r"[\x21-\x7e]+", text)):
        raise UserError(f"{where}: holds no token, which is printable ASCII without blanks")
    return text
