"""A small copy of a Bulk Data export, with a list of films beside it."""

import json
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from nofinding.datasets.examples.writing import Copy

__all__ = ["write_fhir"]

LABELS = {"nodule": "Nodule", "effusion": "Pleural effusion", "mass": "Mass"}
VITALS = {  # field: LOINC, UCUM
    "height": ("8302-2", "cm"), "weight": ("29463-7", "kg"), "heart_rate": ("8867-4", "/min"),
    "respiratory_rate": ("9279-1", "/min"), "temperature": ("8310-5", "Cel"),
    "spo2": ("2708-6", "%"),
}  # fmt: skip


def write_fhir(copy: Copy) -> None:
    """Patient.ndjson and Observation.ndjson, with panels of the blood pressure, pounds, birth
    dates of which only the year is known, values below a limit, one entered in error, one line
    that is none."""
    rng = copy.rng("fhir")
    patients, observations, films = [], [], []
    for number in range(copy.patients):
        who, name = copy.person(number), f"p{number + 1}"
        taken = date(2015, 1, 1) + timedelta(days=int(rng.integers(2000)))
        born = taken - timedelta(days=round(who["age"] * 365.25) + 100)
        patients.append({
            "resourceType": "Patient", "id": name,
            "identifier": [{"system": "urn:oid:1.2.3", "value": f"MRN{100_000 + 7 * number}"}],
            "gender": "male" if who["sex"] else "female",
            "birthDate": f"{born}"[: 4 if number == 1 else 7 if number == 2 else 10],
        })  # fmt: skip
        kind = [*LABELS][number % 3] if number % 5 in (2, 3) else None
        path = f"films/{number + 1:04d}.png"
        copy.picture(path, copy.film(number, kind))
        films.append([f"Patient/{name}", path, taken, "AP" if who["view"] else "PA",
                      LABELS[kind] if kind else ""])  # fmt: skip
        for visit, days in enumerate((-400, -20, 3)):
            when = f"{taken + timedelta(days=days)}T09:30:00+01:00"
            known = {key: round(who[key] + visit, 1) for key in (*VITALS, "systolic", "diastolic")}
            observations += _visit(number, visit, name, when, known)
    copy.text("Patient.ndjson", map(json.dumps, patients))
    copy.text("Observation.ndjson", ['{"resourceType": "Observation", "id": "cut',
                                     *map(json.dumps, observations)])  # fmt: skip
    copy.table("films.csv", ("patient", "path", "taken", "view", "findings"), films)


def _visit(
    number: int, visit: int, name: str, when: str, known: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The observations of one visit."""
    observations = []
    for field, (code, unit) in VITALS.items():
        quantity = _quantity(known[field], unit)
        if field == "weight" and number % 4 == 0:
            quantity = _quantity(round(known[field] / 0.45359237, 1), "[lb_av]")
        if field == "spo2" and number % 6 == 2 and visit == 2:
            quantity["comparator"] = "<"
        wrong = field == "height" and number == 3 and visit == 1
        observations.append(_observation(f"{name}-{visit}-{field}", name, when, code,
                                 status="entered-in-error" if wrong else "final",
                                 valueQuantity=quantity))  # fmt: skip
    pressures = [
        {"code": _loinc(code), "valueQuantity": _quantity(known[field], "mm[Hg]")}
        for code, field in (("8480-6", "systolic"), ("8462-4", "diastolic"))
    ]
    observations.append(
        _observation(f"{name}-{visit}-bp", name, when, "85354-9", component=pressures)
    )
    return observations


def _observation(
    own: str, name: str, when: str, code: str, status: str = "final", **value: Any
) -> dict[str, Any]:
    return {
        "resourceType": "Observation", "id": own, "status": status, "code": _loinc(code),
        "subject": {"reference": f"Patient/{name}"}, "effectiveDateTime": when, **value,
    }  # fmt: skip


def _loinc(code: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://loinc.org", "code": code}]}


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
