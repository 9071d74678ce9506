"""Films come in by HTTP: on the disk and in the queue, or refused in one line, and nothing left."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from nofinding.service.queue import Queue
from serving import dicom_film
from service_app import app_for, client_of


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with client_of(app_for(tmp_path)) as client:
        yield client


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(stream, format="png")
    return stream.getvalue()


def test_a_film_is_taken_and_the_same_again_is_one_job(client: TestClient, tmp_path: Path) -> None:
    film = dicom_film(tmp_path / "films", 0).read_bytes()
    record = {"record": json.dumps({"age": 63, "sex": "M", "weight": "180 lb"})}
    sent = client.post("/v1/films", files={"film": ("P-0.dcm", film)}, data=record)
    assert sent.status_code == 202 and sent.json()["new"] is True
    again = client.post("/v1/films", files={"film": ("other", film)}, data=record)
    assert again.status_code == 200
    assert again.json() == sent.json() | {"new": False}
    home = client.app.service.home  # type: ignore[attr-defined]
    job = home.queue.get(sent.json()["job"])
    assert job.payload["record"] == {"age": 63.0, "sex": 1.0, "weight": pytest.approx(81.6466266)}
    assert (home.spool.folder / job.payload["file"]).read_bytes() == film
    assert len([*home.spool.folder.iterdir()]) == 1
    assert client.get(sent.headers["location"]).json()["state"] == "waiting"
