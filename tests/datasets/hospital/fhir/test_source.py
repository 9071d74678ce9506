"""Films beside FHIR R4: of each observation the nearest, from files or a server, and no crash."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.datasets.examples import Copy
from nofinding.datasets.hospital.fhir import reading
from nofinding.types import Exam

PATIENT = {"resourceType": "Patient", "id": "a1", "gender": "female", "birthDate": "1960-06-01",
           "identifier": [{"value": "MRN7"}]}  # fmt: skip


def sign(code: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    """A final observation of patient a1 on the first of June 2020."""
    quantity = {"value": value, "code": unit, "system": "http://unitsofmeasure.org"}
    return {
        "resourceType": "Observation", "status": "final", "subject": {"reference": "Patient/a1"},
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "effectiveDateTime": "2020-06-01T10:00:00Z", "valueQuantity": quantity, **more,
    }  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A folder with one film of patient a1, on the first of June 2020."""
    example = Copy(root=tmp_path / "fhir", patients=8, seed=0, size=64)
    example.picture("a.png", example.film(0))
    example.text("films.csv", ["patient,path,taken", "Patient/a1,a.png,2020-06-01 12:00:00"])
    return example


def write(copy: Copy, *resources: object, file: str = "all.ndjson") -> None:
    copy.text(file, [one if isinstance(one, str) else json.dumps(one) for one in resources])


@pytest.fixture
def cohort_of(copy: Copy) -> Callable[..., list[Exam]]:
    def make(*options: str) -> list[Exam]:
        out = copy.root.parent / "cohort"
        assert (
            main(["cohort", f"fhir:{copy.root}", "--out", str(out), "--overwrite", *options]) == 0
        )
        return list(SOURCES["cohort"].read(str(out), FIELDS))

    return make


def said(copy: Copy) -> dict[str, int]:
    """Reasons and remarks of the flow, and how often."""
    flow = json.loads((copy.root.parent / "cohort" / "cohort.json").read_text())["flow"]
    steps = {step["reason"]: step["films"] for step in flow["steps"]}
    return steps | {remark["what"]: remark["count"] for remark in flow["remarks"]}


def test_values_units_and_components(copy: Copy, cohort_of: Callable[..., list[Exam]]) -> None:
    def part(code: str, value: float) -> dict[str, Any]:
        whole = sign(code, value, "mm[Hg]")
        return {key: whole[key] for key in ("code", "valueQuantity")}

    panel = sign("85354-9", 0, "1", component=[part("8480-6", 120), part("8462-4", 80)])
    del panel["valueQuantity"]
    below = sign("59408-5", 90, "%")
    below["valueQuantity"]["comparator"] = "<"
    inches = sign("8302-2", 70, "")
    inches["valueQuantity"] = {"value": 70, "unit": "in"}
    write(
        copy, PATIENT, panel, below, inches,
        sign("29463-7", 160, "[lb_av]"),
        sign("8310-5", 98.6, "[degF]"),
        sign("8867-4", 70, "{beats}/min", effectiveDateTime="2020-05-01"),
        sign("8867-4", 90, "/min", status="entered-in-error"),
        sign("9279-1", 15, "/min", effectiveDateTime="2020-06"),
        sign("39156-5", 20, "kg/m2", subject={"reference": "Patient/b2"}),
        sign("39156-5", 20, "kg/m2", subject={"reference": "Group/a1"}),
        sign("718-7", 14, "g/dL"),
    )  # fmt: skip
    (film,) = cohort_of()
    assert film.ehr == pytest.approx(
        {
            "age": 21915 / 365.25, "sex": 0, "systolic": 120, "diastolic": 80, "height": 177.8,
            "weight": 160 * 0.45359237, "temperature": 37, "heart_rate": 70,
            "bmi": 160 * 0.45359237 / 1.778**2,
        }
    )  # fmt: skip
    assert said(copy) == {
        "observations entered in error, cancelled or not made, not used": 1,
        "observations of no patient, not used": 1,
        "observations without a day, not used": 1,
        "spo2: readings with no number, not used": 1,
        "bmi: from weight and height, where it was not recorded": 1,
    }


def test_periods_instants_and_the_nearest(copy: Copy, cohort_of: Callable[..., list[Exam]]) -> None:
    def at(code: str, value: float, unit: str, **when: Any) -> dict[str, Any]:
        return {**sign(code, value, unit), "effectiveDateTime": None, **when}

    write(
        copy, PATIENT,
        at("29463-7", 60, "kg", effectivePeriod={"start": "2020-05-30", "end": "2020-06-02"}),
        at("29463-7", 61, "kg", effectiveInstant="2020-06-02T23:00:00.5+02:00"),
        at("8302-2", 170, "cm", effectivePeriod={"end": "2020-06-01"}),
        sign("8310-5", 37, "Cel", effectiveDateTime="2019-01-01"),
    )  # fmt: skip
    (film,) = cohort_of()
    assert (film.ehr["weight"], film.ehr["height"]) == (61, 170)
    assert "temperature" not in film.ehr
    assert said(copy)["values of the record from after the film"] == 1


@pytest.mark.parametrize(
    ("born", "days"),
    [("1960", 21885), ("1960-06", 21901), ("1960-06-01", 21915), ("in June", None)],
)
def test_a_birth_of_which_the_year_or_the_month_is_known(
    copy: Copy, cohort_of: Callable[..., list[Exam]], born: str, days: int | None
) -> None:
    write(copy, {**PATIENT, "birthDate": born, "gender": "other"})
    (film,) = cohort_of()
    assert film.ehr == ({} if days is None else {"age": pytest.approx(days / 365.25)})


def test_the_last_version_of_an_observation_counts(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    first, last = ({"lastUpdated": f"2020-06-0{day}T00:00:00Z"} for day in (1, 2))
    write(
        copy, PATIENT,
        sign("29463-7", 80, "kg", id="w", meta=last), sign("29463-7", 60, "kg", id="w", meta=first),
        sign("8302-2", 170, "cm", id="h", meta=first),
        sign("8302-2", 170, "cm", id="h", meta=last, status="entered-in-error"),
    )  # fmt: skip
    (film,) = cohort_of()
    assert film.ehr["weight"] == 80 and "height" not in film.ehr


def test_bundles_and_gzip(copy: Copy, cohort_of: Callable[..., list[Exam]]) -> None:
    one = sign("29463-7", 80, "kg", subject={"reference": "urn:uuid:a1"})
    two = sign("8302-2", 170, "cm", subject={"reference": "https://x/fhir/Patient/a1/_history/2"})
    bundle = {"resourceType": "Bundle", "entry": [{"resource": PATIENT}, {"resource": one}, {}, 7]}
    (copy.root / "deep").mkdir()
    (copy.root / "deep" / "b.json").write_text(json.dumps(bundle))
    with gzip.open(copy.root / "Observation.000.ndjson.gz", "wt") as lines:
        lines.write(json.dumps(two) + "\n")
    (film,) = cohort_of()
    assert (film.ehr["weight"], film.ehr["height"]) == (80, 170)
    whole = (copy.root / "Observation.000.ndjson.gz").read_bytes()
    (copy.root / "Observation.000.ndjson.gz").write_bytes(whole[:-9])
    assert main(["cohort", f"fhir:{copy.root}", "--out", str(copy.root.parent / "c")]) == 2


def test_what_is_hostile_is_counted(
    copy: Copy, cohort_of: Callable[..., list[Exam]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LINE", 10_000)
    deep = '{"resourceType": "Patient", "x": ' + "[" * 4000 + "]" * 4000 + "}"
    long = json.dumps({**PATIENT, "id": "z", "text": "x" * 50_000})
    odd: list[object] = [
        {**sign("29463-7", 1, "kg"), key: value}
        for key in [
            "subject",
            "code",
            "effectiveDateTime",
            "valueQuantity",
            "component",
            "meta",
            "id",
            "status",
        ]
        for value in (None, 3, [], {}, [[]], "\ud800", {"coding": [3]}, {"value": "\ud800"})
    ]
    huge = '{"resourceType": "Observation", "valueQuantity": {"value": 1' + "0" * 5000 + "}}"
    write(copy, PATIENT, deep, long, '{"resourceType": "Patient"', '["Patient"', "[]", "null", huge,
         *odd, {**PATIENT, "identifier": "\ud800", "id": 4}, sign("8302-2", 170, "cm"),
         sign("8302-2", float("nan"), "cm"), sign("8302-2", 10**400, "cm"))  # fmt: skip
    (copy.root / "notes.json").write_text("not JSON")
    (film,) = cohort_of()
    assert film.ehr["height"] == 170
    counts = said(copy)
    # deep, long, two cut, [] and null (which are no line of an export), huge, notes.json
    assert counts["FHIR lines or files that cannot be read, or are too long"] == 8
    assert counts["height: readings with no number, not used"] == 2


def test_films_from_media_and_documents(copy: Copy, cohort_of: Callable[..., list[Exam]]) -> None:
    (copy.root / "films.csv").unlink()
    chest = {"PatientID": "X", "BodyPartExamined": "CHEST", "ViewPosition": "AP",
             "StudyDate": "20200601"}  # fmt: skip
    copy.dicom("films/one", copy.film(1), **chest)
    copy.dicom("films/side", copy.film(1), **{**chest, "ViewPosition": "LL"})

    def media(url: str, kind: str = "image/png", **more: Any) -> dict[str, Any]:
        return {
            "resourceType": "Media", "status": "completed", "createdDateTime": "2020-06-01",
            "subject": {"reference": "Patient/a1"}, "content": {"contentType": kind, "url": url},
            **more,
        }  # fmt: skip

    pa = {"view": {"coding": [{"system": "http://snomed.info/sct", "code": "272479007"}]}}
    document = {
        "resourceType": "DocumentReference", "status": "current",
        "subject": {"reference": "Patient/a1"},
        "content": [{"attachment": {"contentType": "application/dicom", "url": f"{url}"}}
                    for url in (f"file://{copy.root}/films/one", "films/side")],
    }  # fmt: skip
    write(
        copy, PATIENT, document, media("./a.png", **pa), media("b.png", **pa), media("a.png"),
        media("http://pacs/x.png", **pa), media("Binary/7", "application/pdf"),
        media("a.png", status="entered-in-error"), sign("29463-7", 80, "kg"),
    )  # fmt: skip
    films = cohort_of()
    assert sorted(str(film.view) for film in films) == ["AP", "PA"]
    assert all(film.ehr["weight"] == 80 and film.ehr["sex"] == 0 for film in films)
    assert said(copy) == {
        "Media and documents that are neither DICOM, PNG nor JPEG": 1,
        "neither PA nor AP": 1,
        "its file is not in the folder": 1,
        "frontal or lateral is not stated": 1,
        "not a local file; nothing is fetched": 1,
        "its status is not that of a finished film": 1,
    }


class Server(ThreadingHTTPServer):
    """A FHIR server in this process, two resources a page; remembers what it was asked."""

    def __init__(self, resources: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.resources, self.asked, self.tokens = resources, [""], {""}
        self.trick = ""
        self.address = f"http://127.0.0.1:{self.server_address[1]}/fhir"


class Answers(BaseHTTPRequestHandler):
    """Searches by id, identifier and patient; `trick` makes it misbehave."""

    server: Server

    def do_GET(self) -> None:
        """One page of a search."""
        parts = urlsplit(self.path)
        self.server.asked.append(self.path)
        self.server.tokens.add(self.headers.get("Authorization", ""))
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        kind = parts.path.rpartition("/")[2]
        if self.server.trick == "401":
            self.send_error(401)
            return
        if self.server.trick == "redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            return
        expected = {"_id": "id", "identifier": "name", "patient": "of"}
        key = next(key for key in expected if key in query)
        collected = [r for r in self.server.resources if r["resourceType"] == kind
                 and ({"id": r.get("id"), "name": _name(r), "of": _of(r)}[expected[key]]
                      in query[key].split(","))]  # fmt: skip
        page = int(query.get("page", 0))
        onward = f"?{parts.query}&page={page + 1}" if "page" not in query else \
            f"?{parts.query.replace(f'page={page}', f'page={page + 1}')}"  # fmt: skip
        if self.server.trick == "loop":
            onward = f"?{parts.query}"
        link = [{"relation": "next", "url": parts.path + onward}]
        if self.server.trick == "elsewhere":
            link = [{"relation": "next", "url": "http://127.0.0.1:9/fhir/Patient?page=1"}]
        some = collected[2 * page : 2 * page + 2]
        last = 2 * page + 2 >= len(collected) and self.server.trick not in ("loop", "elsewhere")
        body = {"resourceType": "Bundle", "link": [] if last else link,
                "entry": [{"resource": r} for r in some]}  # fmt: skip
        text = b"<html>" if self.server.trick == "html" else json.dumps(body).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _name(resource: dict[str, Any]) -> str:
    return (resource.get("identifier") or [{}])[0].get("value", "")


def _of(resource: dict[str, Any]) -> str:
    return resource.get("subject", {}).get("reference", "").removeprefix("Patient/")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    other = {**PATIENT, "id": "b2", "identifier": [{"value": "MRN8"}]}
    values = [sign("29463-7", 80 + day, "kg", effectiveDateTime=f"2020-06-{day:02d}")
              for day in range(5, 0, -1)]  # fmt: skip
    theirs = sign("8302-2", 150, "cm", subject={"reference": "Patient/b2"})
    with Server([PATIENT, other, *values, theirs]) as output:
        threading.Thread(target=output.serve_forever, daemon=True).start()
        yield output
        output.shutdown()


def test_a_server_is_asked_for_the_patients_of_the_films_alone(
    copy: Copy,
    cohort_of: Callable[..., list[Exam]],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(reading.TOKEN, "abc")
    (film,) = cohort_of("--record", server.address)
    assert film.ehr["weight"] == 81  # on the third page
    assert film.ehr["sex"] == 0 and "height" not in film.ehr
    assert server.tokens == {"", "Bearer abc"}
    assert not any("b2" in asked for asked in server.asked)
    assert "abc" not in (copy.root.parent / "cohort" / "cohort.json").read_text()


def test_a_server_as_the_record_of_a_dicom_folder(
    copy: Copy, tmp_path: Path, server: Server
) -> None:
    archive = Copy(root=tmp_path / "archive", patients=8, seed=0, size=64)
    archive.dicom("a", archive.film(0), PatientID="MRN7", BodyPartExamined="CHEST",
                  ViewPosition="PA", StudyDate="20200601")  # fmt: skip
    out = str(copy.root.parent / "cohort")
    arguments = ["cohort", f"dicom:{archive.root}", "--record", f"fhir:{server.address}"]
    assert main([*arguments, "--out", out]) == 0
    (film,) = SOURCES["cohort"].read(out, FIELDS)
    assert film.ehr["weight"] == 81 and film.ehr["sex"] == 0


@pytest.mark.parametrize(
    ("trick", "error"),
    [
        ("401", "answered 401; set NOFINDING_FHIR_TOKEN"),
        ("redirect", "leads to another address, which is not followed"),
        ("elsewhere", "next page is on another server"),
        ("loop", "have no end"),
        ("html", "something else than a Bundle"),
    ],
)
def test_a_server_that_misbehaves(
    copy: Copy, server: Server, trick: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.trick = trick
    out = copy.root.parent / "cohort"
    arguments = ["cohort", f"fhir:{copy.root}", "--record", server.address, "--out", str(out)]
    assert main(arguments) == 2
    output = capsys.readouterr().err.strip()
    assert error in output and len(output.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("place", "record", "error"),
    [
        ("http://127.0.0.1:9/fhir", None, "films lie in a folder"),
        (None, "http://me:secret@host/fhir", "give the server's base address alone"),
        (None, "http://hospital.example/fhir", "is not sent over http; give https"),
        (None, "http://127.0.0.1:9/fhir", "does not answer"),
        (None, "/nowhere/at/all", "is neither a folder nor http(s)"),
    ],
)
def test_a_place_that_has_no_record(
    copy: Copy, place: str | None, record: str | None, error: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(reading.TOKEN, "abc")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    arguments = ["cohort", f"fhir:{place or copy.root}", "--out", str(copy.root.parent / "c")]
    assert main([*arguments, *(["--record", record] if record else [])]) == 2
    output = capsys.readouterr().err
    assert error in output and "secret" not in output


@pytest.mark.parametrize("base", ["urn:uuid:", "http://server/fhir/Patient/"])
@pytest.mark.parametrize("own", [None, "p7"])
def test_an_entry_is_known_by_its_full_url(
    copy: Copy, cohort_of: Callable[..., list[Exam]], base: str, own: str | None
) -> None:
    url = f"{base}0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"
    patient = {k: v for k, v in PATIENT.items() if k != "id"} | ({"id": own} if own else {})
    write(copy, {"resourceType": "Bundle", "type": "collection", "entry": [
        {"fullUrl": "urn:uuid:1", "resource": sign("39156-5", 31, "kg/m2",
                                                   subject={"reference": url})},
        {"fullUrl": url, "resource": patient},
    ]}, file="bundle.json")  # fmt: skip
    copy.text("films.csv", ["patient,path,taken", "MRN7,a.png,2020-06-01 12:00:00"])
    (film,) = cohort_of()
    assert film.ehr["bmi"] == 31 and film.ehr["sex"] == 0
