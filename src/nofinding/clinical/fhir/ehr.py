"""The record of one film out of FHIR R4 resources: Patient, and of each vital sign the last
Observation before the study.

A pure function. What is not used is counted in flags, which say how many and why: never a value, an
id or a date.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from statistics import median
from typing import NamedTuple

from nofinding.clinical.fhir.patient import (
    PatientKey,
    Resource,
    Taken,
    find_patient,
    last_versions,
    own_observations,
)
from nofinding.data.ehr import EhrField, convert, plausible
from nofinding.datasets.build.ehr_linkage import loinc_fields
from nofinding.datasets.hospital.fhir.resources import (
    MADE,
    birth_date,
    mapping,
    moment,
    printable,
    sex_of,
    values_of,
)
from nofinding.errors import UserError

__all__ = ["FhirRecord", "record_of"]

LAST = timedelta(days=1) - timedelta(microseconds=1)  # of a day


@dataclass(frozen=True, kw_only=True)
class FhirRecord:
    """What was known of a patient when a film was taken."""

    ehr: Mapping[str, float] = field(default_factory=dict)
    """In the fields' units; a category as its index."""
    flags: tuple[str, ...] = ()
    """What was not used and why: "record: 2 values from after the film, not used"."""
    used: tuple[tuple[str, int], ...] = ()
    """(field, days before the study); 0 for sex and age."""


def record_of(
    resources: Iterable[Resource],
    *,
    patient: PatientKey,
    taken: Taken,
    window: int,
    fields: Mapping[str, EhrField],
    zone: tzinfo | None = None,
) -> FhirRecord:
    """Sex and age of the patient, and of each field the last value at most `window` days before
    the study, never one from after it.

    A value with an offset is an instant. Clocks without one, the film's above all, are taken to
    show the time of `zone`; None: of this machine. A value of which the day alone is told counts
    as the first of that day; a study of which the day alone is told as the end of it.
    """
    held = [*last_versions(resources)]
    who, why = find_patient(held, patient)
    if who is None:
        return FhirRecord(flags=why)
    clock = _Clock(taken, zone)
    counts: Counter[tuple[str, str]] = Counter()
    readings = [*_readings(held, who, patient, clock, fields, counts)]
    ehr, used = _nearest(readings, clock, window)
    person = _person(who, clock.day, fields, counts)
    ehr, used = {**ehr, **person}, {**used, **dict.fromkeys(person, 0)}
    if {"systolic", "diastolic"} <= ehr.keys() - plausible(ehr, fields)[0].keys():
        del ehr["systolic"], ehr["diastolic"]
        why = (*why, "diastolic: is above systolic in the record, both left out")
    _body_mass_index(ehr, used, fields)
    flags = tuple(_flag(where, what, count) for (where, what), count in sorted(counts.items()))
    if clock.day is None:
        why = (*why, "record: the film has no date, no measurement is used")
    return FhirRecord(
        ehr={name: ehr[name] for name in fields if name in ehr},
        flags=(*why, *flags),
        used=tuple((name, used[name]) for name in fields if name in ehr),
    )


def _flag(where: str, what: str, count: int) -> str:
    return f"{where}: {count} value{'' if count == 1 else 's'} {what}, not used"


class _Clock:
    """Times of the record beside that of the study, on one clock."""

    def __init__(self, taken: Taken, zone: tzinfo | None) -> None:
        own = taken.tzinfo if isinstance(taken, datetime) else None
        self.zone = own or zone
        self.day: date | None = None
        self.until: datetime | None = None
        placed = None if taken is None else self.place(taken)
        if placed is not None:
            self.day, self.until = placed
            self.until += timedelta() if isinstance(taken, datetime) else LAST

    def place(self, when: datetime | date) -> tuple[date, datetime] | None:
        """The day on the clock, and the instant; None for what no clock can show."""
        try:
            if not isinstance(when, datetime):
                when = datetime(when.year, when.month, when.day)
            if when.tzinfo is None:
                when = when.astimezone() if self.zone is None else when.replace(tzinfo=self.zone)
            local = when.astimezone(self.zone)
            return local.date(), when.astimezone(UTC)
        except (OverflowError, ValueError, OSError):
            return None


class _Reading(NamedTuple):
    field: str
    day: date
    at: datetime
    value: float


def _readings(
    held: Iterable[Resource], who: Resource, key: PatientKey, clock: _Clock,
    fields: Mapping[str, EhrField], counts: Counter[tuple[str, str]],
) -> Iterator[_Reading]:  # fmt: skip
    """The values that can be used, of this patient and from before the study, in the fields' units;
    `counts` those that cannot."""
    own, meant = str(printable(who.get("id"))), loinc_fields(fields)
    for one in held:
        if one.get("resourceType") != "Observation" or not (values := [*values_of(one, meant)]):
            continue
        when = _statement(one)
        placed = None if when is None else clock.place(when)
        belongs = own_observations(one, own, key)
        if belongs is None:
            counts["record", "of no patient"] += len(values)
        elif not belongs:
            counts["record", "of other patients"] += len(values)
        elif str(one.get("status")) not in MADE:
            counts["record", "entered in error or cancelled"] += len(values)
        elif one.get("focus"):
            counts["record", "of somebody or something else"] += len(values)
        elif placed is None:
            counts["record", "without a day"] += len(values)
        elif clock.until is None:
            continue
        elif placed[1] > clock.until:
            counts["record", "from after the film"] += len(values)
        else:
            for name, number, unit in values:
                value, wrong = _converted(number, unit, fields[name])
                if value is None:
                    counts[name, wrong] += 1
                else:
                    yield _Reading(name, *placed, value)


def _statement(one: Resource) -> datetime | date | None:
    """When it was measured; of a period the end, before which its value was not whole."""
    period = mapping(one.get("effectivePeriod"))
    times = (one.get("effectiveDateTime"), one.get("effectiveInstant"), period.get("end"),
             period.get("start"))  # fmt: skip
    return next((when for when in map(moment, times) if when is not None), None)


def _converted(number: float | None, unit: str | None, field: EhrField) -> tuple[float | None, str]:
    """The value in the field's unit; None, and why, where there is none that a patient can have."""
    if number is None:
        return None, "without a number"
    if unit is None:
        return None, "without a unit"
    try:
        same = unit.strip().lower() == field.unit.lower()
        value = number if same else convert(number, unit, field)
    except UserError:
        return None, "in an unknown unit"
    if not plausible({field.name: value}, {field.name: field})[0]:
        return None, "out of range"
    return value, ""


def _nearest(
    readings: Iterable[_Reading], clock: _Clock, window: int
) -> tuple[dict[str, float], dict[str, int]]:
    """By field the last value within the window, and how many days before the study it is from.
    Values at one time are one, their median."""
    last: dict[str, list[_Reading]] = {}
    for one in readings:
        if clock.day is None or (clock.day - one.day).days > window:
            continue
        there = last.get(one.field)
        if there is None or one.at > there[0].at:
            last[one.field] = [one]
        elif one.at == there[0].at:
            there.append(one)
    ehr = {name: float(median(one.value for one in ones)) for name, ones in last.items()}
    days = {name: (clock.day - ones[0].day).days for name, ones in last.items() if clock.day}
    return ehr, days


def _person(
    who: Resource,
    day: date | None,
    fields: Mapping[str, EhrField],
    counts: Counter[tuple[str, str]],
) -> dict[str, float]:
    """Sex, and the age in years on the day of the study."""
    known: dict[str, float] = {}
    sex, born = sex_of(who), birth_date(who.get("birthDate"))
    if "sex" in fields and sex in fields["sex"].categories:
        known["sex"] = float(fields["sex"].categories.index(sex))
    if "age" in fields and born is not None and day is not None:
        years, wrong = _converted((day - born.date()).days / 365.25, "a", fields["age"])
        if years is None:
            counts["age", wrong] += 1
        else:
            known["age"] = years
    return known


def _body_mass_index(
    ehr: dict[str, float], used: dict[str, int], fields: Mapping[str, EhrField]
) -> None:
    """Fills in BMI from weight and height, where both are known and it was not recorded."""
    if "bmi" not in fields or "bmi" in ehr or not {"weight", "height"} <= ehr.keys():
        return
    value, _ = _converted(ehr["weight"] / (ehr["height"] / 100) ** 2, "kg/m2", fields["bmi"])
    if value is not None:
        ehr["bmi"], used["bmi"] = value, max(used["weight"], used["height"])
