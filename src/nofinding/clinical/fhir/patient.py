"""Who the patient of a film is, and which FHIR resources are of the same person."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, TypeAlias

from pydicom.dataset import Dataset

from nofinding.datasets.hospital.fhir.resources import (
    identifiers,
    mapping,
    moment,
    objects,
    patient_id,
    printable,
    sex_of,
)

__all__ = ["PatientKey", "Resource", "Taken", "find_patient", "last_versions", "own_observations",
           "patient_of", "taken_of"]  # fmt: skip

Resource: TypeAlias = Mapping[str, Any]
Taken: TypeAlias = datetime | date | None
"""When a study was: a time, with or without the offset of its clock, or a day alone."""


@dataclass(frozen=True, kw_only=True)
class PatientKey:
    """Who the patient of a film is. In memory alone: repr shows nothing of it."""

    values: tuple[str, ...] = field(repr=False)
    """What one of the patient's identifiers must be; empty: the film does not say."""
    system: str | None = None
    """The system that the identifier must be of; None: of any."""
    born: str | None = field(default=None, repr=False)
    """YYYY-MM-DD as the film says it, to tell a wrong patient by; None: it does not."""
    sex: str | None = field(default=None, repr=False)
    """"M" or "F" as the film says it."""


def patient_of(film: Dataset, system: str | None = None) -> PatientKey:
    """The patient that a film's header names."""
    own = str(film.get("PatientID") or "").strip()
    born = str(film.get("PatientBirthDate") or "").strip()
    sex = str(film.get("PatientSex") or "").strip().upper()
    return PatientKey(
        values=(own,) if own else (),
        system=system,
        born=f"{born[:4]}-{born[4:6]}-{born[6:]}" if len(born) == 8 and born.isdigit() else None,
        sex=sex if sex in ("F", "M") else None,
    )


def taken_of(film: Dataset) -> Taken:
    """When the study was, by StudyDate and StudyTime, on the clock that TimezoneOffsetFromUTC
    states; a day where no time is told; None where no day is."""
    day, time = (str(film.get(key) or "").strip() for key in ("StudyDate", "StudyTime"))
    digits = time.partition(".")[0]
    try:
        moment = datetime.strptime(day, "%Y%m%d")
        if len(digits) not in (2, 4, 6) or not digits.isdigit():
            return moment.date()
        moment = datetime.strptime(day + digits.ljust(6, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
    try:
        return datetime.strptime(
            f"{moment:%Y%m%d%H%M%S}{str(film.get('TimezoneOffsetFromUTC') or '').strip()}",
            "%Y%m%d%H%M%S%z",
        )
    except ValueError:
        return moment


def last_versions(resources: Iterable[Resource]) -> Iterator[Resource]:
    """Of several versions of a resource the last: it may take a value back. Later ones in the
    stream count where neither a time nor a number of the version tells them apart."""
    last: dict[tuple[str, str], tuple[tuple[float, int], Resource]] = {}
    for one in resources:
        if not isinstance(one, Mapping):
            continue
        own = printable(one.get("id"))
        if own is None:
            yield one
            continue
        meta = mapping(one.get("meta"))
        updated, number = moment(meta.get("lastUpdated")), str(meta.get("versionId"))
        age = (_seconds(updated), int(number) if number.isdecimal() and len(number) < 9 else -1)
        key = (str(one.get("resourceType")), own)
        if key not in last or last[key][0] <= age:
            last[key] = (age, one)
    yield from (one for _, one in last.values())


def _seconds(moment: datetime | date | None) -> float:
    if not isinstance(moment, datetime):
        return -1.0
    try:
        return moment.astimezone(moment.tzinfo or UTC).timestamp()
    except (OverflowError, ValueError, OSError):
        return -1.0


def find_patient(
    resources: Iterable[Resource], key: PatientKey
) -> tuple[Resource | None, tuple[str, ...]]:
    """The one Patient who has the film's patient id among the identifiers, or None, and flags.

    Never found by the resource's own id, which a server gives as it likes. A Patient that another
    one has replaced is passed over; two that are left, or another birth date, are nobody.
    """
    if not key.values:
        return None, ("record: the film has no patient id",)
    patients = [
        one for one in resources
        if one.get("resourceType") == "Patient" and printable(one.get("id")) is not None
        and any(value in key.values and key.system in (None, system)
                for system, value in identifiers(one))
        and not any(link.get("type") == "replaced-by" for link in objects(one.get("link")))
    ]  # fmt: skip
    if not patients:
        return None, ("record: no patient of the record has the film's id",)
    if len(patients) > 1:
        return None, (f"record: {len(patients)} patients have the film's id, none is used",)
    born = printable(patients[0].get("birthDate"))
    if born and key.born and not key.born.startswith(born):
        return None, ("record: the patient has another birth date, not used",)
    sex = sex_of(patients[0])
    if sex and key.sex and sex != key.sex:
        return patients[0], ("sex: the record says another than the film",)
    return patients[0], ()


def own_observations(one: Resource, patient: str, key: PatientKey) -> bool | None:
    """Whether an Observation is of this patient; None where it is of nobody."""
    subject = mapping(one.get("subject"))
    if subject.get("reference") is not None:
        return patient_id(subject) == patient
    named = identifiers({"identifier": [subject.get("identifier")]})
    if not named:
        return None
    return named[0][1] in key.values and key.system in (None, named[0][0])
