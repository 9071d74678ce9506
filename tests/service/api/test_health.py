"""Live, ready, metrics, drift, and the description of it all."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from nofinding.data.ehr import FIELDS
from nofinding.scoring.predictor import Resident
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import Queue
from nofinding.storage import checkpoint
from support.service_app import Pool, app_for, client_of, done_job, home_in, png


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_in(tmp_path)


def test_ready_is_when_films_are_taken_and_scored(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool()
    client = client_of(app_for(home, pool=pool))
    assert client.get("/live").json() == {"live": True}
    assert client.get("/ready").status_code == 200
    pool.ready = 0
    answer = client.get("/ready")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    assert answer.json() == {"ready": False, "workers": 0, "queue": True, "disk": True}
    pool.ready, home.spool.keep_free = 1, 2**62
    assert client.get("/ready").json()["disk"] is False
    home.spool.keep_free = 0

    def broken(queue: Queue) -> None:
        raise OSError

    monkeypatch.setattr(Queue, "counts", broken)
    assert client.get("/ready").json()["queue"] is False
    assert client.get("/live").status_code == 200


def test_metrics_count_what_there_is_and_name_nothing(home: Home) -> None:
    client = client_of(app_for(home, pool=Pool(ready=2, deaths=3)))
    client.get("/metrics")
    job = done_job(home)
    client.post("/v1/films", files={"film": ("f", png())})
    client.get(f"/v1/jobs/{job.id}")
    text = client.get("/metrics").text
    entries = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert entries["nofinding_jobs", "waiting"] == entries["nofinding_jobs", "done"] == 1
    assert (
        entries["nofinding_queue_depth",] == 1 and entries["nofinding_queue_oldest_seconds",] >= 0
    )
    assert entries["nofinding_job_seconds_count",] == 1
    assert (
        entries["nofinding_workers_ready",] == 2 and entries["nofinding_worker_deaths_total",] == 3
    )
    assert (
        entries["nofinding_deliveries", "failed"] == 0 and entries["nofinding_model", "adult"] == 1
    )
    assert entries["nofinding_disk_free_bytes",] > 0
    assert entries["nofinding_http_requests_total", "GET", "/v1/jobs/{job}", "200"] == 1
    assert not re.search("[0-9a-f]{32}", text)
    again = client.get("/metrics").text
    assert "nofinding_job_seconds_count 1.0" in again  # a film is counted once


def model_with_gate(folder: Path) -> None:
    """What drift reads of a model: its gate's points, and what its record was in training."""
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.standard_normal((60, 12))).float()
    tensors = {
        "reference.points": points,
        "reference.scores": torch.from_numpy(rng.random(60)),
    }
    record = {
        "fields": [{"name": "age", "kind": "numeric", "unit": "a", "categories": []}],
        "mean": [50.0], "std": [10.0], "known": [30],
    }  # fmt: skip
    meta = {"gate": {"fitted": True}, "record": record, "counts": {"train normals": 60},
            "calibration": {"scores": [1.0, 2.0, 3.0]}, "format": 1}  # fmt: skip
    checkpoint.save(folder / "model", {"x": torch.zeros(1)}, meta)
    checkpoint.save(folder / "gate", tensors, {"format": 1})


def test_drift_is_told_by_model_and_by_day(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    model_with_gate(folder)
    result = checkpoint.load(folder / "gate")[0]
    known = (result["reference.points"].double().numpy(), result["reference.scores"].numpy())
    monkeypatch.setattr("nofinding.service.monitoring.reference_of", lambda folder: known)
    sha256 = checkpoint.load(folder / "model")[1]["sha256"]
    client = client_of(app_for(home, folder))
    assert client.get("/v1/drift").json() == {"models": {}, "refused": [], "films": 0}
    rng = np.random.default_rng(1)
    for number in range(35):
        point = (3 + rng.standard_normal(12)).tolist()
        about = {"model": "ours", "sha256": sha256, "point": point, "p_value": 0.01 * number}
        done_job(home, f"film {number}", about)
    none = {"model": None, "sha256": None, "score": None, "p_value": None}
    done_job(home, "refused", {**none, "refused": "is no chest film"})
    done_job(home, "older", {"model": "ours", "sha256": "f" * 64})
    assert client.get("/v1/drift").json()["films"] == 0  # an answer is good for a minute
    monkeypatch.setattr("nofinding.service.monitoring.FRESH", -1.0)
    payload = client.get("/v1/drift").json()
    ours = payload["models"]["ours"]
    assert ours["tested"] and ours["alarming"] and "unlike those" in ours["line"]
    assert (ours["n"], ours["patients"]) == (35, 35) and ours["p"] <= 0.01
    (day,) = ours["days"]
    assert (day["n"], day["refused"]) == (36, 1) and day["share_p05"] == pytest.approx(6 / 35)
    assert (day["median_score"], day["median_p"]) == (1.5, pytest.approx(0.17))
    (age,) = (row for row in ours["record"] if row["field"] == "age")
    assert (age["median"], age["known_share"]) == (63.0, 1.0)
    assert (age["training_mean"], age["training_known_share"]) == (50.0, 0.5)
    assert ours["median_calibration_score"] == 2.0
    other = payload["models"]["ours ffffffff"]
    assert not other["tested"] and "not the one that scores now" in other["why"]
    assert [row["n"] for row in payload["refused"]] == [1]


def test_drift_counts_a_patient_once_and_says_where_there_are_too_few(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    model_with_gate(folder)
    known = (np.zeros((60, 12)), np.zeros(60))
    monkeypatch.setattr("nofinding.service.monitoring.reference_of", lambda folder: known)
    sha256 = checkpoint.load(folder / "model")[1]["sha256"]
    for number in range(31):
        home.queue.offer(f"f{number}", "d", {"file": "f", "patient": f"p{number // 2}"})
        (job,) = home.queue.claim()
        said: dict[str, Any] = {"model": "ours", "sha256": sha256, "point": [0.0] * 12}
        home.queue.done(job, {**said, "score": 1.0})
    payload = client_of(app_for(home, folder)).get("/v1/drift").json()["models"]["ours"]
    assert not payload["tested"] and payload["why"].startswith("16 patients among the scored")


def test_drift_reads_the_points_of_a_real_gate() -> None:
    from nofinding.model.input_gate import reference_of
    from nofinding.model.pretrained import model_folder

    result = reference_of(model_folder("adult"))
    assert result is not None
    resident = Resident("adult", accelerator="cpu")
    own = resident.loaded("adult").gatekeeper.own
    assert own is not None
    points = own.tensors["reference.points"].double().numpy()
    scores = own.tensors["reference.scores"].numpy()
    np.testing.assert_array_equal(result[0], points)
    np.testing.assert_array_equal(result[1], scores)


def test_a_damaged_model_is_said_in_one_line(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "model.json").write_text("{")
    done_job(home, payload={"model": "ours"})
    answer = client_of(app_for(home, folder)).get("/v1/drift")
    assert answer.status_code == 503 and answer.json() == {"error": "the model's folder is damaged"}


def test_fields_are_told_with_their_units(home: Home) -> None:
    rows = client_of(app_for(home)).get("/v1/fields").json()["fields"]
    assert [row["field"] for row in rows] == [*FIELDS]
    assert rows[0] == {"field": "age", "kind": "numeric", "unit": "a", "low": 0, "high": 120,
                       "categories": []}  # fmt: skip


def test_the_pages_need_nothing_from_outside(home: Home) -> None:
    client = client_of(app_for(home))
    page = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in page
    assert "<script" not in page and "://" not in page.replace("stow:https://pacs.example", "")
    root = client.get("/", follow_redirects=False)
    assert root.status_code == 307 and root.headers["location"] == "/viewer/"
