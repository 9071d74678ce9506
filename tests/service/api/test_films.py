"""Films come in by HTTP: on the disk and in the queue, or refused in one line, and nothing left."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydicom
import pytest
from pydicom import dcmread
from starlette.testclient import TestClient

from nofinding.service.api.state import Limits
from nofinding.service.store.home import Home
from support.service_app import Pool, app_for, client_of, home_in, png
from support.serving import dicom_film


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_in(tmp_path)


@pytest.fixture
def client(home: Home) -> TestClient:
    return client_of(app_for(home))


def post(client: TestClient, film: bytes, record: object = None, **more: Any) -> Any:
    data = {} if record is None else {"record": json.dumps(record)}
    return client.post("/v1/films", files={"film": ("f", film)}, data=data, **more)


def nothing_left(home: Home) -> bool:
    return not [*home.spool.folder.iterdir()] and sum(home.queue.counts().values()) == 0


def test_a_film_is_taken_and_the_same_again_is_one_job(
    client: TestClient, home: Home, tmp_path: Path
) -> None:
    film = dicom_film(tmp_path / "films", 0).read_bytes()
    record = {"age": 63, "sex": "M", "weight": "180 lb", "height": None}
    sent = post(client, film, record)
    assert sent.status_code == 202 and sent.json()["new"] is True
    again = post(client, film, dict(reversed(record.items())))
    assert again.status_code == 200
    assert again.json() == sent.json() | {"new": False}
    job = home.queue.get(sent.json()["job"])
    assert job is not None
    assert job.payload["record"] == {"age": 63.0, "sex": 1.0, "weight": pytest.approx(81.6466266)}
    assert job.payload["patient"] == home.pseudonym("patient", "|P-0")
    assert (home.spool.folder / job.payload["file"]).read_bytes() == film
    assert len([*home.spool.folder.iterdir()]) == 1
    assert client.get(sent.headers["location"]).json()["state"] == "waiting"
    assert post(client, film, {"age": 64}).json()["new"] is True  # another record: another answer


def test_one_instance_with_other_pixels_is_a_job_of_the_same_film(
    client: TestClient, tmp_path: Path
) -> None:
    file = dicom_film(tmp_path / "films", 0)
    first = post(client, file.read_bytes()).json()
    data = dcmread(file)
    data.PixelData = bytes(255 - value for value in data.PixelData)
    data.save_as(file)
    second = post(client, file.read_bytes()).json()
    assert second["new"] and second["film"] == first["film"] and second["job"] != first["job"]


@pytest.mark.parametrize(("kind", "ending"), [("png", ".png"), ("jpeg", ".jpg")])
def test_a_picture_is_known_by_its_content(
    client: TestClient, home: Home, kind: str, ending: str
) -> None:
    film = ("f", png(kind=kind), f"image/{kind}")
    first, again = (client.post("/v1/films", files={"film": film}).json() for _ in range(2))
    assert first["new"] and not again["new"] and first["job"] == again["job"]
    (file,) = home.spool.folder.iterdir()
    assert file.suffix == ending and "patient" not in home.queue.find(first["film"])[0].payload


BAD = [
    (b"GIF89a" + bytes(200), None, 415, "is not a PNG, JPEG or DICOM file"),
    (b"\x89PNG", None, 415, "is not a PNG, JPEG or DICOM file"),
    (b"", None, 422, "the film is empty"),
    (png(), {"age": "old"}, 422, "record: age: 'old' is not a number"),
    (png(), {"shoe": 43}, 422, "record: 'shoe' is not one of age, sex"),
    (png(), {"age": True}, 422, "record: age is no number and no text"),
    (png(), {"age": [63]}, 422, "record: age is no number and no text"),
    (png(), {"sex": 1}, 422, "record: sex: '1' is not one of F, M"),
    (png(), [63], 422, "record: is not an object"),
    (png(), {"age": float("nan")}, 400, "record is no JSON that can be read"),
    (png(), {"age": 10**5000}, 400, "record is no JSON that can be read"),
    (png(), {"age": 10**300}, 422, "record: age: "),
    (b"\0" * 128 + b"DICM" + b"CANARY" * 99, None, 422, "the film has no SOP Instance"),
]


@pytest.mark.filterwarnings("ignore:.*int.*str.*conversion")
@pytest.mark.parametrize(("film", "record", "status", "said"), BAD)
def test_what_is_no_film_or_no_record_is_refused_and_leaves_nothing(
    client: TestClient, home: Home, film: bytes, record: object, status: int, said: str
) -> None:
    text = '{"age": 1' + "0" * 5000 + "}" if record == {"age": 10**5000} else json.dumps(record)
    data = {} if record is None else {"record": text}
    answer = client.post("/v1/films", files={"film": ("f", film)}, data=data)
    assert answer.status_code == status and said in answer.json()["error"]
    assert "CANARY" not in answer.text and "\n" not in answer.json()["error"]
    assert answer.headers["x-research-use-only"] == "true"
    assert nothing_left(home)


def multipart(*parts: bytes, boundary: bytes = b"B") -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def part(name: str, content: bytes, more: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content


DEEP = b'{"age": ' + b"[" * 50_000
MANY = b"".join(b"X-%d: y\r\n" % number for number in range(20))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (multipart(part("film", png()), part("film", png())), 413, "too many"),
        (multipart(part("film", png()), part("name", b"x")), 422, "neither film nor record"),
        (multipart(part("record", b"{}")), 422, "there is no part film"),
        (multipart(part("film", png()), part("record", DEEP)), 400, "no JSON"),
        (multipart(part("film", png()), part("record", b"\xff")), 400, "no JSON"),
        (multipart(part("film", png()), part("record", b"x" * 70_000)), 413, "too large"),
        (multipart(part("record", b"{}"), part("record", b"{}")), 422, "more than one"),
        (multipart(part("film", png()))[:-9], 400, "cut short"),
        (b"no boundary at all", 400, "damaged"),
        (multipart(MANY + part("film", png())), 400, "damaged"),
        (multipart(b"X: " + b"y" * 5000 + b"\r\n" + part("film", png())), 400, "damaged"),
        (multipart(b"no header\r\n\r\n" + png()), 400, "damaged"),
        (b"", 400, "cut short"),
    ],
    ids=range(13),
)
def test_a_body_that_is_no_form_is_refused_and_leaves_nothing(
    client: TestClient, home: Home, body: bytes, status: int, said: str
) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=B"}
    answer = client.post("/v1/films", content=body, headers=kind)
    assert answer.status_code == status and said in answer.json()["error"]
    assert nothing_left(home)


def test_content_is_what_it_is_called(client: TestClient, home: Home) -> None:
    for called, status, said in (
        ("image/jpeg", 415, "is called image/jpeg and is a PNG file"),
        ("application/dicom", 415, "is called application/dicom"),
        ("image/gif", 415, "only DICOM, PNG and JPEG"),
        ("text/html", 415, "only DICOM, PNG and JPEG"),
    ):
        answer = client.post("/v1/films", files={"film": ("f.png", png(), called)})
        assert answer.status_code == status and said in answer.json()["error"]
    raw = client.post("/v1/films", content=png(), headers={"Content-Type": "image/png"})
    assert raw.status_code == 415 and "multipart/form-data" in raw.json()["error"]
    assert nothing_left(home)


def test_too_large_a_film_is_cut_off(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    client = client_of(app_for(home, limits=Limits(film=2**16)))
    film = png() + bytes(2**16)
    assert post(client, film).status_code == 413
    chunked = {"Content-Type": "multipart/form-data; boundary=B"}  # without a Content-Length
    pieces = (
        piece for piece in [part("film", png()).join([b"--B\r\n", b""])] + [bytes(2**14)] * 99
    )
    answer = client.post("/v1/films", content=pieces, headers=chunked)
    assert answer.status_code == 413 and nothing_left(home)


def test_a_batch_takes_what_it_can(client: TestClient, home: Home, tmp_path: Path) -> None:
    film = dicom_film(tmp_path / "films", 0).read_bytes()
    files = [
        ("film", ("a.dcm", film)),
        ("film", ("b.gif", b"GIF89a" + bytes(200))),
        ("film", ("c.png", png())),
        ("film", ("d.png", png(1))),
    ]
    by_name = {"records": json.dumps({"a.dcm": {"age": 63}, "d.png": {"shoe": 1}})}
    answer = client.post("/v1/batches", files=files, data=by_name)
    payload = answer.json()
    assert answer.status_code == 202
    assert [job["number"] for job in payload["jobs"]] == [0, 2]
    assert [one["number"] for one in payload["refused"]] == [1, 3]
    first = home.queue.get(payload["jobs"][0]["job"])
    assert first is not None and first.payload["record"] == {"age": 63.0}
    assert len([*home.spool.folder.iterdir()]) == 2
    listed = client.post("/v1/batches", files=files[2:], data={"records": '[{"age": 5}, {}]'})
    assert [job["new"] for job in listed.json()["jobs"]] == [True, True]
    alone = client.post("/v1/batches", files=[files[1]])
    assert alone.status_code == 415
    none = client.post("/v1/batches", files=[files[2]], data={"records": "3"})
    assert none.status_code == 422


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([{"age": 5}], "records: 1 for 3 films"),
        ([{}, {}, {}, {"age": 5}], "records: 4 for 3 films"),
        ({"a.png": {"age": 5}, "d.png": {"age": 6}}, "records: 1 of them by a file name"),
        ({"b.png": {"age": 5}}, "several films have one file name"),
    ],
)
def test_no_record_gets_to_a_film_that_it_may_not_be_of(
    client: TestClient, home: Home, records: Any, said: str
) -> None:
    names = ("a.png", "b.png", "b.png")
    files = [("film", (name, png(number))) for number, name in enumerate(names)]
    answer = client.post("/v1/batches", files=files, data={"records": json.dumps(records)})
    assert answer.status_code == 422 and said in answer.json()["error"]
    assert "d.png" not in answer.text and nothing_left(home)
    known = client.post("/v1/batches", files=files, data={"records": '{"a.png": {"age": 5}}'})
    assert len(known.json()["jobs"]) == 3


def test_nothing_is_decoded_here(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded in the server's process")

    film = dicom_film(tmp_path / "films", 0).read_bytes()
    picture = png()
    for module, name in ((pydicom, "dcmread"), (pydicom.filereader, "read_partial"),
                         (PIL.Image, "open"), (np, "load")):  # fmt: skip
        monkeypatch.setattr(module, name, never)
    for name in ("dicom.header_of", "pixels.elements_of"):
        monkeypatch.setattr(f"nofinding.data.decoding.{name}", never)
    assert post(client, film).status_code == post(client, picture).status_code == 202


@pytest.mark.parametrize(
    ("prepare", "status", "again"),
    [
        (lambda home, pool: setattr(home.queue, "capacity", 0), 429, "30"),
        (lambda home, pool: setattr(home.spool, "keep_free", 2**62), 503, "60"),
        (lambda home, pool: setattr(pool, "ready", 0), 503, "10"),
        (lambda home, pool: setattr(pool, "broken", True), 503, "10"),
    ],
    ids=["full queue", "full disk", "no model yet", "no model"],
)
def test_where_a_film_cannot_be_taken_its_body_is_not_read(
    home: Home, prepare: Callable[[Home, Pool], None], status: int, again: str
) -> None:
    pool = Pool()
    prepare(home, pool)
    client = client_of(app_for(home, pool=pool))
    answer = post(client, b"GIF89a" + bytes(200))  # would be 415 if it were looked at
    assert answer.status_code == status and answer.headers["retry-after"] == again
    assert answer.headers["connection"] == "close" and nothing_left(home)


def test_a_worker_that_died_turns_nobody_away(home: Home) -> None:
    pool = Pool()
    client = client_of(app_for(home, pool=pool))
    assert post(client, png()).status_code == 202
    pool.ready = 0  # another one is being made
    assert post(client, png(1)).status_code == 202


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(
    client: TestClient, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "no space left on the device")

    monkeypatch.setattr("nofinding.service.api.upload.os.write", full)
    answer = post(client, png())
    assert answer.status_code == 503 and answer.headers["retry-after"] == "60"
    monkeypatch.undo()
    assert nothing_left(home)


def test_nothing_of_the_patient_is_told_to_anybody(
    client: TestClient,
    home: Home,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(logging.getLogger("httpx2"), "disabled", True)  # the tests' own client
    names = {"PatientName": "CANARY^NAME", "PatientID": "CANARY-ID", "StudyDescription": "CANARY"}
    film = dicom_film(tmp_path / "films", 0, **names)
    said = client.post(
        "/v1/films?patient=CANARY",
        files={"film": ("CANARY.dcm", film.read_bytes())},
        headers={"User-Agent": "CANARY", "Referer": "http://127.0.0.1/CANARY"},
    )
    assert said.status_code == 202
    broken = film.read_bytes()[:900].replace(b"DICM", b"DICM\xff")
    answers = [said, post(client, broken), client.get("/v1/jobs/CANARY"), client.get("/CANARY")]
    answers += [client.get("/v1/jobs"), client.get("/metrics")]
    uid = str(dcmread(film).SOPInstanceUID)
    log = (home.folder / "audit.log").read_text()
    places = [caplog.text, log, *(answer.text for answer in answers)]
    places += [str(path) for path in home.folder.rglob("*")]
    for place in places:
        assert "CANARY" not in place and uid not in place
    assert "POST /v1/films 202" in caplog.text and "GET /v1/jobs/{job} 422" in caplog.text
    assert "GET unknown 404" in caplog.text and '"sent"' in log
