"""A DICOM store: films come by C-STORE, and are on the disk before the sender is told so.

Nothing of an object is decoded here: what arrives is a stream of bytes with a size, written as it
is. What is in it is found out later, in the killable child.
"""

import hashlib
import hmac
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    Verification,
)

import nofinding.clinical  # noqa: F401 - keeps what pynetdicom logs of patients out of our logs
from nofinding.errors import UserError
from nofinding.service.durable import write_durably

__all__ = ["ListenOptions", "Listener", "Received", "Spool"]

log = logging.getLogger(__name__)

STORED, OUT_OF_RESOURCES, CANNOT_UNDERSTAND, REFUSED = 0x0000, 0xA700, 0xC000, 0xA900
CLASSES = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)
SYNTAXES = [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless,
    JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000,
]  # fmt: skip
LARGEST = 256 * 2**20  # bytes of an object


@dataclass(frozen=True, kw_only=True)
class Received:
    """An object on the disk."""

    path: Path
    film: str
    """A pseudonym of its SOP Instance UID."""
    digest: str
    """SHA-256 of its bytes."""


class Spool:
    """A folder of received objects. File names are keyed hashes: no UID is in one."""

    def __init__(self, folder: Path, key: bytes, *, keep_free: int = 2**30) -> None:
        """`keep_free` is how many bytes of the disk are left alone. Raises UserError where the
        folder cannot be written to."""
        self.folder, self.key, self.keep_free = folder, key, keep_free
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"spool {folder}: {error.strerror}") from None
        for left in folder.glob(".*.tmp"):  # of a process that was killed
            left.unlink(missing_ok=True)

    def put(self, uid: str, data: bytes) -> Received:
        """Writes an object; it is on the disk when this returns. The same bytes again are the file
        that is there. Raises OSError where the disk is full or cannot be written to."""
        if shutil.disk_usage(self.folder).free - len(data) < self.keep_free:
            raise OSError(28, "no space left on the device")
        film = hmac.digest(self.key, f"film|{uid}".encode(), "sha256").hex()[:32]
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / f"{film}-{digest[:16]}.dcm"
        if not path.exists():
            write_durably(path, data)
        return Received(path=path, film=film, digest=digest)


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """Receives films from scanners and archives by DICOM C-STORE."""

    port: int = 11112
    """Where it listens."""
    host: str = "127.0.0.1"
    """The address it listens at; 0.0.0.0 for all of the machine."""
    title: str = "NOFINDING"
    """Our application entity title."""
    accept: tuple[str, ...] = ()
    """Titles of those who may send; nobody else is let in. Empty: nobody."""
    associations: int = 16
    """How many may be connected at once; others are turned away for the moment."""
    seconds: float = 30.0
    """How long a silent partner is waited for."""

    def __post_init__(self) -> None:
        for title in (self.title, *self.accept):
            if not title.strip() or len(title) > 16 or not title.isascii() or "\\" in title:
                raise UserError(f"application entity title {title!r}: 1 to 16 ASCII characters")
        if not self.accept:
            raise UserError("--accept is missing: name the titles of those who may send films")
        if not 1 <= self.associations <= 1024:
            raise UserError(f"--associations {self.associations}: give 1 to 1024")
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port}: give 1 to 65535")


class Listener:
    """The store at work: `with Listener(...)` from its start until it is stopped."""

    def __init__(
        self, options: ListenOptions, spool: Spool, arrived: Callable[[Received], None]
    ) -> None:
        """`arrived` is called once an object is on the disk; where it raises, the sender is told
        that there are no resources, and sends again."""
        self.options, self.spool, self.arrived = options, spool, arrived
        self.server: Any = None

    def __enter__(self) -> "Listener":
        options = self.options
        ae = AE(ae_title=options.title)
        ae.require_called_aet = True
        ae.require_calling_aet = [*options.accept]
        ae.maximum_associations = options.associations
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = options.seconds
        ae.add_supported_context(Verification)
        for sop_class in CLASSES:
            ae.add_supported_context(sop_class, SYNTAXES)
        handlers: Sequence[tuple[Any, Any]] = [
            (evt.EVT_C_ECHO, lambda event: STORED),
            (evt.EVT_C_STORE, self._store),
        ]
        try:
            self.server = ae.start_server(
                (options.host, options.port), block=False, evt_handlers=[*handlers]
            )
        except OSError as error:
            raise UserError(
                f"--port {options.port}: cannot listen there ({error.strerror})"
            ) from None
        return self

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self.server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()

    def _store(self, event: Event) -> int:
        """One object: 0x0000 only once it is on the disk; 0xA700 where it cannot be."""
        request: Any = event.request
        uid, stream = str(request.AffectedSOPInstanceUID or ""), request.DataSet
        size = stream.getbuffer().nbytes if stream is not None else 0
        if not uid or not size:
            return CANNOT_UNDERSTAND
        if size > LARGEST:
            log.warning("an object of %d bytes was refused", size)
            return OUT_OF_RESOURCES
        try:
            received = self.spool.put(uid, event.encoded_dataset())
            self.arrived(received)
        except OSError as error:
            log.error("an object could not be kept: %s", error.strerror)
            return OUT_OF_RESOURCES
        except Exception as error:  # whatever it was, the film is not ours yet
            log.error("an object could not be taken: %s", type(error).__name__)
            return OUT_OF_RESOURCES
        log.info("film %s received, %d bytes", received.film, size)
        return STORED
