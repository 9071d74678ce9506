"""`nofinding serve` as a process: what it refuses, how it ends, and that it loses nothing."""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from nofinding.cli import main
from nofinding.service.store.home import Home
from support.serving import dicom_film, small_model

TOKEN = "a token of more than twenty characters"
PROGRAM = "import sys; from nofinding.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "ae")


@contextlib.contextmanager
def served(
    home: Path, model: Path, *options: str, environment: Mapping[str, str] = {}
) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """The process, and where it serves."""
    command = [
        *(sys.executable, "-c", PROGRAM, "serve", "--home", str(home), "--model", str(model)),
        *("--port", "0", "--keep-free", "0", "--threads", "1", "--accelerator", "cpu", *options),
    ]
    errors = home.parent / f"{home.name}.err"
    with errors.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, env={**os.environ, **environment})
    try:
        begin = time.monotonic()
        while not (match := re.search(r"https?://\S+(?=: serving)", errors.read_text())):
            assert process.poll() is None and time.monotonic() < begin + 60, errors.read_text()
            time.sleep(0.05)
        yield process, match[0]
    finally:
        process.kill()
        process.wait()


def wait_until(said: Any, seconds: float = 90) -> None:
    begin = time.monotonic()
    while not said():
        assert time.monotonic() < begin + seconds, "it took too long"
        time.sleep(0.05)


def is_ready(url: str) -> bool:
    return httpx.get(f"{url}/ready").status_code == 200


def children(pid: int) -> set[int]:
    """Of a process, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    result: set[int] = set()
    while more := {p for p, parent in parents.items() if parent in result | {pid}} - result:
        result |= more
    return result


def test_what_was_accepted_survives_a_kill_and_a_stop_under_load(
    tmp_path: Path, model: Path
) -> None:
    films = [dicom_film(tmp_path / "films", number).read_bytes() for number in range(12)]
    place, accepted = tmp_path / "home", []
    with served(place, model, "--limit", "2", "--batch-size", "2") as (process, url):
        wait_until(lambda: is_ready(url))
        for film in films[:8]:
            answer = httpx.post(f"{url}/v1/films", files={"film": ("f", film)})
            accepted.append(answer.json()["job"])
        offspring = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert offspring
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in offspring), 20)
    with served(place, model, "--limit", "20", "--batch-size", "2") as (process, url):
        wait_until(lambda: is_ready(url))
        again = httpx.post(f"{url}/v1/films", files={"film": ("f", films[0])})
        assert again.status_code == 200 and again.json()["job"] == accepted[0]
        home = Home(place, keep_free=0)
        wait_until(lambda: home.queue.counts()["done"] == 8)  # those of before the kill
        stopping = threading.Event()

        def send(mine: list[bytes]) -> None:
            for film in mine:
                with contextlib.suppress(httpx.HTTPError):
                    answer = httpx.post(f"{url}/v1/films", files={"film": ("f", film)})
                    if answer.status_code == 202:
                        accepted.append(answer.json()["job"])
                    stopping.set()

        threads = [threading.Thread(target=send, args=(films[8 + i : 9 + i],)) for i in range(4)]
        for thread in threads:
            thread.start()
        assert stopping.wait(20)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(35) == 0 and time.monotonic() - begin < 31
        for thread in threads:
            thread.join()
        states = {job: home.queue.get(job) for job in accepted}
        assert all(job is not None and job.state in ("done", "waiting") for job in states.values())
        assert not [*home.spool.folder.glob(".*")] and home.queue.counts()["failed"] == 0
    assert len(set(accepted)) == len(accepted) >= 9
    lines = (place.parent / "home.err").read_text()
    assert "Traceback" not in lines and "P-0" not in lines


def test_another_machine_is_served_with_a_token_only(tmp_path: Path, model: Path) -> None:
    options = ("--host", "0.0.0.0", "--workers", "0")
    with served(tmp_path / "home", model, *options, environment={"NOFINDING_TOKEN": TOKEN}) as (
        process,
        url,
    ):
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/v1/jobs").status_code == 401
        bearer = {"Authorization": f"Bearer {TOKEN}", "Host": "radiology.example"}
        assert httpx.get(f"{url}/v1/jobs", headers=bearer).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert TOKEN not in (tmp_path / "home.err").read_text()


@pytest.fixture
def refused(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    monkeypatch.delenv("NOFINDING_TOKEN", raising=False)

    def run(*options: str) -> str:
        given = ["serve", "--home", str(tmp_path / "home"), "--model", str(model), *options]
        capsys.readouterr()
        assert main(given) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "radiology.example"])
def test_without_a_token_nothing_but_this_machine_is_bound(refused: Any, host: str) -> None:
    assert "without a token only this machine may be served" in refused("--host", host)


def test_tokens_that_keep_nobody_out(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("short", "x" * 19, "line\nbreak in it, long enough", "\u00e4" * 30):
        monkeypatch.setenv("NOFINDING_TOKEN", token)
        assert "20 or more printable ASCII" in refused("--host", "0.0.0.0")
    monkeypatch.delenv("NOFINDING_TOKEN")
    file = tmp_path / "token"
    assert "No such file" in refused("--token-file", str(file))
    file.write_text("")
    file.chmod(0o600)
    assert "20 or more" in refused("--token-file", str(file))
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert "chmod 600" in refused("--token-file", str(file))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "70000"), "--port 70000: give 0 to 65535"),
        (("--largest", "0"), "--largest 0: give 1 to 4096"),
        (("--workers", "65"), "--workers 65"),
        (("--tls-key", "k"), "give both or neither"),
        (("--tls-key", "k", "--tls-certificate", "c"), "No such file"),
        (("--model", "nowhere"), "holds no model.json"),
        (("--zone", "Mars"), "no time zone has this name"),
        (("--host", "256.0.0.1"), "without a token"),
    ],
)
def test_options_that_cannot_be(refused: Any, options: tuple[str, ...], said: str) -> None:
    assert said in refused(*options)


def test_a_model_that_cannot_be_loaded_ends_the_service(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "model"
    damaged.mkdir()
    meta = json.loads((model / "model.json").read_text())
    (damaged / "model.json").write_text(json.dumps(meta | {"method": "other"}))
    monkeypatch.setattr("nofinding.service.workers.pool.GIVE_UP", 1)
    before = signal.getsignal(signal.SIGTERM), logging.getLogger("nofinding").level
    given = ["serve", "--home", str(tmp_path / "home"), "--model", str(damaged), "--port", "0"]
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    assert before == (signal.getsignal(signal.SIGTERM), logging.getLogger("nofinding").level)
    # By itself, so that what the workers say is heard, too: their server is begun once a process.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *given], capture_output=True, text=True, timeout=60
    )
    errors = done.stderr
    assert done.returncode == 2 and "Traceback" not in errors
    assert "no worker could load the model" in errors
    assert "nofinding: " + str(damaged) in errors or f"nofinding: --model {damaged}" in errors
