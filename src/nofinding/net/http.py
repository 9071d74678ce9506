"""The one HTTP client, for DICOMweb and FHIR: to one server and nowhere else, and bounded.

An answer is as hostile as a file. It is read piece by piece under a cap and cut off when its time
is up, is neither inflated nor followed to another address, and nothing of it is logged. No proxy
and no .netrc is looked for: what goes where is said by our options alone. Certificates must be
trusted by this machine, or by the file of --ca in place of it.
"""

import os
import queue
import socket
import ssl
import stat
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from threading import Thread, Timer
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError

from nofinding.errors import UserError
from nofinding.net.answers import HttpError, SilentError

__all__ = ["BASIC", "TOKEN", "BoundedSession", "StatusError", "address_of", "authorization"]

TOKEN, BASIC = "NOFINDING_DICOMWEB_TOKEN", "NOFINDING_DICOMWEB_BASIC"
"""Name the variables; are not what is in them."""
CONNECT = 10.0  # seconds until somebody answers
SILENCE = 30.0  # seconds without a byte
EXCHANGE = 600.0  # seconds of a request with its answer, however steadily it trickles
JSON_MOST = 2**24  # bytes of an answer that is held in memory
FILM_MOST = 2**28  # bytes of a film, which goes to the disk piece by piece
PIECE = 2**16
SECRET_MOST = 2**13
StatusError = requests.HTTPError  # an answer that is none, as `raise_for_status` says it
T = TypeVar("T")


def address_of(text: str, option: str) -> str:
    """The base address as it is used. Raises UserError, without a password that stands in it."""
    parts = urlsplit(text)
    try:
        fit = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        fit = False
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            f"{option}: give the base address alone; a login goes into {TOKEN}, {BASIC} or --login"
        )
    if not fit or not text.isascii() or not text.isprintable() or " " in text:
        raise UserError(f"{option}: is no address such as https://archive.example/dicom-web")
    return text.rstrip("/")


def authorization(file: Path | None) -> str:
    """What stands behind "Authorization:", from the file or else from the environment; "": nothing.

    The file holds one line, "bearer TOKEN" or "basic USER:PASSWORD". Raises UserError where others
    may read it, or it holds something else.
    """
    if file is None:
        credentials = [(kind, os.environ.get(name, "")) for kind, name in (("bearer", TOKEN),
                                                                    ("basic", BASIC))]  # fmt: skip
        given = [(kind, secret) for kind, secret in credentials if secret]
        if len(given) > 1:
            raise UserError(f"{TOKEN} and {BASIC} are both set; leave one out")
        kind, secret = given[0] if given else ("", "")
        where = {"bearer": TOKEN, "basic": BASIC}.get(kind, "")
    else:
        kind, _, secret = _line_of(file).partition(" ")
        kind, secret, where = kind.lower(), secret.strip(), f"--login {file}"
        if kind not in ("bearer", "basic") or not secret:
            raise UserError(f'{where}: holds one line, "bearer TOKEN" or "basic USER:PASSWORD"')
    if not secret.isprintable() or not secret.isascii() or (kind == "basic" and ":" not in secret):
        raise UserError(f"{where}: is not " + ("a token" if kind == "bearer" else "USER:PASSWORD"))
    if kind == "basic":
        return f"Basic {b64encode(secret.encode()).decode()}"
    return f"Bearer {secret}" if secret else ""


def _line_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            text = stream.read(SECRET_MOST).decode("ascii", "replace").strip()
            mode = os.fstat(stream.fileno()).st_mode
    except OSError as error:
        raise UserError(f"--login {file}: cannot be read ({error.strerror})") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError(f"--login {file}: others may read it; `chmod 600` it first")
    return text


class _Watch:
    """Cuts the connections of one exchange when its time is up.

    A time-out of a socket starts afresh with every byte; this one does not.
    """

    def __init__(self, seconds: float) -> None:
        self._twins: list[socket.socket] = []
        self.until = time.monotonic() + seconds
        self.late = False
        self._timer = Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def add(self, connected: socket.socket) -> None:
        """A twin outlives what TLS and the library make of the socket, and shuts all of it."""
        self._twins.append(connected.dup())

    def _cut(self) -> None:
        self.late = True
        for twin in self._twins:
            with suppress(OSError):
                twin.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """The exchange is over."""
        self._timer.cancel()
        while self._twins:
            self._twins.pop().close()


_watch: ContextVar[_Watch | None] = ContextVar("_watch", default=None)


def _watched(connect: Callable[[], socket.socket]) -> socket.socket:
    """A connection that is made in time, and that the watch knows of.

    It is made in a thread of its own: a name may be looked up for minutes, and no time-out of a
    socket covers that.
    """
    watch = _watch.get()
    if watch is None:
        return connect()
    outcomes: queue.SimpleQueue[socket.socket | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcomes.put(connect())
        except BaseException as error:
            outcomes.put(error)

    Thread(target=work, daemon=True).start()
    try:
        outcome = outcomes.get(timeout=max(0.0, watch.until - time.monotonic()))
    except queue.Empty:
        raise ConnectTimeoutError(None, "not connected in time") from None
    if isinstance(outcome, BaseException):
        raise outcome
    watch.add(outcome)
    return outcome


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _watched(super()._new_conn)


class _Secure(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _watched(super()._new_conn)


class _Adapter(HTTPAdapter):
    """Connections that a watch knows of; none is used twice, no request is sent twice."""

    def __init__(self, trusted: ssl.SSLContext | None) -> None:
        self._trusted = trusted
        super().__init__()

    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        """The library's pools, with our connections in them, and this machine's certificates."""
        if self._trusted is not None:
            named["ssl_context"] = self._trusted
        super().init_poolmanager(*given, **named)
        for scheme, kind in (("http", _Plain), ("https", _Secure)):
            pool = self.poolmanager.pool_classes_by_scheme[scheme]
            own = type(pool.__name__, (pool,), {"ConnectionCls": kind})
            self.poolmanager.pool_classes_by_scheme = {
                **self.poolmanager.pool_classes_by_scheme, scheme: own
            }  # fmt: skip


class _Body:
    """What follows the headers of an answer, in place of the library's own stream."""

    def __init__(self, raw: Any, most: int, session: "BoundedSession", watch: _Watch) -> None:
        self._raw, self._most, self._session, self._watch = raw, most, session, watch

    def stream(self, amount: int = 0, decode_content: bool | None = None) -> Iterator[bytes]:
        """Piece by piece, as they come. Raises HttpError where there is no end, or none yet."""
        size = 0
        try:
            while piece := self._raw.read1(PIECE, decode_content=False):
                size += len(piece)
                if size > self._most:
                    reason = f"answered with more than {self._most // 2**20} MiB"
                    raise HttpError(f"{self._session.name}: {reason}")
                yield piece
            if self._watch.late:  # and so it only looks like an end
                raise self._session.late()
        finally:
            self._watch.stop()

    def close(self) -> None:
        """Lets the connection go."""
        self._raw.close()
        self._watch.stop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class BoundedSession(requests.Session):
    """A session with one server. Every fault of the network is an HttpError."""

    def __init__(
        self,
        address: str,
        *,
        name: str,
        accept: str,
        login: str = "",
        ca: Path | None = None,
        secret: str = "a login",
        trust: str = "--ca",
    ) -> None:
        """`name` begins what is said of the server; `login` stands behind "Authorization:", and
        `secret` is what a message calls it; `ca` is a file of certificates that are trusted in
        place of the machine's own, and `trust` is where a user names such a file.

        Raises UserError for a login that would go over the network openly.
        """
        super().__init__()
        self.name, self.trust = name, trust
        self.seconds, self.exchange = SILENCE, EXCHANGE
        self.most, self.film_most = JSON_MOST, FILM_MOST
        self.trust_env = False  # no proxy, no .netrc
        self.verify = True if ca is None else str(ca)
        if ca is not None and not ca.is_file():
            raise UserError(f"--ca {ca}: is not a file")
        self.headers.update({
            "Accept": accept, "Accept-Encoding": "identity",
            "Connection": "close", "User-Agent": "nofinding",
        })  # fmt: skip
        parts = urlsplit(address)
        here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if login and parts.scheme == "http" and not here:
            raise UserError(f"{self.name}: {secret} is not sent over http; give https")
        if login:
            self.headers["Authorization"] = login
        own = ssl.create_default_context() if ca is None and parts.scheme == "https" else None
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(own))

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """The answer, whose body is bounded. Raises HttpError, also where it leads elsewhere."""
        asked = {"stream": True, "allow_redirects": False, "timeout": (CONNECT, self.seconds)}
        request.headers.pop("Host", None)  # dicomweb-client's, which lacks the port
        watch = _Watch(self.exchange)
        token = _watch.set(watch)
        try:
            response = self.guarded(lambda: super(BoundedSession, self).send(
                request, **{**kwargs, **asked}), watch)  # fmt: skip
        except BaseException:
            watch.stop()
            raise
        finally:
            _watch.reset(token)
        most = self.most + (self.film_most if kwargs.get("stream") else 0)
        response.raw = _Body(response.raw, most, self, watch)
        response.headers.pop("Warning", None)  # the library would log what it says
        try:
            if watch.late:  # headers that were cut off look whole
                raise self.late()
            if 300 <= response.status_code < 400:
                raise HttpError(f"{self.name}: leads to another address, which is not followed")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise HttpError(f"{self.name}: answered compressed, which was not asked for")
            if not kwargs.get("stream"):
                self.guarded(lambda: response.content, watch)
        except BaseException:
            response.close()
            raise
        return response

    def guarded(self, call: Callable[[], T], watch: _Watch | None = None) -> T:
        """What the call gives. Raises HttpError in place of what the library does."""
        try:
            return call()
        except requests.exceptions.SSLError:
            reason = f"or is another's; {self.trust} names the one to trust"
            raise HttpError(f"{self.name}: its certificate is not trusted, {reason}") from None
        except (StatusError, requests.exceptions.InvalidJSONError):
            raise  # an answer, if not the one that was hoped for
        except requests.RequestException as error:
            if watch is not None and watch.late:
                raise self.late() from None
            if isinstance(error, requests.exceptions.ChunkedEncodingError):
                raise HttpError(f"{self.name}: its answer was cut off", answered=False) from None
            raise SilentError(f"{self.name}: does not answer") from None

    def late(self) -> HttpError:
        """What to raise where an exchange had no end in time."""
        return HttpError(
            f"{self.name}: took over {self.exchange:g} s for one answer", answered=False
        )
