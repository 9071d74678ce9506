"""Nothing of a patient leaves the service but in the objects that must carry it: a film with a
canary in every place goes through both intakes, and everything that comes out is searched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    DigitalXRayImageStorageForPresentation,
)

from nofinding.service.store.home import Home
from support.canary import CARRIED, Canaries, leaks, plant
from support.orthanc import free_port
from support.serving import small_model, until

DEBUG = "import logging; logging.basicConfig(level=logging.DEBUG)"
RUN = f"{DEBUG}; from nofinding.cli import main; raise SystemExit(main())"


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Canaries:
    return plant(tmp_path_factory.mktemp("canaries"))


@contextmanager
def running(log: Path, ready: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that logs everything, until it has said `ready` and the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments], stdout=file, stderr=file, env={**os.environ}
        )
    try:
        until(lambda: ready in log.read_text(errors="replace"))
        yield process
    finally:
        process.terminate()
        process.wait(40)


def c_store(port: int, film: Path) -> int:
    """The status of sending it."""
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(DigitalXRayImageStorageForPresentation)
    association = ae.associate("127.0.0.1", port, ae_title="NOFINDING")
    status = association.send_c_store(dcmread(film, force=True))
    association.release()
    return int(status.Status)


def test_what_the_service_says_and_writes(canaries: Canaries, tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    home, port = tmp_path / "home", free_port()
    remaining = ["--home", str(home), "--keep-free", "0", "--threads", "1", "--wait", "0"]
    films = [canaries.film, canaries.turned]
    more = ["--port", str(port), "--accept", "SCANNER", "--record", str(canaries.record)]
    more += ["--stow", "http://127.0.0.1:1/nobody", "--model", str(model)]
    with running(tmp_path / "listen.log", "listening as", "listen", *remaining, *more):
        assert [c_store(port, film) for film in films] == [0, 0]
        until(lambda: Home(home, keep_free=0).queue.counts()["done"] == 2)
    said, message = tmp_path / "serve.log", []
    with running(said, ": serving", "serve", *remaining, "--port", "0", "--model", str(model)):
        line = next(x for x in said.read_text().splitlines() if ": serving" in x)
        url = line.partition(": serving")[0].rpartition(" ")[2]
        client = httpx.Client(base_url=url, timeout=60)
        until(lambda: client.get("/ready").status_code == 200)
        broken = (canaries.film.name, canaries.film.read_bytes()[:-5000])
        for name, data in ((f.name, f.read_bytes()) for f in films):
            answer = client.post("/v1/films", files={"film": (name, data)})
            message.append(answer.text + str(answer.headers))
        message.append(client.post("/v1/films", files={"film": broken}).text)
        queue = Home(home, keep_free=0).queue
        until(lambda: queue.counts()["waiting"] + queue.counts()["working"] == 0)
        for job in queue.listed():
            for part in ("", "/result", "/report", "/feedback", "/objects"):
                answer = client.get(f"/v1/jobs/{job.id}{part}")
                message.append(answer.text + str(answer.headers))
        for path in ("/v1/jobs", "/v1/drift", "/metrics", "/v1/feedback?format=csv", "/viewer/"):
            message.append(client.get(path).text)
    assert not [what for text in message for what in leaks(canaries, text)]
    for log in ("listen.log", "serve.log"):
        assert not leaks(canaries, (tmp_path / log).read_text())
    objects = [*(home / "results").glob("*/objects/*.dcm")]
    assert objects and "MRN" in {what for one in objects for what in _within(canaries, one)}
    for one in objects:
        assert set(_within(canaries, one)) <= CARRIED
    for file in home.rglob("*"):
        if file.is_file() and "objects" not in file.parts and "spool" not in file.parts:
            assert not _within(canaries, file), file.relative_to(home)
        assert not leaks(canaries, str(file.relative_to(home)))


def _within(canaries: Canaries, file: Path) -> list[str]:
    """The canaries in one file's bytes."""
    return [message.removesuffix(" in the text") for message in leaks(canaries, text(file))]


def text(file: Path) -> str:
    """Its bytes, as letters."""
    return file.read_bytes().decode("latin-1")
