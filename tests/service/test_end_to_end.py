"""From the scanner to the archive and the record system, by the programs that hospitals use."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from nofinding.clinical.network.dicomweb import Archive
from nofinding.service.store.audit_log import verify_audit
from nofinding.service.store.home import Home
from support.fhir_server import FhirServer, observation, patient
from support.orthanc import Orthanc, free_port
from support.serving import dicom_film, small_model, until
from support.viewer_home import Page, browser, server

REAL = Path("../shared/data/dicom/RG1_J2KI.dcm")
WHEN = {"StudyDate": "20240110", "StudyTime": "101500", "ViewPosition": "PA"}
RECORD = [
    patient("p1", "P-0", gender="male", birthDate="1961-01-02"),
    observation("29463-7", 80.0, "kg", "2024-01-09T10:00:00Z"),
    observation("8302-2", 180.0, "cm", "2024-01-09T10:00:00Z"),
    observation("29463-7", 120.0, "kg", "2024-01-11T10:00:00Z"),
    patient("p2", "P-9"),
    observation("29463-7", 50.0, "kg", "2024-01-09T10:00:00Z", of="p2"),
]


@contextmanager
def listening(home: Path, *more: str) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """`nofinding listen` as a process of its own, and the port that it listens at."""
    port = free_port()
    command = ["listen", "--home", str(home), "--port", str(port), "--accept", "SCANNER", "ORTHANC"]
    begin = [sys.executable, "-c", "from nofinding.cli import main; raise SystemExit(main())"]
    process = subprocess.Popen(
        [*begin, *command, "--keep-free", "0", "--threads", "1", *more],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "listening as" in line:
                break
        assert process.poll() is None
        yield port, process
    finally:
        process.kill()
        process.wait()


def uid_of(film: Path) -> str:
    """Its SOP Instance UID."""
    return str(dcmread(film).SOPInstanceUID)


def storescu(port: int, *films: Path) -> None:
    """Sends films as a scanner does."""
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("storescu is not installed (Debian: dcmtk)")
    for film in films:
        syntax = ["-xw"] if "JPEG 2000" in dcmread(film).file_meta.TransferSyntaxUID.name else []
        call = ["-aet", "SCANNER", "-aec", "NOFINDING", *syntax, "127.0.0.1", str(port), str(film)]
        subprocess.run([program, *call], check=True, timeout=30)


@pytest.mark.films
def test_films_sent_by_a_scanner_are_scored_with_the_record_and_stored_in_the_archive(
    tmp_path: Path,
) -> None:
    phantom = dicom_film(tmp_path / "films", 0, size=512, **WHEN)
    films = [phantom, REAL] if REAL.exists() else [phantom]
    home = tmp_path / "home"
    with Orthanc(tmp_path) as archive, FhirServer([*RECORD]) as record:
        more = ["--record", record.url, "--send-fhir", record.url, "--zone", "UTC"]
        with listening(home, "--stow", archive.dicomweb, *more) as (port, process):
            storescu(port, *films)
            until(lambda: len(archive.instances()) == 3 * len(films))
            until(lambda: len(record.received) == len(films))
            process.send_signal(signal.SIGTERM)
            assert process.wait(35) == 0
        study = str(dcmread(phantom).StudyInstanceUID)
        asked = archive.ask(f"/dicom-web/studies/{study}/instances?includefield=00080060")
        assert sorted(row["00080060"]["Value"][0] for row in asked) == ["OT", "OT", "SR"]
        assert Archive(archive.dicomweb).studies() == []  # of ours none is taken for a film
        back = [archive.file(name) for name in archive.instances()]
        (tmp_path / "back").mkdir()
        for number, data in enumerate(back):
            (tmp_path / "back" / f"{number}.dcm").write_bytes(data)
        reports = [dcmread(path) for path in sorted((tmp_path / "back").iterdir())]
        own = [report for report in reports if report.StudyInstanceUID == study]
        assert {report.PatientID for report in own} == {"P-0"} and len(own) == 3
    remaining = Home(home)
    (job,) = [
        j
        for j in remaining.queue.listed()
        if j.film == remaining.pseudonym("film", uid_of(phantom))
    ]
    assert verify_audit(home / "audit.log", remaining.key).entries >= 2 * len(films) + 2
    payload = [remaining.results.payload(job.id) for job in remaining.queue.listed()]
    rows = next(
        {row["field"]: (row["value"], row["source"]) for row in one["record"]}
        for one in payload
        if one is not None and any(row["field"] == "weight" for row in one["record"])
    )
    assert rows["weight"] == (80.0, "fhir") and rows["sex"] == (1.0, "fhir")
    assert rows["age"][0] == pytest.approx(63, abs=0.1) and rows["view"][1] == "header"
    assert rows["bmi"][0] == pytest.approx(80 / 1.8**2, rel=1e-3)
    (sent,) = [b for b in record.received if "P-0" in json.dumps(b)]
    assert "DiagnosticReport" in {entry["resource"]["resourceType"] for entry in sent["entry"]}
    with server(home, "--workers", "0") as url, browser(tmp_path / "profile") as driver:
        page = Page(driver, url, {})
        page.worklist()
        page.until(lambda: len(page.rows()) == len(films), "all films are in the list")
        page.film(job.id)
        page.until(lambda: job.result and f"{job.result['score']:.3g}" in page.text("body"), "it")
        visible = page.text("body")
        assert "P-0" not in visible and "esearch" in visible and "80" in visible


def test_a_killed_service_has_lost_nothing_that_it_said_it_had(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    films = [dicom_film(tmp_path / "films", number) for number in range(6)]
    home, more = tmp_path / "home", ("--model", str(model), "--wait", "0", "--batch-size", "1")
    with listening(home, *more) as (port, process):
        storescu(port, *films[:3])
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with listening(home, *more) as (port, _):
        storescu(port, *films[2:])
        until(lambda: Home(home, keep_free=0).queue.counts()["done"] == 6)
    assert len(Home(home, keep_free=0).queue.listed()) == 6


def test_what_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nofinding.cli import main

    home = ["listen", "--home", str(tmp_path / "home"), "--accept", "SCANNER"]
    for more, said in (
        (["--peers", "nonsense"], "--peers 'nonsense'"),
        (["--stow", "ftp://archive"], "--stow"),
        (["--record", "nowhere"], "--record nowhere"),
        (["--zone", "Nowhere", "--record", "http://127.0.0.1:1"], "--zone Nowhere"),
        (["--send-fhir", "nowhere"], "nowhere"),
        (["--model", str(tmp_path)], "holds no model.json"),
    ):
        assert main([*home, *more]) == 2
        output = capsys.readouterr().err.strip().splitlines()
        assert said in output[-1] and output[-1].startswith("nofinding: ")
