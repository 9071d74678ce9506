"""The one film in a multipart answer (RFC 2046, PS3.18), piece by piece, whoever sent it."""

from collections.abc import Callable, Iterable
from email.message import Message
from itertools import chain

__all__ = ["MultipartError", "boundary_of", "only_part"]

BEFORE = 4096  # bytes before the first boundary, and of the headers behind it
LONGEST = 200  # characters of a boundary; RFC 2046 allows 70, some servers take more
MEDIA = "application/dicom"


class MultipartError(ValueError):
    """Why an answer is not the one film that was asked for, in words that quote nothing of it."""


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a header names; None for a bare application/dicom.

    Raises MultipartError for every other type.
    """
    header = Message()
    header["Content-Type"] = content_type
    kind = header.get_content_type()
    if kind == MEDIA:
        return None
    boundary = header.get_boundary("")
    if kind != "multipart/related" or not boundary:
        raise MultipartError("answered with something else than DICOM")
    if len(boundary) > LONGEST or not (boundary.isascii() and boundary.isprintable()):
        raise MultipartError("answered with a boundary that is none")
    return boundary.encode("ascii")


class _Reader:
    """What comes in, up to one mark after the other; never holds more than a piece and a mark."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._more = iter(pieces)
        self._held = bytearray()

    def until(self, mark: bytes, take: Callable[[bytes], object], most: int) -> None:
        """Hands on what stands before the mark, and passes over it. Raises MultipartError where
        more than `most` bytes stand before it, or it never comes."""
        passed = 0
        while True:
            at = self._held.find(mark)
            ready = at if at >= 0 else max(0, len(self._held) - len(mark) + 1)
            passed += ready
            if passed > most:
                raise MultipartError("answered with more than a film may have")
            take(bytes(self._held[:ready]))
            del self._held[:ready]
            if at >= 0:
                del self._held[: len(mark)]
                return
            self._fill()

    def next(self, count: int) -> bytes:
        """So many bytes."""
        while len(self._held) < count:
            self._fill()
        piece = bytes(self._held[:count])
        del self._held[:count]
        return piece

    def _fill(self) -> None:
        piece = next(self._more, b"")
        if not piece:
            raise MultipartError("answered with no whole film: it is cut off")
        self._held += piece


def only_part(
    pieces: Iterable[bytes], boundary: bytes, take: Callable[[bytes], object], most: int
) -> None:
    """Hands on the content of the only part. Raises MultipartError where it is too large, cut off
    or of another kind, or where there is another part."""
    reader = _Reader(chain([b"\r\n"], pieces))  # the first boundary may stand at the very start
    delimiter = b"\r\n--" + boundary
    reader.until(delimiter, lambda before: None, BEFORE)
    headers = bytearray()
    reader.until(b"\r\n\r\n", headers.extend, BEFORE)
    _require_dicom(headers.decode("ascii", "replace"))
    reader.until(delimiter, take, most)
    if reader.next(2) != b"--":
        raise MultipartError("answered with more than the one film that was asked for")


def _require_dicom(headers: str) -> None:
    for line in headers.splitlines():
        name, _, value = line.partition(":")
        media = value.partition(";")[0].strip().lower()
        if name.strip().lower() == "content-type" and media != MEDIA:
            raise MultipartError("answered with something else than DICOM")
