"""From an object on the disk to a job: whose film it is, what was said of the patient."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nofinding.data.decoding.decode import read_identity
from nofinding.data.ehr import EhrField, parse
from nofinding.errors import UserError
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import Accepted, QueuedJob
from nofinding.service.store.spool import Received

__all__ = ["Identity", "identity_in", "identity_of", "offer", "offer_what_if", "stated_record"]

UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
UID_LONGEST = 64
SOP_INSTANCE, PATIENT, ISSUER, ROWS = "00080018", "00100020", "00100021", "00280010"
MOST_FIELDS = 200


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which film it is, and whose. Both are the patient's: they go into pseudonyms alone."""

    uid: str = ""
    """Empty where the film does not say: then its bytes tell it from others."""
    patient: str = ""


def identity_of(path: Path) -> Identity:
    """What a DICOM file says, read in the killable child. Raises UserError, without the path."""
    try:
        metadata = read_identity(path)
    except UserError as error:
        reason = str(error).removeprefix(f"{path} ")
        raise UserError(f"the film {reason}") from None
    result, stated = identity_in(metadata), "Value" in metadata.get(SOP_INSTANCE, {})
    # a publisher may take the UID out; what is no film has no rows
    if not (result.uid if stated else ROWS in metadata):
        raise UserError("the film has no SOP Instance UID")
    return result


def identity_in(message: Mapping[str, Any]) -> Identity:
    """What DICOM JSON (`read_identity`) says; a UID that is none counts as not stated."""
    uid = _first(message, SOP_INSTANCE)
    if not UID.fullmatch(uid) or len(uid) > UID_LONGEST:
        uid = ""
    patient = _first(message, PATIENT)
    return Identity(uid=uid, patient=f"{_first(message, ISSUER)}|{patient}" if patient else "")


def _first(metadata: Mapping[str, Any], tag: str) -> str:
    """The first value of an element of DICOM JSON, as text; empty where there is none."""
    values = metadata.get(tag, {}).get("Value") or [""]
    return str(values[0]).strip() if isinstance(values[0], str | int) else ""


def stated_record(data: object, fields: Mapping[str, EhrField]) -> dict[str, float]:
    """The record of a request, {"age": 63, "sex": "M", "weight": "180 lb"}, in the fields' units.

    null and texts such as "NA" say that a field is not known. Raises UserError where it is no such
    object, a field is not one of `fields`, or a value is not to be understood.
    """
    if not isinstance(data, dict):
        raise UserError('record: is not an object, such as {"age": 63, "sex": "M"}')
    if len(data) > MOST_FIELDS:
        raise UserError(f"record: has {len(data)} entries, at most {MOST_FIELDS} are read")
    stated: dict[str, float] = {}
    for name, value in data.items():
        if name not in fields:
            raise UserError(f"record: {name[:40]!r} is not one of {', '.join(fields)}")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UserError(f"record: {name} is no number and no text")
        try:
            text = value if isinstance(value, str) else repr(value)
            number = parse(fields[name], text)
        except ValueError:  # an integer with more digits than Python prints
            raise UserError(f"record: {name} is no number that can be read") from None
        except UserError as error:
            raise UserError(f"record: {error}") from None
        if number is not None:
            stated[name] = number
    return stated


def offer(
    home: Home, received: Received, record: Mapping[str, float] | None = None, patient: str = ""
) -> Accepted:
    """Takes a film into the queue, with what was stated of the patient; `patient` is an id.

    The same film with the same record again is the job that there is. Raises FullError.
    """
    payload: dict[str, Any] = {"file": received.path.name, "record": dict(record or {})}
    if patient:  # films of one patient are alike: the drift test takes one of each
        payload["patient"] = home.pseudonym("patient", patient)
    return home.queue.offer(received.film, _digest(received.digest, payload["record"]), payload)


def offer_what_if(home: Home, job: QueuedJob, record: Mapping[str, float]) -> Accepted:
    """Asks what a film that is there would score with another record. Raises FullError."""
    payload = {"file": job.payload["file"], "record": dict(record), "of": job.id}
    digest = _digest(str(job.payload["file"]), payload["record"])
    return home.queue.offer(job.film, digest, payload, kind="what-if")


def _digest(content: str, record: Mapping[str, float]) -> str:
    """SHA-256 of what came: the film's bytes and the record."""
    return hashlib.sha256(f"{content}{json.dumps(record, sort_keys=True)}".encode()).hexdigest()
