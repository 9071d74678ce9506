"""Films from a multipart body, written to the disk as they come: nothing of them is decoded."""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from nofinding.data.decoding.limits import FilmError, kind_of
from nofinding.service.api.state import Service, no_disk, refused
from nofinding.service.store.spool import Spool

__all__ = ["ENDINGS", "Film", "Form", "json_of", "receive_form", "text_body"]

DECLARED = {
    "application/dicom": "DICOM",
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "": None,
    "application/octet-stream": None,
}  # what a part may call itself, and what it then has to be
ENDINGS = {"DICOM": ".dcm", "PNG": ".png", "JPEG": ".jpg"}
MAGIC = 132  # bytes from which a kind is known
PIECE = 2**18  # bytes that are held in memory
DEEPEST = 16  # lists and objects in one another


@dataclass(kw_only=True)
class Film:
    """A film that is on the disk under a temporary name, once a byte of it has come."""

    declared: str
    name: str
    """What the sender calls it: never written anywhere."""
    size: int = 0
    start: bytes = b""
    kind: str = ""
    why: HTTPException | None = None
    """Why it is not taken."""
    sha256: Any = field(default_factory=hashlib.sha256)
    _opened: tuple[Path, int] | None = None
    _gone: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def file(self) -> Path:
        """Where it is."""
        assert self._opened is not None
        return self._opened[0]

    def append(self, data: bytes, spool: Spool) -> None:
        """Writes more of it. Raises OSError."""
        with self._lock:
            if self._gone:  # the request was given up while this thread was on its way
                return
            if self._opened is None:
                self._opened = spool.open_temporary()
            left = memoryview(data)
            while left:
                left = left[os.write(self._opened[1], left) :]
        self.sha256.update(data)

    def drop(self) -> None:
        """Takes it away, unless it has another name by now."""
        with self._lock:
            self._gone = True
            if self._opened is not None:
                (file, descriptor), self._opened = self._opened, None
                os.close(descriptor)
                file.unlink(missing_ok=True)


@dataclass(kw_only=True)
class Form:
    """What a body held."""

    films: list[Film] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)


class Receiver:
    """Takes a multipart body apart, piece by piece."""

    def __init__(self, service: Service, boundary: bytes, most: int, text: str, form: Form) -> None:
        """At most `most` films, in parts named `film`; one part `text`, of JSON."""
        self._service, self._limits = service, service.limits
        self._most, self._text, self._form = most, text, form
        self._parts = 0
        self._name = bytearray()
        self._value = bytearray()
        self._headers: dict[str, str] = {}
        self._film: Film | None = None
        self._key = ""
        self._held: list[tuple[Film, bytes | None]] = []
        self.held = 0
        self.whole = False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, a, b: self._name.extend(data[a:b]),
            "on_header_value": lambda data, a, b: self._value.extend(data[a:b]),
            "on_header_end": self._header,
            "on_headers_finished": self._part,
            "on_part_data": self._data,
            "on_part_end": self._ended,
            "on_end": self._end,
        }
        self._parser = MultipartParser(
            boundary,
            callbacks,
            max_header_count=8,
            max_header_size=2048,
        )

    def feed(self, data: bytes) -> None:
        """Takes in a piece. Raises 400, 413 or 415."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise refused(400, "the multipart body is damaged") from None

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._most + 1:
            raise refused(413, f"too many parts; at most {self._most} films are taken")
        self._headers.clear()
        self._film, self._key = None, ""

    def _header(self) -> None:
        name = self._name.decode("latin-1").lower()
        self._headers[name] = self._value.decode("latin-1")
        self._name.clear()
        self._value.clear()

    def _part(self) -> None:
        disposition, options = parse_options_header(self._headers.get("content-disposition"))
        name = options.get(b"name", b"").decode("latin-1")
        if disposition != b"form-data" or name not in ("film", self._text):
            raise refused(422, f"a part is called neither film nor {self._text}")
        if name == self._text:
            if name in self._form.texts:
                raise refused(422, f"there is more than one part {name}")
            self._key = name
            self._form.texts[name] = b""
            return
        if len(self._form.films) >= self._most:
            raise refused(413, f"too many films; at most {self._most} are taken")
        declared = parse_options_header(self._headers.get("content-type"))[0].decode("latin-1")
        film = Film(
            declared=declared,
            name=options.get(b"filename", b"").decode("utf-8", "replace"),
        )
        if declared not in DECLARED:
            film.why = refused(415, "only DICOM, PNG and JPEG are taken")
        self._film = film
        self._form.films.append(film)

    def _data(self, data: bytes, begin: int, end: int) -> None:
        if self._film is None:
            text = self._form.texts[self._key] + data[begin:end]
            if len(text) > self._limits.text * (1 if self._most == 1 else 16):
                raise refused(413, f"the part {self._key} is too large")
            self._form.texts[self._key] = text
            return
        self._held.append((self._film, data[begin:end]))
        self.held += end - begin

    def _ended(self) -> None:
        if self._film is not None:
            self._held.append((self._film, None))

    def _end(self) -> None:
        self.whole = True

    def write(self) -> None:
        """Puts what is held on the disk. For a thread. Raises 413 or 503."""
        held, self._held = self._held, []
        self._service.require_disk(self.held)
        self.held = 0
        try:
            for film, data in held:
                if data is None:
                    _close(film)
                elif film.why is None:
                    _append(film, data, self._service)
        except OSError:
            raise no_disk() from None


def _append(film: Film, data: bytes, service: Service) -> None:
    film.size += len(data)
    if film.size > service.limits.film:
        most = service.limits.film
        film.why = refused(413, f"the film is too large; at most {most} bytes are taken")
    elif len(film.start) < MAGIC:
        film.start = (film.start + data)[:MAGIC]
        if len(film.start) == MAGIC:
            _judge(film)
    if film.why is not None:
        film.drop()
        return
    film.append(data, service.home.spool)


def _close(film: Film) -> None:
    if film.why is None and not film.size:
        film.why = refused(422, "the film is empty")
    if film.why is None and not film.kind:
        _judge(film)


def _judge(film: Film) -> None:
    """Finds out from its first bytes what it is, and whether that is taken."""
    try:
        film.kind = kind_of(film.start)
    except FilmError:
        film.why = refused(415, "the film is not a PNG, JPEG or DICOM file")
        return
    if DECLARED[film.declared] not in (None, film.kind):
        film.why = refused(415, f"the film is called {film.declared} and is a {film.kind} file")


@contextlib.asynccontextmanager
async def receive_form(
    request: Request, service: Service, *, most: int, text: str
) -> AsyncIterator[Form]:
    """The films and the text of a body; whatever of them is not taken is gone afterwards."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise refused(415, "send multipart/form-data, with the film in the part film")
    form = Form()
    receiver = Receiver(service, boundary, most, text, form)
    try:
        try:
            async for data in request.stream():
                for start in range(0, len(data), PIECE):
                    receiver.feed(data[start : start + PIECE])
                    if receiver.held >= PIECE:
                        await run_in_threadpool(receiver.write)
        except ClientDisconnect:
            raise refused(400, "the body was cut short") from None
        await run_in_threadpool(receiver.write)
        if not receiver.whole:
            raise refused(400, "the multipart body was cut short")
        yield form
    finally:
        for film in form.films:
            film.drop()


async def text_body(request: Request) -> bytes:
    """The body of a request that carries no film; the guard bounds it."""
    try:
        return await request.body()
    except ClientDisconnect:
        raise refused(400, "the body was cut short") from None


def json_of(data: bytes, what: str) -> Any:
    """What the JSON says. Raises 400 where it is none, is nested deeply, or has NaN in it."""
    try:
        value = json.loads(data, parse_constant=_no_constant)
        if _depth(value) > DEEPEST:
            raise ValueError
    except (ValueError, RecursionError):
        raise refused(400, f"{what} is no JSON that can be read") from None
    return value


def _depth(value: Any) -> int:
    """How many lists and objects lie in one another."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(_depth, inner), default=0)
    return 0


def _no_constant(text: str) -> None:
    raise ValueError(text)
