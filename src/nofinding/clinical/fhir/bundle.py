"""A result as FHIR R4: a transaction Bundle of a report, its numbers and the model that made them.

Every resource has an identifier that follows from the film and the model, by which a server updates
what it has: sent twice, or scored again, it is one report. R4 has no ImagingSelection; which image
it is stands in an extension of the reference to the study (docs/clinical.md, "FHIR").
"""

import hashlib
import re
import urllib.parse
import uuid
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset

from nofinding.clinical.fhir.patient import taken_of
from nofinding.clinical.result import NOTICE, Result
from nofinding.datasets.hospital.fhir.server import Limits, Server, is_address
from nofinding.errors import UserError
from nofinding.net.answers import HttpError

__all__ = ["CODES", "IMAGE", "MODELS", "RESULTS", "TAGS", "require_server", "result_bundle",
           "send_result"]  # fmt: skip

ROOT = "urn:oid:2.25.159568133049424855619239164690391937799"  # ours (ITU-T X.667)
CODES, RESULTS, MODELS, TAGS, IMAGE = (f"{ROOT}.{number}" for number in range(1, 6))
"""Systems of our codes, of the identifiers of results and of models, and of our tag; and the
extension that names the image within the study."""

UCUM, SCT, LOINC = "http://unitsofmeasure.org", "http://snomed.info/sct", "http://loinc.org"
NCIT = "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl"
HL7 = "http://terminology.hl7.org/CodeSystem"

Json = dict[str, Any]


def result_bundle(result: Result, film: Dataset, *, system: str | None = None) -> Json:
    """The Bundle about a film, whose header is as `read_source` gives it. `system` is that of the
    hospital's patient ids.

    Raises UserError where the film has no patient id: such a result would be nobody's.
    """
    if not str(film.get("PatientID") or "").strip():
        raise UserError("has no patient id; a FHIR result would be nobody's")
    about = _about(film, system)
    parts = str(film.SOPInstanceUID), result.sha256
    model = _entry(_device(result), MODELS, result.sha256, result.version)
    numbers = [_entry(_score(result, about, model), RESULTS, "score", *parts)]
    if result.p_value is not None:
        numbers.append(_entry(_p_value(result, about, model), RESULTS, "p-value", *parts))
    report = _entry(_report(result, film, about, numbers), RESULTS, "report", *parts)
    return {"resourceType": "Bundle", "type": "transaction", "entry": [model, *numbers, report]}


def _entry(resource: Json, system: str, *parts: str) -> Json:
    """The resource under its identifier: updated where the server has it, else made."""
    kind, value = (
        resource["resourceType"],
        hashlib.sha256("|".join(parts).encode()).hexdigest()[:40],
    )
    query = urllib.parse.urlencode({"identifier": f"{system}|{value}"})
    return {
        "fullUrl": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{system}|{value}')}",
        "resource": {**resource, "identifier": [{"system": system, "value": value}]},
        "request": {"method": "PUT", "url": f"{kind}?{query}"},
    }


def _meta() -> Json:
    """Research: as a security label that policies know, and as a tag that says it in words."""
    reason = {"system": f"{HL7}/v3-ActReason", "code": "HRESCH", "display": "healthcare research"}
    return {
        "security": [reason],
        "tag": [{"system": TAGS, "code": "RESEARCH", "display": NOTICE}],
    }


def _concept(system: str, code: str, display: str) -> Json:
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


def _about(film: Dataset, system: str | None) -> Json:
    """Whose film it is and from when: what every resource about it repeats."""
    own: Json = {"value": str(film.PatientID).strip()}
    if system is not None:
        own["system"] = system
    about: Json = {"subject": {"type": "Patient", "identifier": own}}
    taken = taken_of(film)
    if isinstance(taken, datetime):  # FHIR has no time of day without an offset
        about["effectiveDateTime"] = (taken if taken.tzinfo else taken.date()).isoformat()
    elif taken is not None:
        about["effectiveDateTime"] = taken.isoformat()
    return about


def _study(film: Dataset) -> Json:
    """The study by its UID; series and image, as ImagingSelection of R5 names them, within."""
    image = [
        {"url": "seriesUid", "valueOid": f"urn:oid:{film.SeriesInstanceUID}"},
        {"url": "instanceUid", "valueOid": f"urn:oid:{film.SOPInstanceUID}"},
        {"url": "sopClass", "valueOid": f"urn:oid:{film.SOPClassUID}"},
    ]
    uid = {"system": "urn:dicom:uid", "value": f"urn:oid:{film.StudyInstanceUID}"}
    return {
        "type": "ImagingStudy",
        "identifier": uid,
        "extension": [{"url": IMAGE, "extension": image}],
    }


def _device(result: Result) -> Json:
    """The model and the program that runs it."""
    return {
        "resourceType": "Device",
        "meta": _meta(),
        "status": "active",
        "manufacturer": "nofinding",
        "deviceName": [{"name": f"nofinding {result.method}, {result.model}", "type": "other"}],
        "modelNumber": result.model,
        "type": {"text": "Software, anomaly detection on chest radiographs; research use only"},
        "version": [
            {"type": {"text": "program"}, "value": result.version},
            {"type": {"text": "SHA-256 of the model's weights"}, "value": result.sha256},
        ],
        "note": [{"text": NOTICE}],
    }


def _observation(code: Json, value: Json, result: Result, about: Json, model: Json) -> Json:
    return {
        "resourceType": "Observation",
        "meta": _meta(),
        "status": "preliminary",
        "category": [_concept(f"{HL7}/observation-category", "imaging", "Imaging")],
        "code": code,
        **about,
        "valueQuantity": value,
        "bodySite": _concept(SCT, "51185008", "Chest"),
        "method": {"text": f"{result.method} of nofinding {result.version}, model {result.model}"},
        "device": {"reference": model["fullUrl"]},
        "note": [{"text": text} for text in (NOTICE, *result.flags)],
    }


def _share(value: float) -> Json:
    return {"value": value, "system": UCUM, "code": "1"}


def _score(result: Result, about: Json, model: Json) -> Json:
    """The score; with it the share of attention on each field of the record."""
    code = _concept(CODES, "SCORE", "Anomaly score")
    value = {"value": result.score, "unit": "score", "system": UCUM, "code": "{score}"}
    shares = [
        {"code": _concept(CODES, f"ATTENTION-{name.upper()}", f"Share of attention on {name}"),
         "valueQuantity": _share(share)}
        for name, share in result.attention.items()
    ]  # fmt: skip
    observation = _observation(code, value, result, about, model)
    return {**observation, **({"component": shares} if shares else {})}


def _p_value(result: Result, about: Json, model: Json) -> Json:
    assert result.p_value is not None
    code = _concept(NCIT, "C44185", "P-Value")
    observation = _observation(code, _share(result.p_value), result, about, model)
    against = f"share of the calibration normals that score as high: {result.calibration}"
    return {
        **observation,
        "note": [observation["note"][0], {"text": against}, *observation["note"][1:]],
    }


def _report(result: Result, film: Dataset, about: Json, numbers: list[Json]) -> Json:
    study = _study(film)
    for number in numbers:
        number["resource"]["derivedFrom"] = [study]
    p = "not calibrated" if result.p_value is None else f"p = {result.p_value:.3g}"
    conclusion = [f"{NOTICE}. Anomaly score {result.score:.4g}, {p} ({result.calibration})."]
    conclusion += [f"Record used: {', '.join(result.fields) or 'none'}."]
    conclusion += [f"Flags: {'; '.join(result.flags)}."] if result.flags else []
    code = _concept(LOINC, "18748-4", "Diagnostic imaging study")
    report: Json = {
        "resourceType": "DiagnosticReport",
        "meta": _meta(),
        "status": "preliminary",
        "category": [_concept(f"{HL7}/v2-0074", "RAD", "Radiology")],
        "code": {**code, "text": "Anomaly score of a chest radiograph, research use only"},
        **about,
        "result": [{"reference": number["fullUrl"]} for number in numbers],
        "imagingStudy": [study],
        "conclusion": " ".join(conclusion),
    }
    accession = str(film.get("AccessionNumber") or "").strip()
    if accession:
        order = {"type": _concept(f"{HL7}/v2-0203", "ACSN", "Accession ID"), "value": accession}
        report["basedOn"] = [{"type": "ServiceRequest", "identifier": order}]
    return report


def require_server(base: str) -> None:
    """Raises UserError where this is no address of a server, or the token cannot be sent there."""
    if not is_address(re.sub(r"^fhir:", "", base)):
        raise UserError(f"{base}: is no address of a FHIR server; give http(s)://...")
    Server(re.sub(r"^fhir:", "", base))


def send_result(base: str, bundle: Json, *, seconds: float = 30.0) -> None:
    """Posts the Bundle to the server at `base`; when this returns, the server has all of it.

    Sent again after an answer that was lost, it changes nothing. Raises HttpError, in one line and
    within `seconds`, where the server does not answer or does not take it; UserError as `Server`.
    """
    limits = Limits(seconds=seconds, page_seconds=seconds / 2, waits=(0.5,), page_bytes=2**23)
    server = Server(re.sub(r"^fhir:", "", base), limits)
    answer = server.post(bundle)
    responses = [
        entry.get("response") for entry in answer.get("entry") or () if isinstance(entry, dict)
    ]
    states = [str(one.get("status")) for one in responses if isinstance(one, dict)]
    refused = [state[:3] for state in states if not state.startswith("2")]
    if refused or len(states) != len(bundle["entry"]):
        why = refused[0] if refused and refused[0].isdecimal() else "no word on all of it"
        raise HttpError(f"fhir:{server.address}: did not take the result ({why})")
