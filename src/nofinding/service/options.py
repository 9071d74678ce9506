"""What every command of the service takes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from nofinding.errors import UserError
from nofinding.model.pretrained import AUTO
from nofinding.ranges import Range, require_ranges

__all__ = ["ServeOptions", "ServiceOptions"]


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """How films are kept and scored, wherever they come from."""

    home: Path
    """Folder of the service: queue, films, results, audit log; `serve` and `listen` may share it.
    Only its owner may look into it."""
    model: str = AUTO
    """Folder of a fitted model, or adult or paediatric; auto: by the patient's age, as in score."""
    workers: Annotated[int, Range(0, 64)] = 1
    """Processes that score films, each with a copy of the model; 0: films only come in here, and
    another command on the same home scores them."""
    batch_size: Annotated[int, Range(1, 256)] = 8
    """Films that a worker scores at once; changes speed, never a score."""
    wait: Annotated[float, Range(0, 60)] = 0.1
    """Seconds that a film waits at most for others to be scored with."""
    limit: Annotated[float, Range(1, 3600)] = 120.0
    """Seconds that a batch may take; a worker that takes longer is killed, and tried once more."""
    capacity: Annotated[int, Range(1, 10_000_000)] = 1000
    """Films that may wait; further ones are turned away, to come again later."""
    keep_free: Annotated[float, Range(0, 1e6)] = 1.0
    """GiB of the disk that are left alone: with less, films are turned away."""
    keep_days: Annotated[float, Range(0, 36_500)] = 0.0
    """Delete films and results this many days after they were scored; 0: keep them."""
    record: str | None = None
    """Base address of a FHIR server that is asked for the patients' records, http(s)://...; its
    token is in the environment variable NOFINDING_FHIR_TOKEN."""
    patient_system: str | None = None
    """The FHIR identifier system of the films' patient ids; default: any."""
    zone: str | None = None
    """Time zone of the films' clocks, such as Europe/Berlin; default: this machine's."""
    peers: list[str] = field(default_factory=list)
    """Whom results are sent to by C-STORE, TITLE@host:port, one or more."""
    stow: str | None = None
    """DICOMweb address of an archive that results are stored in, https://..."""
    login: Path | None = None
    """For --stow, file with "bearer TOKEN" or "basic USER:PASSWORD" in it, readable by its owner
    alone; default: what NOFINDING_DICOMWEB_TOKEN or NOFINDING_DICOMWEB_BASIC says, if it is set."""
    ca: Path | None = None
    """File of certificates (PEM) to trust in place of the machine's own."""
    send_fhir: str | None = None
    """Base address of a FHIR server that results are posted to."""
    title: str = "NOFINDING"
    """Our application entity title."""
    segmentation: bool = False
    """Make a segmentation of the map above its threshold, too."""
    fields_file: Path | None = None
    """YAML file with further record fields, as in fit."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    threads: Annotated[int, Range(0, 1024)] = 0
    """CPU threads of a worker; 0: all cores, shared among the workers."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ServiceOptions):
    """Takes films by HTTP, scores them, and shows the results in a browser."""

    host: str = "127.0.0.1"
    """The address it listens at; any but this machine's own takes a token."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Where it listens."""
    token_file: Path | None = None
    """File with the token that callers must show, 20 characters or more, readable by its owner
    alone; the environment's NOFINDING_TOKEN does the same."""
    tls_certificate: Path | None = None
    """PEM file of a certificate chain: HTTPS instead of HTTP."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    largest: Annotated[int, Range(1, 4096)] = 256
    """MiB that a film may have."""
    batch_films: Annotated[int, Range(1, 10_000)] = 100
    """Films of one batch."""
    upload_seconds: Annotated[float, Range(1, 86_400)] = 300.0
    """Seconds that a body may take; one that is silent for 20 is cut off, too."""
    connections: Annotated[int, Range(1, 100_000)] = 512
    """Connections at a time; further ones are closed at once."""

    def __post_init__(self) -> None:
        ServiceOptions.__post_init__(self)
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UserError("--tls-certificate and --tls-key: give both or neither")
