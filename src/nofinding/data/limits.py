"""How large a film may be, which files are films, and how long decoding may take."""

__all__ = ["MEMORY", "SIDE", "TIMEOUT", "FilmError", "check_size", "kind_of"]

SIDE = 20_000  # pixels
AREA = 100_000_000  # pixels
MEMORY = 3 * 2**30  # bytes of address space
TIMEOUT = 30  # seconds


class FilmError(Exception):
    """Why a file is not decoded, in words that quote nothing from it."""


def kind_of(start: bytes) -> str:
    """PNG, JPEG or DICOM, by the first 132 bytes. Refuses every other file."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start[128:132] == b"DICM":
        return "DICOM"
    raise FilmError("is not a PNG, JPEG or DICOM file")


def check_size(wide: int, high: int) -> None:
    """Refuses a film whose header promises too much, before a byte of it is decoded."""
    if wide < 1 or high < 1:
        raise FilmError("has no pixels")
    if wide > SIDE or high > SIDE or wide * high > AREA:
        raise FilmError(
            f"is {wide} x {high} pixels; at most {SIDE} a side and {AREA // 10**6} million are read"
        )
