"""A FHIR server, asked within bounds: of time, of pages, of bytes, and at its own address alone.

One reader of servers for all: a cohort is read by long searches, the record of one film by short
ones that have to be over in seconds (`Limits`).
"""

import json
import math
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nofinding.datasets.hospital.fhir.resources import objects, resources_in
from nofinding.errors import UserError
from nofinding.extras import need
from nofinding.net.answers import BUSY, HttpError, SilentError, patiently

if TYPE_CHECKING:
    from requests import Response

__all__ = ["TOKEN", "TOKEN_FILE", "Limits", "Server", "escaped", "is_address"]

TOKEN = "NOFINDING_FHIR_TOKEN"  # names the variable; is not what is in it
TOKEN_FILE = "NOFINDING_FHIR_TOKEN_FILE"  # names the variable with the path of a file
LONGEST = 2**16  # characters of a token
JSON = "application/fhir+json"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a server is waited for, and how much is taken from it."""

    seconds: float = math.inf
    """For everything that is asked, further tries included."""
    page_seconds: float = 60.0
    """For one answer."""
    waits: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Seconds before each further try where the server is busy or does not answer."""
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
        token = _token()
        need("requests", "clinical", "fhir:http...")
        from nofinding.net.http import BoundedSession

        self.session = BoundedSession(
            self.address, name=f"fhir:{self.address}", accept=JSON, secret=TOKEN,
            trust="SSL_CERT_FILE",
            login=f"Bearer {token}" if token else "",
        )  # fmt: skip
        self.session.most = self.limits.page_bytes

    def search(
        self, kind: str, query: dict[str, str] | Sequence[tuple[str, str]]
    ) -> Iterator[dict[str, Any]]:
        """All pages of a search. Raises HttpError where the server does not answer, or its next
        page is elsewhere, was there before, or there is no end."""
        url = f"{self.address}/{kind}?{urllib.parse.urlencode(query)}"
        pages: set[str] = set()
        while url:
            if url in pages or len(pages) == self.limits.pages:
                raise self._error(f"its pages of {kind} have no end")
            pages.add(url)
            page = self._bundle(partial(self.session.get, url))
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
        sent twice where the first answer is lost. Raises HttpError."""
        data = json.dumps(content, allow_nan=False).encode()
        headers = {"Content-Type": JSON}
        return self._bundle(partial(self.session.post, self.address, data=data, headers=headers))

    def _error(self, message: str, *, busy: bool = False) -> HttpError:
        return HttpError(f"fhir:{self.address}: {message}", busy=busy)

    def _bundle(self, ask: Callable[[], "Response"]) -> dict[str, Any]:
        """The Bundle that the server answers with, after as many tries as it gets."""

        def once() -> bytes:
            left = min(self.limits.page_seconds, self.until - time.monotonic())
            silent = SilentError(f"fhir:{self.address}: does not answer")
            if left <= 0:
                raise silent
            self.session.seconds = self.session.exchange = left
            try:
                answer = self.session.guarded(ask)
            except HttpError as error:
                if error.answered:
                    raise
                raise silent from None
            status = answer.status_code
            if status >= 400:
                hint = f"; set {TOKEN}" if status in (401, 403) else ""
                raise self._error(f"answered {status}{hint}", busy=status in BUSY or status == 500)
            return answer.content

        text = patiently(once, self.limits.waits, self.until)
        self.taken += len(text)
        if self.taken > self.limits.total_bytes:
            raise self._error(f"sent more than {self.limits.total_bytes / 2**20:g} MiB")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or content.get("resourceType") != "Bundle":
            raise self._error("answered with something else than a Bundle")
        return content


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
