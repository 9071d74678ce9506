"""The names of files as text: also those with bytes that are not UTF-8, or with blanks and marks
that do not show.

Python holds a byte that is not UTF-8 as half a character, which no table, CSV or page can store.
"""

import os
import re
import unicodedata
from urllib.parse import quote

__all__ = ["as_path", "as_text", "is_text", "printed", "safe_id"]

FIRST = 0xEF00  # U+EF80 to U+EFFF, of private use, stand for the bytes 0x80 to 0xFF
HALF = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as Python holds them
PRIVATE = re.compile("[\uef80-\uefff]")
SHOWN = frozenset({"Zs"})  # blanks of any width: they do not print, and do no harm


def is_text(name: str) -> bool:
    """Whether the name can be written as UTF-8."""
    return not HALF.search(name)


def as_text(path: str) -> str:
    """A path as text that any table can hold; `as_path` gives the path again, byte for byte."""
    plain = PRIVATE.sub(_bytes_of, path)
    return HALF.sub(lambda byte: chr(FIRST + ord(byte[0]) - 0xDC00), plain)


def as_path(text: str) -> str:
    """The path that `as_text` was given."""
    if not PRIVATE.search(text):
        return text
    halves = PRIVATE.sub(lambda byte: chr(ord(byte[0]) - FIRST + 0xDC00), text)
    return os.fsdecode(halves.encode("utf-8", "surrogateescape"))


def _bytes_of(character: re.Match[str]) -> str:
    return "".join(chr(FIRST + byte) for byte in character[0].encode())


def printed(text: str) -> str:
    """The text on one line, safe for a terminal, a log or a page: what would move the cursor, turn
    the writing direction or not show is written as an escape (\\x1b, \\u200b, \\xf6)."""
    return "".join(c if c.isprintable() or _blank(c) else _escape(c) for c in text)


def _blank(character: str) -> bool:
    return unicodedata.category(character) in SHOWN


def _escape(character: str) -> str:
    if HALF.match(character):
        return f"\\x{ord(character) - 0xDC00:02x}"
    return (
        character.encode("ascii", "backslashreplace").decode()
        if ord(character) > 0x7F
        else (f"\\x{ord(character):02x}")
    )


def safe_id(name: str) -> str:
    """A film's id from a file's name: what does not print is percent-encoded, byte for byte
    ("a%C2%A0b" of a name with a no-break space)."""
    return "".join(
        c if c.isprintable() else quote(c.encode("utf-8", "surrogateescape"), safe="") for c in name
    )
