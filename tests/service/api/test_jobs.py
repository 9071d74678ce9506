"""What is read back of a job: lists, results, pictures, a report, DICOM objects, what-if jobs."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from nofinding.service.store import feedback as stored
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import QueuedJob
from support.service_app import TOLD, Pool, app_for, client_of, done_job, home_in


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_in(tmp_path)


@pytest.fixture
def client(home: Home) -> TestClient:
    return client_of(app_for(home))


@pytest.fixture
def job(home: Home) -> QueuedJob:
    return done_job(home)


def audited(home: Home) -> list[str]:
    lines = (home.folder / "audit.log").read_text().splitlines()
    return [json.loads(line)["what"] for line in lines]


def test_films_are_listed_in_the_order_asked_for(client: TestClient, home: Home) -> None:
    for name, p in (("a", 0.5), ("b", None), ("c", 0.01)):
        done_job(home, name, {"p_value": p, "score": float("nan") if name == "b" else 1.0})
    home.queue.offer("d", "x", {"file": "f"})

    def names(**query: Any) -> list[str]:
        return [job["film"] for job in client.get("/v1/jobs", params=query).json()["jobs"]]

    assert names()[:2] == ["c", "a"] and names(descending=True)[:2] == ["a", "c"]
    assert names(state="waiting") == ["d"] and names(most=1, skip=1) == ["a"]
    payload = client.get("/v1/jobs").json()
    assert payload["counts"] == {"waiting": 1, "working": 0, "done": 3, "failed": 0}
    assert [job["score"] for job in payload["jobs"] if job["film"] == "b"] == [None]
    for query in ("most=501", "most=0", "skip=-1", "skip=99999999999999999999", "order=id",
                  "state=x", "descending=2"):  # fmt: skip
        answer = client.get(f"/v1/jobs?{query}")
        assert answer.status_code == 422 and query.split("=")[0] in answer.json()["error"]


def test_a_job_that_is_not_done_has_no_result(client: TestClient, home: Home) -> None:
    waiting = home.queue.offer("film", "x", {"file": "f"}).job
    for what in ("result", "film", "map", "normal", "report", "objects", "objects/report"):
        answer = client.get(f"/v1/jobs/{waiting.id}/{what}")
        assert answer.status_code == 409 and answer.json() == {"error": "the job is waiting"}
        assert client.get(f"/v1/jobs/{'0' * 32}/{what}").status_code == 404
        assert client.get(f"/v1/jobs/..%2f..%2fkey/{what}").status_code in (404, 422)
    (working,) = home.queue.claim()
    home.queue.fail(working, "it was no film")
    payload = client.get(f"/v1/jobs/{waiting.id}").json()
    assert (payload["state"], payload["why"]) == ("failed", "it was no film")
    assert client.get(f"/v1/jobs/{waiting.id}/result").status_code == 409


def test_a_result_is_told_and_looking_at_it_is_written_down(
    client: TestClient, home: Home, job: QueuedJob
) -> None:
    payload = client.get(f"/v1/jobs/{job.id}/result").json()
    assert payload == {**TOLD, "film": "film", "job": job.id, "state": "done"}
    about = client.get(f"/v1/jobs/{job.id}").json()
    assert about["p_value"] == 0.02 and about["deliveries"] == []
    assert audited(home) == ["saw the result"]


def test_pictures_are_given_as_numbers_and_as_png(
    client: TestClient, home: Home, job: QueuedJob
) -> None:
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    film = client.get(f"/v1/jobs/{job.id}/film?format=raw")
    assert (film.headers["x-rows"], film.headers["x-columns"]) == ("64", "32")
    shown = np.frombuffer(film.content, "<u2").reshape(64, 32)
    np.testing.assert_array_equal(shown, (65535 * ramp[:, ::2]).astype(np.uint16))
    small = np.asarray(Image.open(io.BytesIO(client.get(f"/v1/jobs/{job.id}/film").content)))
    np.testing.assert_array_equal(small, (shown >> 8).astype(np.uint8))
    # The film is 64 x 32, the model's square 64 x 64: what lies beside the film is left away.
    for name, square in (("map", ramp), ("normal", 1 - ramp)):
        raw = client.get(f"/v1/jobs/{job.id}/{name}")
        assert (raw.headers["x-rows"], raw.headers["x-columns"]) == ("64", "32")
        values = np.frombuffer(raw.content, "<f4").reshape(64, 32)
        np.testing.assert_array_equal(values, square[:, 16:48])
        assert raw.headers.get("x-threshold") == ("0.25" if name == "map" else None)
        picture = client.get(f"/v1/jobs/{job.id}/{name}?format=png")
        assert picture.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(picture.content)).size == (32, 64)
    over = client.get(f"/v1/jobs/{job.id}/map?format=png").content
    colours = np.asarray(Image.open(io.BytesIO(over))).astype(int)
    assert abs(colours[0] - colours[0].mean(-1, keepdims=True)).max() < 9  # grey where it is 0
    assert np.ptp(colours[40], axis=-1).min() > 30
    assert client.get(f"/v1/jobs/{job.id}/film?format=gif").status_code == 422


def test_a_refused_film_is_shown_without_a_map(client: TestClient, home: Home) -> None:
    none = {"refused": "is no upright frontal chest film", "score": None, "p_value": None,
            "model": None, "record": []}  # fmt: skip
    job = done_job(home, payload=none)
    (home.results.folder / job.id / "map.npy").unlink()
    assert client.get(f"/v1/jobs/{job.id}/map").status_code == 404
    report = client.get(f"/v1/jobs/{job.id}/report").text
    assert "it is no upright frontal chest film" in report and "Its map" not in report
    asked = client.post(f"/v1/jobs/{job.id}/what-if", json={"record": {}})
    assert asked.status_code == 409


def test_the_report_is_one_file_and_escapes_what_it_is_told(
    client: TestClient, job: QueuedJob
) -> None:
    page = client.get(f"/v1/jobs/{job.id}/report")
    assert page.headers["content-type"].startswith("text/html")
    text = page.text
    assert "about 2 score as high or higher" in text and text.count("data:image/png") == 3
    assert "<b>told</b>" not in text and "&lt;b&gt;told" in text and "<script" not in text
    assert "http" not in text.replace("http-equiv", "") and "RESEARCH USE ONLY" in text
    assert 'value="0.5"' in text and "not known" in text


def test_objects_are_given_and_written_down(client: TestClient, home: Home, job: QueuedJob) -> None:
    url = f"/v1/jobs/{job.id}/objects"
    assert client.get(url).json() == {"objects": ["report"]}
    answer = client.get(f"{url}/report")
    assert answer.content == b"DICOM with CANARY^NAME"
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.headers["content-disposition"] == f'attachment; filename="{job.id}.report.dcm"'
    folder = home.results.folder / job.id / "objects"
    (folder / "fhir.json").write_text('{"resourceType": "Bundle"}')
    message = client.get(f"{url}/fhir")  # a transaction, and no DICOM
    assert message.json() == {"resourceType": "Bundle"}
    assert message.headers["content-type"] == "application/fhir+json"
    assert message.headers["content-disposition"] == f'attachment; filename="{job.id}.fhir.json"'
    (folder / "fhir.json").unlink()
    assert client.get(f"{url}/map").status_code == 404
    assert client.get(f"{url}/..%2fresult").status_code in (404, 422)
    assert audited(home) == ["fetched the report", "fetched the fhir"]


def test_a_what_if_question_is_a_job_of_its_own_with_exactly_that_record(
    client: TestClient, home: Home, job: QueuedJob
) -> None:
    url = f"/v1/jobs/{job.id}/what-if"
    body = {"record": {"age": 40, "sex": None, "weight": "180 lb"}}
    asked = client.post(url, json=body)
    assert asked.status_code == 202 and client.post(url, json=body).status_code == 200
    queued = home.queue.get(asked.json()["job"])
    assert queued is not None and queued.kind == "what-if"
    assert queued.payload["file"] == job.payload["file"]
    assert queued.payload["record"] == {"age": 40.0, "weight": pytest.approx(81.6466266)}
    assert len(client.get("/v1/jobs").json()["jobs"]) == 1
    (held,) = home.queue.claim()
    arrays: dict[Any, np.ndarray] = {"map": np.ones((64, 64), np.float32)}
    home.results.put(held.id, TOLD, arrays, {})
    home.queue.done(held, {"score": 2.0})
    assert client.get(f"/v1/jobs/{held.id}/film?format=raw").headers["x-rows"] == "64"
    assert client.get(f"/v1/jobs/{held.id}/map?format=png").status_code == 200
    assert client.post(f"/v1/jobs/{held.id}/what-if", json=body).status_code == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"record": {"age": "old"}}', 422),
        (b'{"record": {"shoe": 1}}', 422),
        (b'{"record": []}', 422),
        (b'{"record": {"age": [1]}}', 422),
        (b'{"record": {}, "more": 1}', 422),
        (b"{}", 422),
        (b"3", 422),
        (b"", 400),
        (b"\xff", 400),
        (b"[" * 60_000, 400),
        (b'{"record": {"age": NaN}}', 400),
        (b'{"record": {"age": 1e999}}', 422),
        (b" " * 70_000, 413),
    ],
    ids=range(13),
)
def test_a_question_that_is_none(
    client: TestClient, job: QueuedJob, body: bytes, status: int
) -> None:
    answer = client.post(f"/v1/jobs/{job.id}/what-if", content=body)
    assert answer.status_code == status and len(answer.json()["error"].splitlines()) == 1


def test_questions_are_turned_away_where_nobody_could_answer(home: Home, job: QueuedJob) -> None:
    pool = Pool(ready=0)
    client = client_of(app_for(home, pool=pool))
    url, body = f"/v1/jobs/{job.id}/what-if", {"record": {"age": 1}}
    assert client.post(url, json=body).status_code == 503
    pool.ready = 1
    home.queue.capacity = 0
    assert client.post(url, json=body).status_code == 429


def test_what_readers_say_is_kept_and_exported(
    client: TestClient, home: Home, job: QueuedJob
) -> None:
    url = f"/v1/jobs/{job.id}/feedback"
    said = client.post(url, json={"verdict": "disagree", "comment": "=skin, fold\n\u00e4"})
    assert said.status_code == 201 and said.json()["job"] == job.id
    assert client.post(url, json={"verdict": "agree"}).status_code == 201
    first, second = client.get(url).json()["feedback"]
    assert (first["verdict"], first["comment"], first["score"]) == (
        "disagree",
        "=skin, fold\n\u00e4",
        1.5,
    )
    assert (second["who"], second["model"]) == ("local", "adult")
    assert client.get("/v1/feedback").json()["feedback"] == [first, second]
    rows = [*csv.DictReader(io.StringIO(client.get("/v1/feedback?format=csv").text))]
    assert [row["comment"] for row in rows] == ["'=skin, fold\n\u00e4", ""]  # no formula
    assert [row["p_value"] for row in rows] == ["0.02", "0.02"] and rows[0]["job"] == job.id
    assert "skin" not in (home.folder / "audit.log").read_text()
    assert audited(home)[:2] == ["said disagree", "said agree"]
    agree = {"verdict": "agree"}
    for bad in ({"verdict": "maybe"}, {}, {**agree, "comment": "x" * 2001}, {**agree, "who": "x"},
                {**agree, "comment": "\ud800"}):  # fmt: skip
        assert client.post(url, content=json.dumps(bad)).status_code == 422


def test_remarks_on_one_result_are_bounded(
    client: TestClient, job: QueuedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MOST", 2)
    url = f"/v1/jobs/{job.id}/feedback"
    statuses = [client.post(url, json={"verdict": "agree"}).status_code for _ in range(3)]
    assert statuses == [201, 201, 409]
