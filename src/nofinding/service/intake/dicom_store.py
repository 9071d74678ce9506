"""A DICOM store: films come by C-STORE, and are on the disk before the sender is told so.

Nothing of an object is decoded here: what arrives is a stream of bytes with a size, written as it
is. What is in it is found out later, in the killable child.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

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

from nofinding.clinical.network.send import require_title
from nofinding.errors import UserError
from nofinding.ranges import Range
from nofinding.service.options import ServiceOptions
from nofinding.service.store.spool import Received, Spool
from nofinding.storage.file_names import printed

__all__ = ["ListenOptions", "Listener"]

log = logging.getLogger(__name__)

STORED, OUT_OF_RESOURCES, CANNOT_UNDERSTAND, REFUSED = 0x0000, 0xA700, 0xC000, 0xA900
CLASSES = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)
SYNTAXES = [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless,
    JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000,
]  # fmt: skip
LARGEST = 256 * 2**20  # bytes of an object
LARGEST_PDU = 2**20  # bytes of a piece of one; those who keep to what we say send 16 KiB
LAST = 2  # the bit in the first byte of a fragment (PS3.8 annex E.2)


@dataclass(frozen=True, kw_only=True)
class ListenOptions(ServiceOptions):
    """Receives films from scanners and archives by DICOM C-STORE, scores them, sends results."""

    port: Annotated[int, Range(0, 65535)] = 11112
    """Where it listens."""
    host: str = "127.0.0.1"
    """The address it listens at; 0.0.0.0 for all of the machine."""
    accept: list[str] = field(default_factory=list)
    """Titles of those who may send, one or more; nobody else is let in."""
    only_called: bool = False
    """Turn away those who call us by another title than --title; most programs call a store
    ANY-SCP until they are told its title."""
    associations: Annotated[int, Range(1, 1024)] = 16
    """How many may be connected at once; others are turned away for the moment."""
    seconds: float = 30.0
    """How long a silent partner is waited for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_title(self.title, "--title")
        for title in self.accept:
            require_title(title, "--accept")
        if not self.accept:
            raise UserError("--accept is missing: name the titles of those who may send films")


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
        ae.require_called_aet = options.only_called
        ae.require_calling_aet = [*options.accept]
        ae.maximum_associations = options.associations
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = options.seconds
        ae.add_supported_context(Verification)
        for sop_class in CLASSES:
            ae.add_supported_context(sop_class, SYNTAXES)
        handlers: Sequence[tuple[Any, Any]] = [
            (evt.EVT_C_ECHO, lambda event: STORED),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_CONN_OPEN, _bound_pdus),
            (evt.EVT_PDU_RECV, _bound_message),
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

    def _rejected(self, event: Event) -> None:
        """Says in the log why somebody was turned away, by their own title."""
        asked: Any = event.assoc.requestor.primitive
        calling, called = (
            printed(str(title).strip()) for title in (asked.calling_ae_title, asked.called_ae_title)
        )
        why = "there are too many connections"
        if calling not in self.options.accept:
            why = "--accept does not name it"
        elif self.options.only_called and called != self.options.title:
            why = f"it calls {called!r}, not {self.options.title!r} (--only-called)"
        log.warning("%r was turned away: %s", calling, why)

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


def _bound_pdus(event: Event) -> None:
    """Cuts off who announces a piece that no memory has room for; pynetdicom would read it all,
    even before it knows who that is."""
    socket: Any = event.assoc.dul.socket
    read = socket.recv

    def take(count: int) -> bytearray:
        if count > LARGEST_PDU:
            log.warning("a connection that announced %d bytes at once was cut", count)
            socket._shutdown_socket()
            raise OSError
        taken: bytearray = read(count)
        return taken

    socket.recv = take


def _bound_message(event: Event) -> None:
    """Cuts off whose object does not end: all of it is in memory before we are asked."""
    association: Any = event.assoc
    held = getattr(association, "nofinding_held", 0)
    for item in getattr(event.pdu, "presentation_data_value_items", ()):
        data = item.presentation_data_value
        held = 0 if data[0] & LAST else held + len(data)
    association.nofinding_held = held
    if held > LARGEST:
        log.warning("an object of more than %d bytes was cut off", LARGEST)
        association.dul.socket._shutdown_socket()
