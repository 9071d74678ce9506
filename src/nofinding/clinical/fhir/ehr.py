"""The EHR of one film out of FHIR R4 resources: Patient, and of each vital sign the Observation
nearest to the study, by the rule of data/nearest_value.py.

A pure function. What is not used is counted in flags, which say how many and why: never a value, an
id or a date.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo

from nofinding.clinical.fhir.patient import (
    PatientKey,
    Resource,
    Taken,
    find_patient,
    last_versions,
    own_observations,
)
from nofinding.data.ehr import EhrField, convert, plausible
from nofinding.data.nearest_value import EhrWindow, Reading, is_later, nearest
from nofinding.datasets.build.ehr_linkage import loinc_fields
from nofinding.datasets.hospital.fhir.resources import (
    MADE,
    birth_date,
    measured_at,
    printable,
    sex_of,
    values_of,
)
from nofinding.errors import UserError

__all__ = ["FhirRecord", "record_of"]


@dataclass(frozen=True, kw_only=True)
class FhirRecord:
    """What was known of a patient when a film was taken."""

    ehr: Mapping[str, float] = field(default_factory=dict)
    """In the fields' units; a category as its index."""
    flags: tuple[str, ...] = ()
    """What was not used and why: "record: 2 values from after the film, not used"."""
    used: tuple[tuple[str, int], ...] = ()
    """(field, days before the study); negative: after it; 0 for sex and age."""


def record_of(
    resources: Iterable[Resource],
    *,
    patient: PatientKey,
    taken: Taken,
    window: EhrWindow,
    fields: Mapping[str, EhrField],
    zone: tzinfo | None = None,
) -> FhirRecord:
    """Sex and age of the patient, and of each field the nearest value in the window.

    A value with an offset is an instant. Clocks without one, the film's above all, are taken to
    show the time of `zone`; None: of this machine.
    """
    held = [*last_versions(resources)]
    who, why = find_patient(held, patient)
    if who is None:
        return FhirRecord(flags=why)
    clock = _Clock(taken, zone)
    counts: Counter[tuple[str, str]] = Counter()
    readings = _readings(held, who, patient, clock, window, fields, counts)
    ehr: dict[str, float] = {}
    used: dict[str, int] = {}
    for name, ones in readings.items():  # none, where the film has no date
        one = None if clock.taken is None else nearest(ones, clock.taken, window)
        if one is not None:
            ehr[name], used[name] = one
    person = _person(who, clock.taken, fields, counts)
    ehr, used = {**ehr, **person}, {**used, **dict.fromkeys(person, 0)}
    if {"systolic", "diastolic"} <= ehr.keys() - plausible(ehr, fields)[0].keys():
        del ehr["systolic"], ehr["diastolic"]
        why = (*why, "diastolic: is above systolic in the record, both left out")
    _body_mass_index(ehr, used, fields)
    flags = tuple(_flag(where, what, count) for (where, what), count in sorted(counts.items()))
    if clock.taken is None:
        why = (*why, "record: the film has no date, no measurement is used")
    return FhirRecord(
        ehr={name: ehr[name] for name in fields if name in ehr},
        flags=(*why, *flags),
        used=tuple((name, used[name]) for name in fields if name in ehr),
    )


def _flag(where: str, what: str, count: int) -> str:
    return f"{where}: {count} value{'' if count == 1 else 's'} {what}, not used"


class _Clock:
    """Times of the EHR as the film's clock shows them."""

    def __init__(self, taken: Taken, zone: tzinfo | None) -> None:
        own = taken.tzinfo if isinstance(taken, datetime) else None
        self.zone = own or zone
        self.taken = None if taken is None else self.place(taken)

    def place(self, when: datetime | date) -> datetime | None:
        """The time on the clock, midnight for a day alone; None for what no clock can show."""
        try:
            if not isinstance(when, datetime):
                return datetime(when.year, when.month, when.day)
            if when.tzinfo is None:
                return when
            return when.astimezone(self.zone).replace(tzinfo=None)
        except (OverflowError, ValueError, OSError):
            return None


def _readings(
    held: Iterable[Resource], who: Resource, key: PatientKey, clock: _Clock, window: EhrWindow,
    fields: Mapping[str, EhrField], counts: Counter[tuple[str, str]],
) -> dict[str, list[Reading]]:  # fmt: skip
    """By field the values of this patient that can be used, in its unit; `counts` those that
    cannot."""
    own, meant = str(printable(who.get("id"))), loinc_fields(fields)
    readings: dict[str, list[Reading]] = defaultdict(list)
    for one in held:
        if one.get("resourceType") != "Observation" or not (values := [*values_of(one, meant)]):
            continue
        when = measured_at(one)
        at = None if when is None else clock.place(when)
        belongs = own_observations(one, own, key)
        if belongs is None:
            counts["record", "of no patient"] += len(values)
        elif not belongs:
            counts["record", "of other patients"] += len(values)
        elif str(one.get("status")) not in MADE:
            counts["record", "entered in error or cancelled"] += len(values)
        elif one.get("focus"):
            counts["record", "of somebody or something else"] += len(values)
        elif at is None:
            counts["record", "without a day"] += len(values)
        elif clock.taken is None:
            continue
        elif window.direction == "before" and is_later(at, clock.taken):
            counts["record", "from after the film"] += len(values)
        else:
            for name, number, unit in values:
                value, wrong = _converted(number, unit, fields[name])
                if value is None:
                    counts[name, wrong] += 1
                else:
                    readings[name].append(Reading(at, value))
    return readings


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


def _person(
    who: Resource,
    taken: datetime | None,
    fields: Mapping[str, EhrField],
    counts: Counter[tuple[str, str]],
) -> dict[str, float]:
    """Sex, and the age in years on the day of the study."""
    known: dict[str, float] = {}
    sex, born = sex_of(who), birth_date(who.get("birthDate"))
    if "sex" in fields and sex in fields["sex"].categories:
        known["sex"] = float(fields["sex"].categories.index(sex))
    if "age" in fields and born is not None and taken is not None:
        years, wrong = _converted((taken.date() - born.date()).days / 365.25, "a", fields["age"])
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
        ehr["bmi"], used["bmi"] = value, max(used["weight"], used["height"], key=abs)
