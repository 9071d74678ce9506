"""Pseudonyms in place of a hospital's ids: HMAC-SHA-256 under a key that stays with its owner.

The same id becomes the same pseudonym in every cohort made with the same key, so that a patient
of two cohorts is known to be one. Without the key nobody can go back, or try ids one by one.
"""

import contextlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from nofinding.datasets.build.database import CohortDatabase
from nofinding.errors import UserError

__all__ = ["pseudonym_of", "pseudonymise", "read_key"]

SHORTEST, BLOCK = 16, 64  # bytes of a key: fewer can be guessed, SHA-256 has blocks of 64


def pseudonymise(database: CohortDatabase) -> None:
    """Gives the assembly's SQL the function pseudonym(kind, id), and keeps its paths apart.

    kind is 'film', 'study' or 'patient'. Blanks around an id do not count; nothing, or an empty
    id, has no pseudonym. 80 bits are kept: a million patients collide with odds of one to 10^12.
    Raises UserError where the key cannot be read, is short, or could get into others' hands.
    """
    key = read_key(database.choices.key, database.root).ljust(BLOCK, b"\0")  # one block of SHA-256
    inner, outer = (bytes(byte ^ pad for byte in key).hex() for pad in (0x36, 0x5C))  # RFC 2104
    database.con.execute(
        "CREATE OR REPLACE MACRO pseudonym(kind, id) AS CASE WHEN trim(id) != '' THEN "
        f"kind || '-' || left(sha256(from_hex('{outer}') || from_hex(sha256(from_hex('{inner}') "
        "|| encode(kind || '|' || trim(id))))), 20) END"
    )
    database.private = True


def read_key(file: Path | None, *films: Path) -> bytes:
    """The secret in a file, 16 to 64 bytes; of None, the user's own, made if there is none.

    Raises UserError where it cannot be read, is short, or could get into others' hands: where
    everybody may read it, or it lies among the films.
    """
    if file is None:
        file = _own_key()
    elif any(file.resolve().is_relative_to(folder.resolve()) for folder in films):
        raise UserError(f"--key {file}: lies among the films; keep it where nobody copies it along")
    try:
        with file.open("rb") as stream:
            key = stream.read(2 * BLOCK).strip()
            mode = os.fstat(stream.fileno()).st_mode
    except OSError as error:
        raise UserError(f"--key {file}: cannot be read ({error.strerror})") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise UserError(f"--key {file}: everybody may read it; `chmod 600` it first")
    if not SHORTEST <= len(key) <= BLOCK:
        size = f"{len(key)} bytes" if len(key) < BLOCK else f"more than {BLOCK} bytes"
        raise UserError(f"--key {file}: has {size}; give {SHORTEST} to {BLOCK} random ones")
    return key


def pseudonym_of(key: bytes, kind: str, name: str) -> str:
    """What the SQL function pseudonym gives for an id, under a key as `read_key` gives it."""
    digest = hmac.digest(key, f"{kind}|{name.strip()}".encode(), "sha256")
    return f"{kind}-{digest.hex()[:20]}"


def _own_key() -> Path:
    """The user's own key, 256 random bits, made if there is none; only he may read it."""
    home = os.environ.get("XDG_CONFIG_HOME")
    folder = (Path(home) if home else Path.home() / ".config") / "nofinding"
    file = folder / "pseudonym.key"
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = folder / f".pseudonym.{os.getpid()}"
            new.touch(mode=0o600)
            new.write_text(f"{secrets.token_hex(32)}\n", encoding="ascii")
            with contextlib.suppress(FileExistsError):  # another run was faster: its key counts
                os.link(new, file)
            new.unlink()
        except OSError as error:
            raise UserError(
                f"{file}: the key for pseudonyms cannot be made ({error.strerror}); give --key"
            ) from None
    return file
