"""An HTTP server on loopback that answers as a test wants it to, byte by byte, however wrong."""

import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answers", "answer", "answering"]

Piece = Callable[[str], Iterable[bytes]]  # from the first line of a request to what is sent


@dataclass
class Answers:
    """What the server was asked, and where it is."""

    address: str = ""
    asked: list[str] = field(default_factory=list)
    """First lines of the requests."""
    headers: list[str] = field(default_factory=list)
    """All header lines of all requests, lower case."""


def answer(
    body: bytes, kind: str = "application/dicom+json", status: str = "200 OK", **headers: str
) -> bytes:
    """A whole and honest answer; further headers by name, `_` for `-`."""
    metadata = {"Content-Type": kind, "Content-Length": str(len(body))}
    metadata |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in metadata.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


@contextmanager
def answering(reply: Piece, tls: ssl.SSLContext | None = None) -> Iterator[Answers]:
    """The server, for as long as the block lasts; over HTTPS where `tls` is given."""
    calls = Answers()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            first = self.rfile.readline(65536).decode("latin-1").strip()
            length = 0
            while (line := self.rfile.readline(65536)) not in (b"\r\n", b"\n", b""):
                text = line.decode("latin-1").strip().lower()
                calls.headers.append(text)
                if text.startswith("content-length:"):
                    length = int(text.partition(":")[2])
            self.rfile.read(length)
            calls.asked.append(first)
            try:
                for piece in reply(first):
                    self.wfile.write(piece)
            except OSError:
                return  # whoever asked has had enough

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that goes is no fault here."""

    with Server(("127.0.0.1", 0), Handler) as server:
        scheme = "http"
        if tls is not None:
            scheme = "https"
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        calls.address = f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom-web"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield calls
        finally:
            server.shutdown()
            thread.join()
