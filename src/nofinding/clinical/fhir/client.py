"""The EHR of a film from where the hospital keeps it: a FHIR server, or a folder of FHIR files.

A server is asked for one patient by identifier, and for the vital signs of a window of days around
the study. All of it is over within a number of seconds, and whatever goes wrong there is a flag.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from pydicom.dataset import Dataset

from nofinding.clinical.dicom.source import metadata_of
from nofinding.clinical.fhir.ehr import FhirRecord, record_of
from nofinding.clinical.fhir.patient import (
    PatientKey,
    Resource,
    Taken,
    find_patient,
    last_versions,
    own_observations,
    patient_of,
    taken_of,
)
from nofinding.data.ehr import EhrField
from nofinding.data.nearest_value import EhrWindow
from nofinding.datasets.build.ehr_linkage import loinc_fields
from nofinding.datasets.hospital.fhir.reading import UNREADABLE, read_folder
from nofinding.datasets.hospital.fhir.resources import (
    LOINC,
    PANELS,
    identifiers,
    mapping,
    patient_id,
    printable,
)
from nofinding.datasets.hospital.fhir.server import Limits, Server, escaped, is_address
from nofinding.errors import UserError
from nofinding.net.answers import HttpError

__all__ = ["Asking", "Finder", "ask_record", "record_or_flag", "records_for", "zone_of"]

Fields: TypeAlias = Mapping[str, EhrField]
NEAR = 2  # days from the study that are asked for first: of a patient in intensive care, the
# window holds more values than a server gives in time
MARGIN = timedelta(days=1)  # the server's days may begin at other hours
SILENT = "record: the FHIR server did not answer"
UNUSABLE = "record: the FHIR server's answer cannot be used"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Where the record is, and how it is asked for."""

    source: str
    """A server's base address, or a folder of FHIR files; "fhir:" may stand before either."""
    window: EhrWindow
    """When a value counts: the model's own."""
    system: str | None = None
    """The identifier system of the films' patient ids; None: any."""
    zone: tzinfo | None = None
    """Of clocks without an offset, as those of most films; None: this machine's."""
    seconds: float = 10.0
    """How long a server is waited for, all questions for one film together."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 600:
            raise UserError(f"record: {self.seconds:g} seconds; give up to 600")
        if not is_address(self.place) and not Path(self.place).expanduser().is_dir():
            raise UserError(f"--record {self.source}: is neither a folder nor http(s)://...")

    @property
    def place(self) -> str:
        """The source without "fhir:"."""
        return re.sub(r"^fhir:", "", self.source)

    @property
    def limits(self) -> Limits:
        """Of a server, for one film."""
        return Limits(seconds=self.seconds, page_seconds=self.seconds / 2, waits=(0.5,),
                      page_bytes=2**23, total_bytes=2**25, pages=50)  # fmt: skip


def zone_of(name: str | None) -> tzinfo | None:
    """The time zone of that name, such as Europe/Berlin. Raises UserError where there is none."""
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise UserError(f"--zone {name}: no time zone has this name; give e.g. Europe/Berlin"
                        ) from None  # fmt: skip


def ask_record(asking: Asking, patient: PatientKey, taken: Taken, fields: Fields) -> FhirRecord:
    """The record from a server, which has the last word within `seconds`.

    Raises HttpError where it does not answer, or not so that it can be used; UserError for an
    address or a token that cannot be one.
    """
    server = Server(asking.place, asking.limits)

    def read(entries: Sequence[Resource]) -> FhirRecord:
        return record_of(entries, patient=patient, taken=taken, window=asking.window, fields=fields,
                         zone=asking.zone)  # fmt: skip

    resources: list[Resource] = []
    for value in patient.values:
        named = escaped(value)
        token = named if patient.system is None else f"{escaped(patient.system)}|{named}"
        resources += server.search("Patient", {"identifier": token, "_count": "20"})
    who, _ = find_patient([*last_versions(resources)], patient)
    day = taken.date() if isinstance(taken, datetime) else taken
    if who is None or day is None:
        return read(resources)
    codes = loinc_fields(fields)
    asked_fields = {*codes.values()}
    for number, (first, last) in enumerate(_slices(day, asking.window)):
        if not asked_fields:
            break
        asked = [code for code, name in codes.items() if name in asked_fields]
        asked += PANELS if asked_fields & {"systolic", "diastolic"} else ()
        resources += server.search("Observation", [
            ("patient", escaped(str(printable(who.get("id"))))),
            ("code", ",".join(f"{LOINC}|{code}" for code in asked)),
            ("date", f"ge{first}"), ("date", f"le{last}"), ("_count", "200"),
        ])  # fmt: skip
        # A BMI of height and weight does not stand in for one that was recorded. Of the rest both
        # sides are asked for before either counts.
        if number == 0:
            asked_fields -= {name for name, days in read(resources).used
                             if name != "bmi" and abs(days) <= NEAR}  # fmt: skip
    return read(resources)


def _slices(day: date, window: EhrWindow) -> Iterator[tuple[date, date]]:
    """First and last days of what is asked for: the days near to the study, and then the rest."""
    rest, near = (timedelta(days=days) + MARGIN for days in (window.days, min(NEAR, window.days)))
    around = window.direction == "around"
    with suppress(OverflowError):  # before the first day that there is, or after the last
        yield day - near, day + (near if around else MARGIN)
        if window.days > NEAR:
            yield day - rest, day - near - timedelta(days=1)
            if around:
                yield day + near + timedelta(days=1), day + rest


def record_or_flag(asking: Asking, film: Dataset, fields: Fields) -> FhirRecord:
    """The record of a film by its header; where the server fails, a flag says so and nothing is
    known. Raises UserError for what asking again will not mend: the address, the token."""
    try:
        return ask_record(asking, patient_of(film, asking.system), taken_of(film), fields)
    except HttpError as error:
        return FhirRecord(flags=(UNUSABLE if error.answered else SILENT,))


def records_for(asking: Asking, films: Sequence[Dataset], fields: Fields) -> list[FhirRecord]:
    """The record of each film, by their headers. Raises UserError as `record_or_flag` and
    `read_folder` do."""
    if is_address(asking.place):
        return [record_or_flag(asking, film, fields) for film in films]
    keys = [patient_of(film, asking.system) for film in films]
    resources, unreadable = _from_folder(Path(asking.place).expanduser(), keys)
    flags = (f"record: {unreadable} FHIR lines or files not readable",) if unreadable else ()
    records = []
    for film, key, own in zip(films, keys, resources, strict=True):
        one = record_of(own, patient=key, taken=taken_of(film), window=asking.window,
                        fields=fields, zone=asking.zone)  # fmt: skip
        records.append(replace(one, flags=(*one.flags, *flags)))
    return records


@dataclass(frozen=True, kw_only=True)
class Finder:
    """Finds the record of a film's patient, for a service that asks film by film; picklable.

    Raises UserError when it is made, where the address or the token cannot be one. Called, it
    raises UserError for a file that is no DICOM film, and for nothing that the other side does.
    """

    asking: Asking
    fields: Fields

    def __post_init__(self) -> None:
        if is_address(self.asking.place):
            Server(self.asking.place)

    def __call__(self, path: Path, identity: Mapping[str, Any]) -> FhirRecord:
        film = metadata_of(identity, path)
        try:
            return records_for(self.asking, [film], self.fields)[0]
        except UserError:  # the folder is gone, or the file of the token
            return FhirRecord(flags=(UNUSABLE,))


def _from_folder(folder: Path, keys: Sequence[PatientKey]) -> tuple[list[list[Resource]], int]:
    """What the folder has of each of these patients, everybody else's left where it is, and how
    many lines or files of it are unreadable."""
    counts: Counter[str] = Counter()
    values = {value for key in keys for value in key.values}
    people = [one for one in read_folder(folder, ("Patient",), counts)
              if any(value in values for _, value in identifiers(one))]  # fmt: skip
    holders = [find_patient([*last_versions(people)], key)[0] for key in keys]
    owns = ["" if who is None else str(printable(who.get("id"))) for who in holders]

    def observations(accepts: Callable[[Resource], bool]) -> list[Resource]:
        return [one for one in read_folder(folder, ("Observation",), Counter()) if accepts(one)]

    ids = {own for own in owns if own}
    theirs = observations(
        lambda one: patient_id(one.get("subject")) in ids or _subject(one) in values
    )
    # A later version of one of them may say that it was another patient's after all.
    named = {printable(one.get("id")) for one in theirs} - {None}
    versions = observations(lambda one: printable(one.get("id")) in named)
    resources = []
    for key, own in zip(keys, owns, strict=True):
        mine = [one for one in theirs if own and own_observations(one, own, key)]
        names = {printable(one.get("id")) for one in mine} - {None}
        nameless = [one for one in mine if printable(one.get("id")) is None]
        resources.append([*people, *nameless,
                      *(one for one in versions if printable(one.get("id")) in names)])  # fmt: skip
    return resources, counts[UNREADABLE]


def _subject(one: Resource) -> str | None:
    """The identifier's value that stands where a reference might."""
    return printable(mapping(mapping(one.get("subject")).get("identifier")).get("value"))
