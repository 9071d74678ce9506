"""Whom the service asks and tells: record systems, archives and peers, as its options name them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from nofinding.clinical.fhir.bundle import require_server, send_result
from nofinding.clinical.fhir.client import Asking, Finder, zone_of
from nofinding.clinical.network.dicomweb import Archive
from nofinding.clinical.network.outgoing import Outgoing, Refused, outgoing
from nofinding.clinical.network.send import Peer, require_title, send
from nofinding.datasets.cohort import known_fields
from nofinding.errors import UserError
from nofinding.scoring.ehr_lookup import window_of
from nofinding.service.delivery.outbox import Sender
from nofinding.service.options import ServiceOptions
from nofinding.service.store.home import Home
from nofinding.service.workers.worker import Lookup

__all__ = ["lookup_of", "senders", "targets"]

GONE = "the result is no longer in the home"


def targets(options: ServiceOptions) -> list[str]:
    """To whom every result goes, as the outbox names them. Raises UserError for an address that
    cannot be one."""
    require_title(options.title, "--title")
    names = [f"dicom:{Peer.parse(peer, '--peers')}" for peer in options.peers]
    if options.stow is not None:
        Archive(options.stow, login=options.login, ca=options.ca, option="--stow")
        names.append(f"stow:{options.stow}")
    if options.send_fhir is not None:
        require_server(options.send_fhir)
        names.append(f"fhir:{options.send_fhir}")
    return names


def senders(options: ServiceOptions) -> Mapping[str, Sender]:
    """How each kind of target is sent to."""
    return {
        "dicom": partial(_to_peer, options.title),
        "stow": partial(_to_archive, options.login, options.ca),
        "fhir": _to_fhir,
    }


def lookup_of(options: ServiceOptions) -> Lookup | None:
    """What finds the record of a film's patient, if it is to be asked for; picklable. Raises
    UserError where the options are wrong."""
    zone = zone_of(options.zone)
    if options.record is None:
        return None
    asking = Asking(
        source=options.record,
        window=window_of(options.model),
        system=options.patient_system,
        zone=zone,
    )
    return Finder(asking=asking, fields=known_fields(options.fields_file))


def _objects(home: Home, job: str) -> list[Outgoing]:
    """Raises UserError where there are none: nothing must count as sent that was not."""
    objects = [outgoing(p) for p in home.results.objects(job).values() if p.suffix == ".dcm"]
    if not objects:
        raise UserError(GONE)
    return objects


def _all_taken(refused: Sequence[Refused]) -> None:
    """Raises UserError where an object was not."""
    if refused:
        raise UserError(f"{len(refused)} objects were not taken: {refused[0].why}")


def _to_peer(title: str, home: Home, job: str, address: str) -> None:
    _all_taken(send(_objects(home, job), Peer.parse(address), title=title))


def _to_archive(login: Path | None, ca: Path | None, home: Home, job: str, address: str) -> None:
    archive = Archive(address, login=login, ca=ca, option="--stow")
    _all_taken(archive.store(_objects(home, job)))


def _to_fhir(home: Home, job: str, address: str) -> None:
    bundle = home.results.bundle(job)
    if bundle is None:
        raise UserError(GONE)
    send_result(address, bundle)
