"""Objects out by DICOM itself: C-STORE to a peer, once C-ECHO has shown that it is there."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from nofinding.clinical.network.outgoing import Outgoing, Refused
from nofinding.errors import UserError

__all__ = ["Peer", "require_title", "send"]

SECONDS = 30.0  # until a silent peer is given up
WAITS = (1.0, 3.0)  # seconds before a peer is tried again
SUCCESS, WARNINGS, BUSY = 0x0000, range(0xB000, 0xC000), range(0xA700, 0xA800)
TRANSIENT = 0x02  # a rejection that may be none next time (PS3.8 table 9-21)
WRITTEN = re.compile(r"([^@]+)@(\[[0-9a-fA-F:.]+\]|[^@:\s/\[\]]+):(\d{1,5})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An application entity that takes objects."""

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str = "--peer") -> Self:
        """The peer behind "TITLE@host:port". Raises UserError."""
        match = WRITTEN.fullmatch(text)
        if match is None or not 1 <= int(match[3]) <= 65535:
            raise UserError(f"{option} {text!r}: write TITLE@host:port, as in ARCHIVE@10.0.0.5:104")
        title = require_title(match[1], option)
        return cls(title=title, host=match[2].strip("[]"), port=int(match[3]))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.title}@{host}:{self.port}"


def require_title(title: str, option: str) -> str:
    """The title of an application entity. Raises UserError where it is none (PS3.5 table 6.2-1)."""
    fit = title.isascii() and title.isprintable() and "\\" not in title
    if not (fit and title.strip() and len(title) <= 16):
        raise UserError(
            f"{option} {title!r}: a title of an application has 1 to 16 ASCII characters"
        )
    return title.strip()


def send(
    objects: Sequence[Outgoing], peer: Peer, *, title: str, seconds: float = SECONDS
) -> list[Refused]:
    """Sends objects, as `title`; gives those that the peer did not take, and why.

    What could not be delivered, for the peer was busy or the association broke, is tried again a
    few times, and nothing else is. Raises UserError where no association comes about at all.
    """
    left, reached = [*objects], False
    refused: list[Refused] = []
    for wait in (*WAITS, None):
        association = _associated(left, peer, title, seconds)
        left, refused = association.again, [*refused, *association.refused]
        reached = reached or association.reached
        if not left or wait is None or not association.worth:
            break
        time.sleep(wait)
    if not reached:
        raise UserError(f"--peer {peer}: {association.why}")
    return [*refused, *(Refused(name=one.path.name, why=association.why) for one in left)]


@dataclass(frozen=True, kw_only=True)
class _Association:
    """How one association went."""

    again: list[Outgoing]
    """What was not delivered, but may be next time."""
    refused: list[Refused]
    why: str = ""
    reached: bool = True
    worth: bool = True
    """Whether trying again may help."""


def _associated(
    objects: Sequence[Outgoing], peer: Peer, title: str, seconds: float
) -> _Association:
    """One association: C-ECHO, then object by object until it breaks."""
    ae = AE(ae_title=title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = seconds
    ae.add_requested_context(Verification)
    for sop_class, syntax in sorted({(one.sop_class, one.syntax) for one in objects}):
        plain = [] if UID(syntax).is_compressed else [ImplicitVRLittleEndian]  # what all must take
        ae.add_requested_context(sop_class, [*dict.fromkeys([syntax, *plain])])
    association = ae.associate(peer.host, peer.port, ae_title=peer.title)
    if not association.is_established:
        why, worth = _no_association(association)
        return _Association(again=[*objects], refused=[], why=why, reached=False, worth=worth)
    try:
        if _status(_asked(association.send_c_echo)) != SUCCESS:
            why = "does not answer C-ECHO"
            return _Association(again=[*objects], refused=[], why=why, reached=False)
        return _each(objects, association)
    finally:
        if association.is_established:
            association.release()
        else:
            association.abort()


def _each(objects: Sequence[Outgoing], association: Association) -> _Association:
    again: list[Outgoing] = []
    refused: list[Refused] = []
    why = ""
    for number, one in enumerate(objects):
        if not association.is_established:
            return _Association(again=[*again, *objects[number:]], refused=refused, why=why)
        if not any(c.abstract_syntax == one.sop_class for c in association.accepted_contexts):
            refused.append(Refused(name=one.path.name, why="objects of its kind are not taken"))
            continue
        status = _status(_asked(partial(association.send_c_store, one.path)))
        if status is None:
            again.append(one)
            why = "broke off, or did not answer"
        elif status in BUSY:
            again.append(one)
            why = f"has no room (status {status:04X})"
        elif status != SUCCESS and status not in WARNINGS:
            refused.append(Refused(name=one.path.name, why=f"status {status:04X}"))
    return _Association(again=again, refused=refused, why=why)


def _asked(call: Any) -> Any:
    """What the peer answers; None where the association ended before it could be asked."""
    try:
        return call()
    except RuntimeError:
        return None


def _status(answer: Any) -> int | None:
    """The status of a response; None where none came, or none is in it."""
    status = answer.get("Status") if answer is not None else None
    return status if isinstance(status, int) else None


def _no_association(association: Association) -> tuple[str, bool]:
    """Why there is none, and whether it may come about later."""
    if association.is_rejected:
        result = getattr(association.acceptor.primitive, "result", None)
        return "does not let us in (are its title and our --title right?)", result == TRANSIENT
    return "does not answer, or broke off", True
