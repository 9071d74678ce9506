"""What the parts of a FHIR resource say, whatever is in them: a value, or None, never an error.

Shared by those who read a folder or a server for many films (`fhir.py`), and by those who ask for
the record of one (`clinical/fhir/ehr.py`).
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from nofinding.data.units import SPELLINGS

__all__ = [
    "LOINC",
    "MADE",
    "PANELS",
    "birth_date",
    "clock_time",
    "codes_of",
    "identifiers",
    "mapping",
    "measured_at",
    "moment",
    "objects",
    "patient_id",
    "printable",
    "resources_in",
    "sex_of",
    "values_of",
]

LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"
PANELS = ("85354-9", "55284-4")  # of the blood pressure, whose components have codes of their own
MADE = frozenset({"final", "amended", "corrected", "preliminary"})


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; nothing where it is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def mapping(value: Any) -> dict[str, Any]:
    """The object itself; an empty one where it is none."""
    return value if isinstance(value, dict) else {}


def printable(value: Any) -> str | None:
    """A text without what does not print, half characters among it."""
    if not isinstance(value, str):
        return None
    return "".join(c for c in value[:256] if c.isprintable()).strip() or None


def birth_date(value: Any) -> datetime | None:
    """A birth date; the middle of the month or of the year where that is all that is known."""
    parts = re.fullmatch(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?", str(value))
    if parts is None:
        return None
    year, month, day = parts.groups()
    return clock_time(f"{year}-{month or '07'}-{day or ('15' if month else '01')}")


def moment(value: Any) -> datetime | date | None:
    """A time with the offset that it states, or a day where no time is told; None for a year or a
    month alone."""
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d", value):
        return None
    text = value.strip()
    try:
        return date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)
    except ValueError:
        return None


def clock_time(value: Any) -> datetime | None:
    """A time as it stood on the clock there; None for a year or a month alone."""
    when = value if isinstance(value, date) else moment(value)
    if when is None or isinstance(when, datetime):
        return None if when is None else when.replace(tzinfo=None)
    return datetime(when.year, when.month, when.day)


def measured_at(observation: Mapping[str, Any]) -> datetime | date | None:
    """When it was measured; of a period the end, before which its value was not whole."""
    period = mapping(observation.get("effectivePeriod"))
    times = (
        observation.get("effectiveDateTime"), observation.get("effectiveInstant"),
        period.get("end"), period.get("start"),
    )  # fmt: skip
    return next((when for when in map(moment, times) if when is not None), None)


def patient_id(reference: Any) -> str | None:
    """The id in "Patient/1", "http://server/fhir/Patient/1/_history/2", "urn:uuid:1"."""
    text = printable(mapping(reference).get("reference"))
    if text is None:
        return None
    match = re.search(r"(?:^|/)Patient/([^/?]+)(?:/_history/.*)?$|^urn:(?:uuid|oid):(.+)$", text)
    return (match[1] or match[2]) if match else None


def unit_of(quantity: dict[str, Any]) -> str | None:
    """Its UCUM code, without {annotations}, or else the unit as it is shown."""
    code = quantity.get("code") if quantity.get("system") == UCUM else None
    unit = printable(code) or printable(quantity.get("unit"))
    if unit is None or unit.lower() in SPELLINGS:
        return unit
    return re.sub(r"\{[^}]*\}", "", unit) or unit


def number_of(quantity: dict[str, Any]) -> float | None:
    """Its value; None where it is a bound ("<"), or no finite number."""
    value = quantity.get("value")
    if quantity.get("comparator") or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def codes_of(concept: Any, system: str) -> Iterator[str]:
    """The codes of one system."""
    for coding in objects(mapping(concept).get("coding")):
        if coding.get("system") == system and isinstance(coding.get("code"), str):
            yield coding["code"]


def sex_of(patient: Mapping[str, Any]) -> str | None:
    """ "M" or "F"; None for other, unknown or nothing."""
    return {"male": "M", "female": "F"}.get(str(patient.get("gender")))


def identifiers(patient: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """(system, value) of each identifier that has a value."""
    pairs = [(printable(i.get("system")), printable(i.get("value")))
             for i in objects(patient.get("identifier"))]  # fmt: skip
    return [(system, value) for system, value in pairs if value is not None]


def values_of(
    observation: Mapping[str, Any], fields: Mapping[str, str]
) -> Iterator[tuple[str, float | None, str | None]]:
    """(field, number, unit) of its own value and of those of its components that mean a field;
    `fields` gives the field of a LOINC code."""
    for part in (observation, *objects(observation.get("component"))):
        field = next(filter(None, map(fields.get, codes_of(part.get("code"), LOINC))), None)
        if field is not None:
            quantity = mapping(part.get("valueQuantity"))
            yield field, number_of(quantity), unit_of(quantity)


def resources_in(content: Any, kinds: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The resources of these kinds: the content itself, or a Bundle's entries.

    An entry without an id has that of its fullUrl; a subject that is named by the fullUrl of an
    entry of the same Bundle is that entry's resource.
    """
    if not isinstance(content, dict):
        return
    if content.get("resourceType") != "Bundle":
        if content.get("resourceType") in kinds:
            yield content
        return
    entries = [*map(_identified, objects(content.get("entry")))]
    ids = {url: f"{one.get('resourceType')}/{one['id']}"
           for url, one in entries if url and isinstance(one.get("id"), str)}  # fmt: skip
    for _, resource in entries:
        if resource.get("resourceType") in kinds:
            subject = mapping(resource.get("subject"))
            meant = ids.get(str(subject.get("reference")))
            yield {**resource, "subject": {**subject, "reference": meant}} if meant else resource


def _identified(entry: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """(fullUrl, resource) of a Bundle's entry, the resource with an id where either has one."""
    resource, url = mapping(entry.get("resource")), printable(entry.get("fullUrl"))
    if url is None or printable(resource.get("id")) is not None:
        return url, resource
    own = re.search(r"^urn:(?:uuid|oid):(.+)$|/([^/?#]+)(?:/_history/[^/]*)?$", url)
    return url, {**resource, "id": (own[1] or own[2]) if own else url}
