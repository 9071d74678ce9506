"""score --record and export --fhir, from the command line, against a server in this process."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nofinding.cli import main
from nofinding.clinical.fhir.client import Finder
from nofinding.data.decoding.decode import read_identity
from nofinding.data.ehr import FIELDS
from nofinding.data.nearest_value import EhrWindow
from nofinding.datasets.examples import EXAMPLES, Copy
from nofinding.datasets.local.single_files import Known, file_exams
from nofinding.model.bundle import load_model
from nofinding.scoring.ehr_lookup import window_of
from nofinding.scoring.job import prepare
from nofinding.scoring.options import ScoreOptions
from nofinding.service.delivery.connections import lookup_of
from nofinding.service.options import ServiceOptions
from nofinding.storage import checkpoint
from support.fhir_server import FhirServer, Resource, observation, patient

UID = "1.2.826.0.1.3680043.8.498"
TAGS = {
    "PatientID": "MRN-CANARY", "PatientName": "Canary^Name", "PatientBirthDate": "19600601",
    "StudyInstanceUID": f"{UID}.1", "SeriesInstanceUID": f"{UID}.2", "StudyDate": "20200601",
    "StudyTime": "120000",
}  # fmt: skip
PHANTOM = "phantom:train=12,val=8,test=0,abnormal=0,size=64"
RESOURCES: list[Resource] = [
    patient(mrn="MRN-CANARY"),
    observation("29463-7", 64, "kg", "2020-05-30T10:00:00Z"),
    observation("8302-2", 165, "cm", "2020-05-30T10:00:00Z"),
    observation("8867-4", 71, "/min", "2020-06-02"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "model"
    fit = ["fit", "thumbnail", "--films", PHANTOM, "--gate", "none", "--out", str(out)]
    assert main(fit) == 0
    return out


@pytest.fixture
def film(tmp_path: Path) -> Path:
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    return copy.dicom("film.dcm", copy.film(0), **{**TAGS, "PatientWeight": "70"})


@pytest.fixture
def server() -> Iterator[FhirServer]:
    with FhirServer(RESOURCES) as output:
        yield output


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_what_is_stated_comes_before_the_header_and_that_before_the_record(
    film: Path, model: Path, server: FhirServer, tmp_path: Path
) -> None:
    options = ScoreOptions(out=tmp_path / "s", model=str(model), ehr=["sex=M"], zone="UTC",
                           record=f"fhir:{server.url}", gate="off")  # fmt: skip
    (record,) = prepare([str(film)], options).films
    assert record.ehr == pytest.approx({
        "sex": 1, "weight": 70, "height": 165, "age": 21915 / 365.25, "bmi": 64 / 1.65**2,
        "heart_rate": 71,
    })  # fmt: skip
    assert record.flags == ()


def test_a_pressure_is_not_paired_with_that_of_another_time(film: Path) -> None:
    known = [Known({"systolic": 120.0, "diastolic": 80.0, "height": 165.0}, ())]
    (record,) = file_exams([film], ["systolic=150"], FIELDS, known)
    assert record.ehr == {"systolic": 150, "height": 165, "weight": 70, "age": 60}
    (record,) = file_exams([film], [], FIELDS, known)
    assert record.ehr["systolic"] == 120


@pytest.mark.parametrize("fault", ["", "500"])
def test_a_film_is_scored_with_or_without_an_answer(
    fault: str, film: Path, model: Path, server: FhirServer, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    server.fault = fault  # type: ignore[assignment]
    out = tmp_path / "scores"
    command = ["score", str(film), "--model", str(model), "--gate", "off", "--out", str(out)]
    assert main([*command, "--record", f"fhir:{server.url}", "--zone", "UTC"]) == 0
    (row,) = rows(out)
    assert ("the FHIR server's answer cannot be used" in row["flags"]) == bool(fault)
    output = capfd.readouterr()
    written = "".join(p.read_text() for p in out.glob("*.*"))
    assert ("nothing is known of 1 of 1 films" in output.err) == bool(fault)
    for canary in ("CANARY", "Canary", "1960", "2020-06", "20200601", UID):
        assert canary not in written + output.out + output.err
    assert json.loads((out / "run.json").read_text())["record"] == {
        "window": {"days": 90, "direction": "around"}, "zone": "UTC",
    }  # fmt: skip


def test_a_folder_is_a_record_too(film: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fhir"
    folder.mkdir()
    (folder / "all.ndjson").write_text("".join(json.dumps(one) + "\n" for one in RESOURCES))
    options = ScoreOptions(out=tmp_path / "s", model=str(model), record=str(folder), gate="off")
    (record,) = prepare([str(film)], options).films
    assert record.ehr["height"] == 165


def test_results_are_written_and_sent(
    film: Path, model: Path, server: FhirServer, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    scores, out = tmp_path / "scores", tmp_path / "dicom"
    command = ["score", str(film), "--model", str(model), "--gate", "off", "--out", str(scores)]
    assert main(command) == 0
    export = ["export", str(film), "--scores", str(scores), "--out", str(out), "--fhir",
              "--patient-system", "urn:oid:1.2.3"]  # fmt: skip
    assert main([*export, "--send-fhir", server.url]) == 0
    assert (out / "film.report.dcm").exists()
    bundle = json.loads((out / "film.fhir.json").read_text())
    assert server.received == [bundle]
    (report,) = server.of("DiagnosticReport")
    assert report["subject"]["identifier"] == {"system": "urn:oid:1.2.3", "value": "MRN-CANARY"}
    score = float(rows(scores)[0]["score"])
    assert score in [o["valueQuantity"]["value"] for o in server.of("Observation")]
    output = capfd.readouterr()
    assert "CANARY" not in (output.out + output.err).upper() and "1 results sent" in output.err
    server.fault = "422"
    export[export.index(str(out))] = str(tmp_path / "again")
    assert main([*export, "--send-fhir", server.url]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "answered 422; 0 of 1 results were sent, the files are written" in error
    assert (tmp_path / "again" / "film.fhir.json").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--record", "http://127.0.0.1:9/fhir", "--films", PHANTOM], "single DICOM FILEs"),
        (["--record", "/nowhere", "FILM"], "is neither a folder nor http"),
        (["--record", "http://127.0.0.1:9/fhir", "PNG"], "is not a DICOM file"),
        (["--record", "http://127.0.0.1:9/fhir", "ABSENT"], "does not exist"),
        (["--record", "http://me:secret@host/fhir", "FILM"], "base address alone"),
        (["--record", "http://127.0.0.1:9", "--zone", "Mars", "FILM"], "no time zone"),
        (["--record", "http://127.0.0.1:9", "--engine", "ray", "FILM"], "--engine ray"),
    ],
)
def test_a_fault_is_one_line(
    arguments: list[str], error: str, film: Path, model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    copy = Copy(root=tmp_path / "png", patients=8, seed=0, size=64)
    names = {"FILM": str(film), "PNG": str(copy.picture("a.png", copy.film(0))),
             "ABSENT": str(tmp_path / "absent.dcm")}  # fmt: skip
    given = [names.get(one, one) for one in arguments]
    assert main(["score", *given, "--model", str(model), "--out", str(tmp_path / "s")]) == 2
    output = capsys.readouterr().err.strip()
    assert error in output and len(output.splitlines()) == 1 and "secret" not in output
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("tags", "arguments", "error"),
    [
        ({"PatientID": None}, ["--fhir"], "has no patient id"),
        ({}, ["--send-fhir", "nowhere"], "is no address of a FHIR server"),
    ],
)
def test_what_cannot_be_sent_is_not_written(
    tags: dict[str, None], arguments: list[str], error: str, model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    film = str(copy.dicom("film.dcm", copy.film(0), **{**TAGS, **tags}))
    scores, out = str(tmp_path / "scores"), tmp_path / "dicom"
    assert main(["score", film, "--model", str(model), "--gate", "off", "--out", scores]) == 0
    capsys.readouterr()
    assert main(["export", film, "--scores", scores, "--out", str(out), *arguments]) == 2
    output = capsys.readouterr().err.strip()
    assert error in output and len(output.splitlines()) == 1
    assert not out.exists()


def with_window(model: Path, to: Path, window: EhrWindow | None) -> Path:
    """A copy of the model with another window, or with none, as older ones are."""
    tensors, meta = checkpoint.load(model / "model")
    meta.pop("ehr_window")
    if window is not None:
        meta["ehr_window"] = window.to_json()
    to.mkdir()
    for name in ("README.md", "twins.json", "twins.safetensors"):
        (to / name).write_bytes((model / name).read_bytes())
    checkpoint.save(to / "model", tensors, meta)
    return to


def test_a_model_looks_values_up_by_its_own_window(
    film: Path, model: Path, server: FhirServer, tmp_path: Path
) -> None:
    for number, (window, height, pulse) in enumerate((
        (EhrWindow(), True, True),
        (EhrWindow(days=1), False, True),
        (EhrWindow(direction="before"), True, False),
    )):  # fmt: skip
        own = with_window(model, tmp_path / f"model{number}", window)
        options = ScoreOptions(out=tmp_path / "s", model=str(own), zone="UTC", gate="off",
                               record=server.url)  # fmt: skip
        (exam,) = prepare([str(film)], options).films
        assert ("height" in exam.ehr, "heart_rate" in exam.ehr) == (height, pulse)
        service = ServiceOptions(home=tmp_path / "home", model=str(own), record=server.url)
        lookup = lookup_of(service)
        assert isinstance(lookup, Finder) and lookup.asking.window == window
        assert ("heart_rate" in lookup(film, read_identity(film)).ehr) == pulse


def test_a_model_without_a_window_takes_the_default_and_says_so(
    film: Path, model: Path, server: FhirServer, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    old = with_window(model, tmp_path / "old", None)
    options = ScoreOptions(out=tmp_path / "s", model=str(old), record=server.url, gate="off")
    prepare([str(film)], options)
    said = "the model does not say when a value of the EHR counts; 90 days around the film does"
    assert capfd.readouterr().err.count(said) == 1
    assert window_of("auto") == EhrWindow()


def test_a_cohort_and_its_model_have_one_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cdm"
    EXAMPLES["omop"](Copy(root=root, patients=40, seed=0, size=64))
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_text("0123456789abcdef")
    other = ["--key", str(tmp_path / "key")]
    for name, extra in (("a", ["--window", "30", "--direction", "before"]), ("b", other)):
        assert main(["cohort", f"omop:{root}", "--out", str(tmp_path / name), *extra]) == 0
    out = tmp_path / "model"
    fit = ["fit", "thumbnail", "--gate", "none", "--calibrate", "train", "--out"]
    assert main([*fit, str(out), "--films", f"cohort:{tmp_path / 'a'}"]) == 0
    assert load_model(out).ehr_window == EhrWindow(days=30, direction="before")
    assert "at most 30 days before the film" in (out / "README.md").read_text()
    capsys.readouterr()
    score = ["score", "--model", str(out), "--out", str(tmp_path / "s"), "--gate", "off"]
    assert main([*score, "--films", f"cohort:{tmp_path / 'b'}"]) == 2
    assert "counts 90 days around the film, for the model 30 days before" in capsys.readouterr().err
    both = [f"cohort:{tmp_path / name}" for name in "ab"]
    assert main([*fit, str(tmp_path / "m"), "--films", *both]) == 2
    assert "with one --window and --direction" in capsys.readouterr().err
