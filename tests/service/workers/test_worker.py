"""A worker: what is sent is scored as `score` does, kept whole, and named without the patient."""

import csv
import io
import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.uid import RLELossless

from nofinding.cli import main
from nofinding.datasets.local.single_files import Known
from nofinding.errors import UserError
from nofinding.model.bundle import load_model
from nofinding.scoring.predictor import Resident
from nofinding.service.result_schema import CONFLICT
from nofinding.service.store.home import Home
from nofinding.service.workers.worker import Worker, run_worker, shown
from nofinding.types import Exam
from support.serving import dicom_film, options_for, send, small_model, until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "ae")


@pytest.fixture
def worker(tmp_path: Path, model: Path) -> Worker:
    options = options_for(tmp_path, model)
    return Worker(Home(options.home, keep_free=0), options, "w", deliver=("stow:http://archive",))


def test_a_film_is_scored_as_on_the_command_line(
    worker: Worker, tmp_path: Path, model: Path
) -> None:
    film = dicom_film(tmp_path / "films", 0)
    home = worker.home
    job = send(home, film, {"age": 63.0}).job
    assert worker.step() == 1
    done = home.queue.get(job.id)
    assert done is not None and done.state == "done" and done.result is not None
    renamed = film.rename(tmp_path / f"{job.film}.dcm")
    out = tmp_path / "scores"
    command = ["score", str(renamed), "--model", str(model), "--out", str(out)]
    assert main([*command, "--ehr", "age=63"]) == 0
    row = next(csv.DictReader(io.StringIO((out / "scores.csv").read_text())))
    assert done.result["score"] == pytest.approx(float(row["score"]), rel=1e-5)
    assert done.result["p_value"] == pytest.approx(float(row["p_value"]))
    stored = home.results.array(job.id, "map")
    np.testing.assert_allclose(stored, np.load(out / "maps" / f"{job.film}.npy"), atol=1e-6)
    payload = home.results.payload(job.id)
    assert (
        payload is not None
        and payload["size"] == [64, 64]
        and "RESEARCH" in payload["notice"].upper()
    )
    age = next(row for row in payload["record"] if row["field"] == "age")
    assert (age["value"], age["unit"], age["source"]) == (63.0, "a", "request")
    assert sorted(home.results.objects(job.id)) == ["fhir", "map", "picture", "report"]
    assert home.queue.deliveries(job.id)[0]["target"] == "stow:http://archive"
    report = dcmread(home.results.objects(job.id)["report"])
    assert report.PatientID == "P-0"
    assert done.result["patient"] == home.pseudonym("patient", "|P-0")
    plain = (home.folder / "results" / job.id / "result.json").read_text() + str(done.result)
    assert "P-0" not in plain and "1.2.826" not in plain


def test_the_same_pixels_sent_otherwise_are_one_result_and_others_a_conflict(
    worker: Worker, tmp_path: Path
) -> None:
    home, film = worker.home, dicom_film(tmp_path / "films", 0)
    first = send(home, film).job
    assert not send(home, film).new
    data = dcmread(film)
    data.compress(RLELossless)
    data.save_as(film)
    again = send(home, film).job
    data = dcmread(dicom_film(tmp_path / "films", 0))
    data.PixelData = bytes(255 - value for value in data.PixelData)
    data.save_as(film)
    other = send(home, film).job
    for _ in range(3):
        assert worker.step() == 1  # two of one film are never worked on together
    jobs = [home.queue.get(job.id) for job in (first, again, other)]
    assert [job and job.state for job in jobs] == ["done"] * 3
    assert jobs[1] is not None and jobs[1].twin == first.id and not jobs[1].conflict
    assert jobs[0] is not None and jobs[1].result is not None and jobs[0].result is not None
    assert jobs[1].result["score"] == jobs[0].result["score"]
    assert not home.queue.deliveries(again.id) and home.queue.deliveries(other.id)
    assert jobs[2] is not None and jobs[2].conflict and jobs[2].twin is None
    payload = home.results.payload(other.id)
    assert payload is not None and CONFLICT in payload["flags"]
    assert [job.id for job in home.queue.listed(order="created")] == [first.id, other.id]


def test_a_film_that_is_none_fails_and_stops_no_other(worker: Worker, tmp_path: Path) -> None:
    home, good = worker.home, dicom_film(tmp_path / "films", 0)
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"\0" * 128 + b"DICM" + b"CANARY" * 40)
    jobs = [send(home, bad).job, send(home, good).job]
    while worker.step():
        pass
    failed, done = (home.queue.get(job.id) for job in jobs)
    assert failed is not None and failed.state == "failed" and done is not None
    assert failed.why and "CANARY" not in failed.why and str(tmp_path) not in failed.why
    assert failed.film not in failed.why
    assert done.state == "done"


def test_what_another_system_knows_fills_in_what_was_not_said(tmp_path: Path, model: Path) -> None:
    options = options_for(tmp_path, model)
    known = Known({"age": 40.0, "weight": 80.0}, ("record: 1 value of the future",))
    worker = Worker(Home(options.home, keep_free=0), options, "w", lookup=lambda *film: known)
    job = send(worker.home, dicom_film(tmp_path / "films", 0), {"age": 63.0}).job
    worker.step()
    payload = worker.home.results.payload(job.id)
    assert payload is not None and known.flags[0] in payload["flags"]
    rows = {row["field"]: (row["value"], row["source"]) for row in payload["record"]}
    assert rows["age"] == (63.0, "request") and rows["weight"] == (80.0, "fhir")


def test_a_full_disk_loses_no_job(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = worker.home
    job = send(home, dicom_film(tmp_path / "films", 0)).job
    monkeypatch.setattr("nofinding.service.workers.worker.time.sleep", lambda seconds: None)
    with monkeypatch.context() as full:

        def refuse(*_: object) -> None:
            raise OSError(28, "no space left on the device")

        full.setattr("nofinding.service.store.result_store.write_durably", refuse)
        worker.step()
        waiting = home.queue.get(job.id)
        assert waiting is not None and waiting.state == "waiting" and waiting.tries == 0
        assert not list(home.results.folder.iterdir())
    worker.step()
    done = home.queue.get(job.id)
    assert done is not None and done.state == "done"


def test_no_room_for_decoded_films_loses_no_job(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = worker.home
    job = send(home, dicom_film(tmp_path / "films", 0)).job
    monkeypatch.setattr("nofinding.service.workers.worker.time.sleep", lambda seconds: None)
    with monkeypatch.context() as full:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(28, "no space left on the device")

        full.setattr("nofinding.scoring.predictor.tempfile.TemporaryDirectory", refuse)
        for _ in range(3):
            worker.step()
    waiting = home.queue.get(job.id)
    assert waiting is not None and waiting.state == "waiting" and waiting.tries == 0
    worker.step()
    done = home.queue.get(job.id)
    assert done is not None and done.state == "done"


def test_a_damaged_audit_log_kills_no_worker(worker: Worker, tmp_path: Path) -> None:
    home = worker.home
    jobs = [send(home, dicom_film(tmp_path / "films", number)).job for number in range(2)]
    (home.folder / "audit.log").write_bytes(b"half a li")
    assert worker.step() == 2
    assert [job and job.state for job in map(home.queue.get, (j.id for j in jobs))] == ["done"] * 2


def test_a_film_waits_no_longer_where_the_clock_was_set_back(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(tmp_path, model, wait=0.2)
    worker = Worker(Home(options.home, keep_free=0), options, "w")
    send(worker.home, dicom_film(tmp_path / "films", 0))
    monkeypatch.setattr("nofinding.service.store.job_queue.time.time", lambda: 0.0)  # back to 1970
    assert worker.step() == 0
    until(worker.step, 5)


def test_a_batch_without_room_is_scored_film_by_film(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = worker.home
    jobs = [send(home, dicom_film(tmp_path / "films", number)).job for number in range(2)]
    scored, asked = Resident._scored, list[int]()

    def scarce(own: Resident, loaded: Any, exams: Sequence[Exam]) -> Any:
        asked.append(len(exams))
        if len(exams) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return scored(own, loaded, exams)

    monkeypatch.setattr(Resident, "_scored", scarce)
    assert worker.step() == 2 and asked == [2, 1, 1]
    assert [job and job.tries for job in map(home.queue.get, (j.id for j in jobs))] == [1, 1]


@pytest.mark.parametrize("error", [ValueError("CANARY^ANNA"), UserError("there is no model")])
def test_a_worker_that_dies_says_of_what_and_quotes_no_film(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("nofinding.service.workers.worker.signal.signal", lambda *_: None)
    monkeypatch.setattr("nofinding.service.workers.worker.Worker", dies)
    options = options_for(tmp_path, tmp_path)
    with pytest.raises(SystemExit) as died:
        run_worker(options, "w", None, (), multiprocessing.Pipe()[0])
    said = str(died.value.code)
    assert "CANARY" not in said and "\n" not in said
    assert "there is no model" in said or "ValueError at test_worker.py:" in said


def test_what_a_killed_process_left_of_results_goes_and_nothing_else(
    worker: Worker, tmp_path: Path
) -> None:
    home, folder = worker.home, worker.home.results.folder
    job = send(home, dicom_film(tmp_path / "films", 0)).job
    worker.step()
    left = [folder / f".{job.id}.01234567.tmp", folder / ("ab" * 16)]  # half made, forgotten
    young = folder / f".{'cd' * 16}.01234567.tmp"
    for each in (*left, young):
        (each / "objects").mkdir(parents=True)
        (each / "objects" / "report.dcm").write_bytes(b"patient")
    for each in (*left, folder / job.id):
        os.utime(each, (0, 0))
    home.sweep(keep_days=0)
    assert {*folder.iterdir()} == {young, folder / job.id}


def test_a_film_that_comes_again_is_not_swept_before_its_job_is_made(
    worker: Worker, tmp_path: Path
) -> None:
    home = worker.home
    received = home.spool.put("1.2.3", b"film")
    os.utime(received.path, (0, 0))  # of a job that is gone
    assert home.spool.put("1.2.3", b"film") == received
    home.sweep(keep_days=1)
    assert received.path.exists()


def test_a_film_of_which_no_objects_can_be_made_is_scored_all_the_same(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("'CANARY' is not a valid value")

    monkeypatch.setattr("nofinding.clinical.dicom.objects.objects_of", refuse)
    job = send(worker.home, dicom_film(tmp_path / "films", 0)).job
    worker.step()
    done = worker.home.queue.get(job.id)
    assert done is not None and done.state == "done" and not worker.home.results.objects(job.id)
    assert "ValueError" in caplog.text and "CANARY" not in caplog.text


@pytest.mark.parametrize("damaged", ["adult", "paediatric"])
def test_a_worker_takes_no_film_before_it_has_every_model_that_it_may_need(
    damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: Path) -> Any:
        if folder.name == damaged:
            raise UserError("the model is damaged")
        return load_model(folder)

    monkeypatch.setattr("nofinding.scoring.predictor.load_model", load)
    options = options_for(tmp_path, Path("auto"))
    with pytest.raises(UserError, match="the model is damaged"):
        Worker(Home(options.home, keep_free=0), options, "w")


def test_a_large_film_is_shown_smaller_and_a_small_one_as_it_is() -> None:
    assert shown(np.ones((3000, 1500), np.float32)).shape == (1024, 512)
    small = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(shown(small), (small * 65535).round().astype(np.uint16))


def test_the_home_is_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", keep_free=0)
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
    assert Home(tmp_path / "home", keep_free=0).key == home.key
    assert json.dumps(home.pseudonym("film", "1.2.3")).count("1.2.3") == 0


def test_what_is_old_is_deleted_and_what_is_still_to_be_sent_is_not(
    worker: Worker, tmp_path: Path
) -> None:
    home = worker.home
    names = []
    for number in range(3):
        names.append(send(home, dicom_film(tmp_path / "films", number)).job.id)
        worker.step()
    for _ in names[1:]:
        delivery = home.queue.due(1e12, worker.deliver)
        assert delivery is not None
        home.queue.delivered(delivery)
    send(home, dicom_film(tmp_path / "films", 3))
    stray = home.spool.put("1.2.3", b"never became a job")
    for file in home.spool.folder.iterdir():
        os.utime(file, (0, 0))
    assert home.sweep(keep_days=1) == 0 and not stray.path.exists()
    assert len([*home.spool.folder.iterdir()]) == 4
    assert home.sweep(keep_days=1e-9) == 2
    assert len([*home.spool.folder.iterdir()]) == 2  # to be sent, and to be scored
    assert [path.name for path in home.results.folder.iterdir()] == names[-1:]
