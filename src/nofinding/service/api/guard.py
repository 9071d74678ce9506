"""What every request passes around the routes: limits, the door, headers, one log line."""

import asyncio
import contextlib
import json
import logging
import time
from typing import Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nofinding.service.api.auth import Door
from nofinding.service.api.state import Service, refused

__all__ = ["Guard"]

log = logging.getLogger(__name__)

UPLOADS = {"/v1/films": "film", "/v1/batches": "batch"}
LINGER = 5.0  # seconds
LINGER_MOST = 2**26  # bytes
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    b"x-research-use-only": b"true",
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
    b"cache-control": b"no-store",
}


class Guard:
    """An ASGI application around the routes. Nothing that goes wrong inside leaves it as more than
    one line without anything of a patient."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.door = Door(service.token, service.home.key)
        self.busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        exchange = Exchange(self.service, scope, receive, send)
        begin = time.monotonic()
        self.busy += 1
        try:
            try:
                self._admit(scope, exchange)
                await self.app(scope, exchange.receive, exchange.send)
            except HTTPException as error:
                await exchange.refuse(error)
            except asyncio.CancelledError:  # the service ends
                exchange.hurry = True
                await exchange.refuse(refused(503, "the service is stopping", again=10))
            except Exception as error:
                log.error("a request could not be answered: %s", type(error).__name__)
                await exchange.refuse(refused(500, "something is wrong with the service itself"))
        finally:
            self.busy -= 1
            seconds = time.monotonic() - begin
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            template = route_of(scope)
            log.info("%s %s %d %.0f ms", method, template, exchange.status, 1000 * seconds)
            self.service.counted(method, template, exchange.status, seconds)

    def _admit(self, scope: Scope, exchange: "Exchange") -> None:
        """Raises where a request is turned away unread."""
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name == b"host" and name in headers:
                raise refused(400, "there is more than one Host header")
            headers[name] = value
        if self.busy > self.service.limits.requests:
            raise refused(503, "too many requests at once", again=1)
        scope["nofinding.door"] = self.door
        scope["nofinding.who"] = self.door.who(scope["method"], scope["path"], headers)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 20:
            raise refused(400, "Content-Length is no number")
        exchange.expects_body = length.strip(b"0") != b"" or b"transfer-encoding" in headers
        if int(length) > exchange.most:
            raise refused(413, f"the body is too large; at most {exchange.most} bytes are read")


class Exchange:
    """One request and its answer, bounded."""

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self._limits, self._receive, self._send = service.limits, receive, send
        kind = UPLOADS.get(scope["path"]) if scope["method"] == "POST" else None
        self.most: int = getattr(self._limits, kind) if kind else self._limits.text
        if kind:  # the record and the boundaries around it
            self.most += 2 * self._limits.text
        self.status = 0
        self.expects_body = False
        self.hurry = False
        self._whole = False
        self._cut = False
        self._read = 0
        self._end: float | None = None

    async def receive(self) -> Message:
        """A piece of the body. Raises 413 where there is too much, 408 where it is too slow."""
        if self._whole or not self.expects_body:
            return await self._receive()
        now = time.monotonic()
        self._end = self._end or now + self._limits.upload
        try:
            async with asyncio.timeout(min(self._limits.silence, self._end - now)):
                message = await self._receive()
        except TimeoutError:
            raise refused(408, "the body comes too slowly") from None
        self._read += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._read > self.most:
            raise refused(413, f"the body is too large; at most {self.most} bytes are read")
        return message

    async def send(self, message: Message) -> None:
        """Passes the answer on, with the headers that all have.

        Where the body is not whole the connection is closed after it. Who is still sending then
        would be reset, and never read the answer: what he sends is thrown away for a moment.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message.get("headers", [])}
            headers = [*message.get("headers", [])]
            headers += [(name, value) for name, value in HEADERS.items() if name not in given]
            self._cut = self.expects_body and not self._whole
            if self._cut:
                headers.append((b"connection", b"close"))
            await self._send({**message, "headers": headers})
            return
        if self._cut and not self.hurry and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._throw_away()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _throw_away(self) -> None:
        """Reads what still comes, for LINGER seconds at most."""
        left, whole = LINGER_MOST, False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while left > 0 and not whole:
                    message = await self._receive()
                    whole = not message.get("more_body", False)  # or the other end is gone
                    left -= len(message.get("body", b""))

    async def refuse(self, error: HTTPException) -> None:
        """Answers with one line, unless an answer has begun."""
        if self.status:
            return
        body = json.dumps({"error": error.detail}).encode()
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((n.lower().encode(), v.encode()) for n, v in (error.headers or {}).items()),
        ]
        if error.status_code == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        start = {"type": "http.response.start", "status": error.status_code, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})


def route_of(scope: Any) -> str:
    """The template of the route, never the path: what somebody asked for may name a patient."""
    template = getattr(scope.get("route"), "path", None)
    return template if isinstance(template, str) and template else "unknown"
