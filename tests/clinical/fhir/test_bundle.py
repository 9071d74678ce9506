"""A result as FHIR: valid by another's model of R4, one resource however often, posted."""

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from nofinding.clinical.fhir.bundle import (
    CODES,
    IMAGE,
    MODELS,
    RESULTS,
    TAGS,
    result_bundle,
    send_result,
)
from nofinding.clinical.result import NOTICE, Result
from nofinding.datasets.hospital.fhir.server import TOKEN
from nofinding.errors import UserError
from nofinding.net.answers import HttpError
from support.fhir_server import Fault, FhirServer, patient

UID = "1.2.826.0.1.3680043.8.498"


def result(**changes: Any) -> Result:
    message: dict[str, Any] = {
        "score": 1.25, "p_value": 0.02, "calibration": "200 normal films of val",
        "method": "diff3m-f", "model": "adult", "sha256": "ab" * 32, "version": "0.1.0",
        "fields": ("age", "sex"), "attention": {"age": 0.75, "sex": 0.25},
        "flags": ("record: 2 values from after the film, not used",),
        "anomaly_map": np.zeros((4, 4), np.float32),
    }  # fmt: skip
    return Result(**(message | changes))


def film(**tags: Any) -> Dataset:
    header = Dataset()
    message = {
        "PatientID": "P-1", "PatientName": "Canary^Name", "PatientBirthDate": "19600601",
        "StudyInstanceUID": f"{UID}.1", "SeriesInstanceUID": f"{UID}.2",
        "SOPInstanceUID": f"{UID}.3", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "AccessionNumber": "A-7", "StudyDate": "20200601", "StudyTime": "101500", **tags,
    }  # fmt: skip
    for keyword, value in message.items():
        setattr(header, keyword, value)
    return header


def by_kind(bundle: dict[str, Any]) -> dict[str, Any]:
    """The resources, an Observation by its code."""
    entries = {}
    for one in (entry["resource"] for entry in bundle["entry"]):
        observed = one["resourceType"] == "Observation"
        entries[one["code"]["coding"][0]["code"] if observed else one["resourceType"]] = one
    return entries


@pytest.mark.parametrize(
    "changes", [{}, {"p_value": None, "attention": {}, "flags": ()}, {"score": 1e-9, "fields": ()}]
)
@pytest.mark.parametrize(
    "tags", [{}, {"StudyDate": None, "AccessionNumber": None}, {"TimezoneOffsetFromUTC": "+0200"}]
)
def test_it_is_fhir_by_the_word_of_another_program(
    changes: dict[str, Any], tags: dict[str, Any]
) -> None:
    pytest.importorskip("fhir.resources", reason="fhir.resources (extra dev) is not installed")
    films = result_bundle(result(**changes), film(**tags), system="urn:oid:1.2.3")
    text = json.dumps(films, allow_nan=False)
    model: Any = import_module("fhir.resources.R4B.bundle").Bundle
    read = json.loads(model.model_validate_json(text).model_dump_json())
    assert read == json.loads(text)
    for entry in films["entry"]:
        del entry["resource"]["status"]
    with pytest.raises(ValueError, match="status"):  # so it does look
        model.model_validate_json(json.dumps(films))


def test_all_of_the_result_is_said_and_marked() -> None:
    outcome = by_kind(result_bundle(result(), film(), system="urn:oid:1.2.3"))
    score, p, report, device = (
        outcome[key] for key in ("SCORE", "C44185", "DiagnosticReport", "Device")
    )
    assert score["valueQuantity"] == {
        "value": 1.25, "unit": "score", "system": "http://unitsofmeasure.org", "code": "{score}",
    }  # fmt: skip
    assert p["valueQuantity"]["value"] == 0.02 and p["valueQuantity"]["code"] == "1"
    assert score["code"]["coding"][0]["system"] == CODES
    shares = {part["code"]["text"]: part["valueQuantity"]["value"] for part in score["component"]}
    assert shares == {"Share of attention on age": 0.75, "Share of attention on sex": 0.25}
    assert "200 normal films of val" in p["note"][1]["text"]
    for one in (score, p):
        notes = [note["text"] for note in one["note"]]
        assert notes[0] == NOTICE and notes[-1] == result().flags[0]
    for one in (score, p, report):
        assert one["status"] == "preliminary"
        assert one["subject"]["identifier"] == {"system": "urn:oid:1.2.3", "value": "P-1"}
        assert one["effectiveDateTime"] == "2020-06-01"  # its offset is not known
    for one in (score, p, report, device):
        assert one["meta"]["security"][0]["code"] == "HRESCH"
        assert one["meta"]["tag"] == [{"system": TAGS, "code": "RESEARCH", "display": NOTICE}]
    assert report["conclusion"].startswith(NOTICE) and "p = 0.02" in report["conclusion"]
    assert "age, sex" in report["conclusion"] and result().flags[0] in report["conclusion"]
    assert report["category"][0]["coding"][0]["code"] == "RAD"
    assert report["basedOn"][0]["identifier"]["value"] == "A-7"
    assert {one["value"] for one in device["version"]} == {"0.1.0", "ab" * 32}
    bundle = result_bundle(result(), film(TimezoneOffsetFromUTC="+0200"))
    assert by_kind(bundle)["SCORE"]["effectiveDateTime"] == "2020-06-01T10:15:00+02:00"


def test_which_image_it_is_and_which_device() -> None:
    bundle = result_bundle(result(), film())
    outcome = by_kind(bundle)
    for study in (outcome["DiagnosticReport"]["imagingStudy"], outcome["SCORE"]["derivedFrom"],
                  outcome["C44185"]["derivedFrom"]):  # fmt: skip
        assert study[0]["identifier"] == {
            "system": "urn:dicom:uid", "value": f"urn:oid:{UID}.1",
        }  # fmt: skip
        (extension,) = study[0]["extension"]
        image = {part["url"]: part["valueOid"] for part in extension["extension"]}
        assert extension["url"] == IMAGE and image["seriesUid"] == f"urn:oid:{UID}.2"
        assert image["instanceUid"] == f"urn:oid:{UID}.3"
    names = {entry["resource"]["resourceType"]: entry["fullUrl"] for entry in bundle["entry"]}
    assert outcome["SCORE"]["device"]["reference"] == names["Device"]
    own = [entry["fullUrl"] for entry in bundle["entry"][1:3]]
    assert [one["reference"] for one in outcome["DiagnosticReport"]["result"]] == own


def test_the_systems_of_the_documentation_are_ours() -> None:
    page = (Path(__file__).parents[3] / "docs" / "clinical.md").read_text(encoding="utf-8")
    assert f"`{IMAGE}`" in page
    for system, end in ((CODES, ".1"), (RESULTS, ".2"), (MODELS, ".3"), (TAGS, ".4")):
        assert system == IMAGE[:-2] + end and f"`{end}`" in page


def test_no_more_of_the_person_than_the_id() -> None:
    text = json.dumps(result_bundle(result(), film()))
    assert "Canary" not in text and "1960" not in text
    with pytest.raises(UserError, match="has no patient id"):
        result_bundle(result(), film(PatientID=""))


def test_sent_twice_or_scored_again_it_is_one_report() -> None:
    assert result_bundle(result(), film()) == result_bundle(result(), film())
    with FhirServer([patient()]) as server:
        for score in (1.25, 1.25, 1.5):
            send_result(server.url, result_bundle(result(score=score), film()))
        assert len(server.received) == 3
        assert len(server.of("Observation")) == 2
        (report,), (device,) = server.of("DiagnosticReport"), server.of("Device")
        score_there = next(o for o in server.of("Observation") if "component" in o)
        assert score_there["valueQuantity"]["value"] == 1.5
        assert score_there["meta"]["versionId"] == "3"
        assert score_there["device"]["reference"] == f"Device/{device['id']}"
        assert {"reference": f"Observation/{score_there['id']}"} in report["result"]
        for other, of in ((result(sha256="cd" * 32), film()),
                          (result(), film(SOPInstanceUID=f"{UID}.9"))):  # fmt: skip
            send_result(server.url, result_bundle(other, of))
        assert len(server.of("DiagnosticReport")) == 3
        assert len(server.of("Device")) == 2


@pytest.mark.parametrize(
    ("fault", "message", "answered"),
    [
        ("slow", "does not answer", False), ("drip", "does not answer", False),
        ("500", "answered 500", True), ("422", "answered 422", True),
        ("401", f"answered 401; set {TOKEN}", True), ("redirect", "leads to another address", True),
        ("html", "something else than a Bundle", True),
        ("outcome", r"did not take the result \(409\)", True),
    ],
)  # fmt: skip
def test_a_server_that_does_not_take_it(fault: Fault, message: str, answered: bool) -> None:
    began = time.monotonic()
    with FhirServer([]) as server:
        server.fault = fault
        with pytest.raises(HttpError, match=message) as caught:
            send_result(server.url, result_bundle(result(), film()), seconds=1.0)
        assert server.received == []
    assert time.monotonic() - began < 3
    assert caught.value.answered == answered
    assert "P-1" not in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_busy_server_is_sent_it_again() -> None:
    with FhirServer([]) as server:
        server.fault, server.faults = "500", 1
        send_result(f"fhir:{server.url}", result_bundle(result(), film()))
        assert len(server.received) == 1
