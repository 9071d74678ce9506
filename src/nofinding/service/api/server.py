"""uvicorn, with connections that are counted, and closed where they say nothing."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Generator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from nofinding.errors import UserError
from nofinding.service.api.guard import Guard
from nofinding.service.options import ServeOptions

__all__ = ["Server", "configured"]

HEADERS_WITHIN = 15.0  # seconds from the connection, or the last answer, to the end of the headers
HEADERS_MOST = 2**15  # bytes
IDLE = 30  # seconds that a connection may rest between requests
UNREAD = 60.0  # seconds that an answer may lie about unread
BACKLOG = 1024
CLOSING = 5  # seconds for requests that are being answered when the service ends


class Connection(H11Protocol):
    """One connection: closed where too many are open, its headers do not come, or its answers are
    not read."""

    most = 512
    _timer: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expected()
        self._forget_reader()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._expected()
        elif self._timer is None and (before is None or before.response_complete):
            self._expect_headers()  # of the next request, byte by byte

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = self.loop.call_later(UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_reader()

    def _forget_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def send_400_response(self, msg: str) -> None:
        """One line that says nothing of the request, with the mark that all answers have."""
        body = b'{"error": "that is no HTTP request"}'
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-research-use-only: true\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _expect_headers(self) -> None:
        self._timer = self.loop.call_later(HEADERS_WITHIN, self._too_slow)

    def _expected(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.abort()


def configured(app: Guard, options: ServeOptions) -> uvicorn.Config:
    """How uvicorn runs; it writes no log of requests, and trusts no header of a proxy."""
    for name in ("uvicorn", "asyncio"):  # their lines may quote a request
        logging.getLogger(name).setLevel(logging.CRITICAL)
    protocol = type("Limited", (Connection,), {"most": options.connections})
    certificate: dict[str, Any] = {}
    if options.tls_certificate is not None and options.tls_key is not None:
        certificate = {
            "ssl_certfile": str(options.tls_certificate),
            "ssl_keyfile": str(options.tls_key),
        }
    config = uvicorn.Config(
        app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=CLOSING, h11_max_incomplete_event_size=HEADERS_MOST,
        **certificate,
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:
        raise UserError(
            f"--tls-certificate, --tls-key: {error.strerror or 'cannot be used'}"
        ) from None
    return config


class Server(uvicorn.Server):
    """Stops where an event says so, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self.stop = stop
        self._stopped: float | None = None

    def bound(self, host: str, port: int) -> socket.socket:
        """The socket to listen at. Raises UserError where that cannot be had."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM
            )[0]
            listening = socket.socket(family, kind, protocol)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)  # whoever comes before uvicorn is ready waits
        except OSError as error:
            raise UserError(f"--host {host} --port {port}: {error.strerror}") from None
        return listening

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if self.stop.is_set() and self._stopped is None:
            self._stopped = time.monotonic()
            self.should_exit = True
        return await super().on_tick(counter)

    def seconds_since_stop(self) -> float:
        """How long ago it was told to stop."""
        return 0.0 if self._stopped is None else time.monotonic() - self._stopped
