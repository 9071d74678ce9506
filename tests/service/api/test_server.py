"""The server on a real socket: clients that are slow, cut off, or ask for what cannot be."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nofinding.errors import UserError
from nofinding.service.api import guard
from nofinding.service.api import server as module
from nofinding.service.api.server import Server, configured
from nofinding.service.api.state import Limits
from nofinding.service.options import ServeOptions
from nofinding.service.store.home import Home
from support.service_app import app_for, home_in, png


@contextlib.contextmanager
def running(home: Home, *, connections: int = 100, **limits: Any) -> Iterator[int]:
    """A server in a thread; gives its port."""
    options = ServeOptions(home=home.folder, connections=connections)
    stop = threading.Event()
    server = Server(configured(app_for(home, limits=Limits(**limits)), options), stop)
    listening = server.bound("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    port = int(listening.getsockname()[1])
    thread.start()
    try:
        yield port
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_in(tmp_path)


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        yield link


def answer(link: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := link.recv(65536):
            received += piece
    return received


HEAD = (
    b"POST /v1/films HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: multipart/form-data; boundary=B\r\n"
)
PART = b'--B\r\nContent-Disposition: form-data; name="film"\r\n\r\n'


def wait_for_nothing_left(home: Home, seconds: float = 5) -> None:
    begin = time.monotonic()
    while [*home.spool.folder.iterdir()]:
        assert time.monotonic() < begin + seconds
        time.sleep(0.02)


def test_four_gigabytes_are_refused_at_once(home: Home) -> None:
    with running(home) as port, connected(port) as link:
        link.sendall(HEAD + b"Content-Length: 4294967296\r\n\r\n")
        message = link.recv(65536)
        assert message.startswith(b"HTTP/1.1 413 ") and b"connection: close" in message
        link.shutdown(socket.SHUT_WR)
        answer(link)  # and then it is closed


def test_who_is_refused_while_he_sends_can_read_why(home: Home) -> None:
    home.queue.capacity = 0
    with running(home) as port, connected(port) as link:
        link.sendall(HEAD + b"Content-Length: 8000000\r\n\r\n")
        for _ in range(125):
            link.sendall(bytes(64_000))
            time.sleep(0.002)  # the answer is long there
        message = answer(link)
    assert message.startswith(b"HTTP/1.1 429 ") and b"the queue is full" in message


def test_who_never_stops_sending_is_cut_off(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LINGER", 0.3)
    with running(home) as port, connected(port) as link:
        link.sendall(HEAD + b"Content-Length: 4294967296\r\n\r\n")
        begin = time.monotonic()
        with pytest.raises(OSError, match=r".*"):
            while time.monotonic() - begin < 10:
                link.sendall(bytes(2**16))
        assert time.monotonic() - begin < 5


def test_who_expects_to_be_asked_is_told_before_he_sends(home: Home) -> None:
    with running(home) as port, connected(port) as link:
        link.sendall(HEAD + b"Content-Length: 4294967296\r\nExpect: 100-continue\r\n\r\n")
        assert link.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_cut_upload_leaves_nothing(home: Home) -> None:
    with running(home) as port:
        for head in (b"Content-Length: 9000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
            with connected(port) as link:
                link.sendall(HEAD + head)
                data = PART + png() * 400
                chunk = f"{len(data):x}\r\n".encode() + data if b"chunked" in head else data
                link.sendall(chunk)
                begin = time.monotonic()
                while not [*home.spool.folder.iterdir()]:  # it is being written
                    assert time.monotonic() < begin + 5
                    time.sleep(0.01)
            wait_for_nothing_left(home)
        assert sum(home.queue.counts().values()) == 0
        assert httpx.get(f"http://127.0.0.1:{port}/live").status_code == 200


def test_who_is_silent_is_let_go(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADERS_WITHIN", 0.5)
    monkeypatch.setattr(guard, "LINGER", 0.1)
    with running(home, silence=0.5) as port:
        with connected(port) as link:  # says nothing
            assert answer(link) == b""
        with connected(port) as link:  # says half of its headers
            link.sendall(HEAD)
            assert answer(link) == b""
        with connected(port) as link:  # after an answer, the next headers byte by byte
            link.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not (message := link.recv(4096)).endswith(b'{"live":true}'):
                assert message
            begin = time.monotonic()
            with contextlib.suppress(OSError):
                for byte in b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n":
                    link.sendall(bytes([byte]))
                    time.sleep(0.05)
            assert answer(link) == b"" and time.monotonic() - begin < 5
        with connected(port) as link:  # stops in its body
            link.sendall(HEAD + b"Content-Length: 9000\r\n\r\n" + PART)
            assert answer(link).startswith(b"HTTP/1.1 408 ")
        wait_for_nothing_left(home)


def test_who_does_not_read_is_let_go(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNREAD", 0.3)
    with running(home) as port, connected(port) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with pytest.raises(OSError, match=r".*"):  # the server aborts a connection that is full
            for _ in range(3000):
                link.sendall(ask)
                time.sleep(0.001)
            link.settimeout(5)
            while True:
                link.sendall(ask)
                time.sleep(0.05)


def test_what_is_no_http_is_refused_in_one_line(home: Home) -> None:
    with running(home) as port:
        for sent in (b"CANARY\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00",
                     HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: x\r\n\r\n",
                     HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
                     HEAD + b"X: " + b"y" * 70_000):  # fmt: skip
            with connected(port) as link:
                link.sendall(sent)
                link.shutdown(socket.SHUT_WR)
                message = answer(link)
                assert message.startswith(b"HTTP/1.1 4") or message == b"", sent[:20]
                assert b"CANARY" not in message
        assert httpx.get(f"http://127.0.0.1:{port}/live").status_code == 200


def test_further_connections_are_closed_at_once(home: Home) -> None:
    with running(home, connections=3) as port, contextlib.ExitStack() as stack:
        links = [stack.enter_context(connected(port)) for _ in range(3)]
        for link in links:
            link.sendall(HEAD)
        time.sleep(0.1)
        with connected(port) as fourth:
            assert answer(fourth) == b""
        links[0].sendall(b"Content-Length: 0\r\n\r\n")  # who was there before is answered
        assert links[0].recv(4096).startswith(b"HTTP/1.1 4")


def test_a_port_that_is_taken_is_said(home: Home) -> None:
    with running(home) as port, pytest.raises(UserError, match=f"--port {port}: Address already"):
        stop = threading.Event()
        Server(configured(app_for(home), ServeOptions(home=home.folder)), stop).bound(
            "127.0.0.1", port
        )
