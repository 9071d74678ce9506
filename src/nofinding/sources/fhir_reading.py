"""FHIR resources out of files, or from a server, within bounds: whatever is in them, no crash.

Files are ndjson (Bulk Data), one resource a line, or JSON, a resource or a Bundle; either may be
gzipped. A line or a file that is too long, or is no JSON, is counted and passed over.
"""

import gzip
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, cast

from nofinding.errors import UserError

__all__ = ["TOKEN", "is_address", "read_folder", "read_server"]

LINE = 2**22  # bytes of a resource on a line
WHOLE = 2**26  # bytes of a JSON file, or of a page from a server
PAGES = 100_000
TIMEOUT = 60  # seconds for a page
BATCH = 20  # patients asked for at a time: an address may not be long
TOKEN = "NOFINDING_FHIR_TOKEN"  # names the variable; is not what is in it
UNREADABLE = "FHIR lines or files that cannot be read, or are too long"

Resource = dict[str, Any]


def is_address(text: str) -> bool:
    """Whether this is a server's address, though a path may have lost one of its slashes."""
    return re.match(r"https?:/", text) is not None


def read_folder(folder: Path, kinds: Sequence[str], counts: Counter[str]) -> Iterator[Resource]:
    """All resources of these kinds in the files below the folder, in the order of their names.

    Raises UserError where there is no such file, one is cut off, or a JSON file is over 64 MiB.
    """
    found = False
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(place) / name
            bare = name.lower().removesuffix(".gz")
            if not bare.endswith((".ndjson", ".json")) or not file.is_file():
                continue
            found = True
            try:
                with (gzip.open if name.lower().endswith(".gz") else open)(file, "rb") as stream:
                    binary = cast("BinaryIO", stream)
                    if bare.endswith(".ndjson"):
                        yield from _lines(binary, kinds, counts)
                    else:
                        yield from _whole(file, binary, kinds, counts)
            except (gzip.BadGzipFile, EOFError, zlib.error):
                raise UserError(f"{file}: is not a whole gzip file; download it again") from None
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if not found:
        raise UserError(f"fhir:{folder}: has no .ndjson or .json file")


def _lines(stream: BinaryIO, kinds: Sequence[str], counts: Counter[str]) -> Iterator[Resource]:
    marks = [f'"{kind}"'.encode() for kind in kinds]
    while line := stream.readline(LINE + 1):
        if len(line) > LINE:
            counts[UNREADABLE] += 1
            while line and not line.endswith(b"\n"):
                line = stream.readline(LINE)
            continue
        if not line.strip():
            continue
        if not line.rstrip().endswith(b"}"):
            counts[UNREADABLE] += 1
        elif any(mark in line for mark in marks):  # most lines of an export are of other kinds
            yield from _of(_parsed(line, counts), kinds)


def _whole(
    file: Path, stream: BinaryIO, kinds: Sequence[str], counts: Counter[str]
) -> Iterator[Resource]:
    text = stream.read(WHOLE + 1)
    if len(text) > WHOLE:
        raise UserError(f"{file}: is over {WHOLE // 2**20} MiB; export it as ndjson")
    yield from _of(_parsed(text, counts), kinds)


def _parsed(text: bytes, counts: Counter[str]) -> Any:
    """The JSON's content; None, and counted, where it is none or nested without end."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        counts[UNREADABLE] += 1
        return None


def _of(content: Any, kinds: Sequence[str]) -> Iterator[Resource]:
    """The resources of these kinds: the content itself, or a Bundle's entries."""
    if not isinstance(content, dict):
        return
    entries: Iterable[Any] = [content]
    if content.get("resourceType") == "Bundle":
        listed = content.get("entry")
        entries = [e.get("resource") for e in listed if isinstance(e, dict)] \
            if isinstance(listed, list) else []  # fmt: skip
    for resource in entries:
        if isinstance(resource, dict) and resource.get("resourceType") in kinds:
            yield resource


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer that points elsewhere is an error: nothing is fetched that was not given."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follows nothing."""


class _Server:
    """A FHIR server at the address that the user gave, and nothing beside it."""

    def __init__(self, address: str) -> None:
        """Raises UserError for an address with a password, or a token that would go openly."""
        self.address = re.sub(r"^(https?):/+", r"\1://", address).rstrip("/")
        parts = urllib.parse.urlsplit(self.address)
        if "@" in parts.netloc or parts.query or not parts.hostname:
            raise UserError("fhir:http...: give the server's base address alone; a token goes "
                            f"into the variable {TOKEN}")  # fmt: skip
        self.origin = (parts.scheme, parts.netloc)
        self.token = os.environ.get(TOKEN, "")
        here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if self.token and parts.scheme == "http" and not here:
            raise UserError(f"fhir:{self.address}: {TOKEN} is not sent over http; give https")
        self.opener = urllib.request.build_opener(_NoRedirect)

    def search(self, kind: str, query: dict[str, str]) -> Iterator[Resource]:
        """All pages of a search. Raises UserError where the server does not answer, or its next
        page is elsewhere, was there before, or there is no end."""
        url = f"{self.address}/{kind}?{urllib.parse.urlencode(query)}"
        seen: set[str] = set()
        while url:
            if url in seen or len(seen) == PAGES:
                raise UserError(f"fhir:{self.address}: its pages of {kind} have no end")
            seen.add(url)
            page = self._page(url)
            yield from _of(page, (kind,))
            links = page.get("link") if isinstance(page.get("link"), list) else []
            onward = [
                link.get("url")
                for link in cast("list[Any]", links)
                if isinstance(link, dict) and link.get("relation") == "next"
            ]
            url = urllib.parse.urljoin(url, str(onward[0])) if onward else ""
            if url and urllib.parse.urlsplit(url)[:2] != self.origin:
                raise UserError(f"fhir:{self.address}: its next page is on another server, which "
                                "is not asked")  # fmt: skip

    def _page(self, url: str) -> dict[str, Any]:
        for patience in (1, 2, 4, 0):
            try:
                text = self._get(url)
            except urllib.error.HTTPError as error:
                if error.code in (429, 502, 503, 504) and patience:
                    time.sleep(patience)
                    continue
                told = f"; set {TOKEN}" if error.code in (401, 403) else ""
                raise UserError(f"fhir:{self.address}: answered {error.code}{told}") from None
            except (OSError, HTTPException):  # URLError, time-outs and broken connections
                raise UserError(f"fhir:{self.address}: does not answer") from None
            break
        content = _parsed(text, Counter()) if len(text) <= WHOLE else None
        if not isinstance(content, dict) or content.get("resourceType") != "Bundle":
            raise UserError(
                f"fhir:{self.address}: answered with something else than a Bundle of at most "
                f"{WHOLE // 2**20} MiB"
            )
        return content

    def _get(self, url: str) -> bytes:
        headers = {"Accept": "application/fhir+json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(url, headers=headers)
        deadline = time.monotonic() + TIMEOUT
        with self.opener.open(request, timeout=TIMEOUT) as answer:
            pieces, size = [], 0
            while size <= WHOLE and (piece := answer.read1(2**20)):
                pieces.append(piece)
                size += len(piece)
                if time.monotonic() > deadline:  # a byte now and then is no answer either
                    raise TimeoutError
        return b"".join(pieces)


def read_server(
    address: str, ids: Sequence[str], by: str, codes: Sequence[str]
) -> Iterator[Resource]:
    """The Patients that the ids name (by: "_id" or "identifier"), and of each the Observations
    with one of these LOINC codes; nobody else is asked for. Raises UserError, see `_Server`."""
    server = _Server(address)
    coded = ",".join(f"http://loinc.org|{code}" for code in codes)
    for start in range(0, len(ids), BATCH):
        some = [_escaped(one) for one in ids[start : start + BATCH]]
        patients = [*server.search("Patient", {by: ",".join(some), "_count": "200"})]
        yield from patients
        theirs = [_escaped(one) for p in patients if isinstance(one := p.get("id"), str)]
        for first in range(0, len(theirs), BATCH):
            of = ",".join(theirs[first : first + BATCH])
            yield from server.search("Observation", {"patient": of, "code": coded, "_count": "500"})


def _escaped(value: str) -> str:
    """The value as a search takes it: comma, bar and dollar mean something there."""
    return re.sub(r"([\\,|$])", r"\\\1", value)
