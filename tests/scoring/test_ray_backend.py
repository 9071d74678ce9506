"""Films scored on a Ray cluster of two workers, one of which is killed: the same files."""

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nofinding.cli import main
from nofinding.openmp import BUSY, CHOICES, QUIET
from nofinding.scoring import ray_backend
from nofinding.storage.journal import Journal

TEST = 40
FILMS = f"phantom:train=16,val=0,test={TEST},abnormal=0,size=32"


def workers() -> list[int]:
    """The processes that score on the cluster of this test, told by its own cache folder."""
    collected = []
    for folder in Path("/proc").iterdir():
        try:
            title = (folder / "cmdline").read_bytes()
            ours = os.environ["NOFINDING_CACHE"].encode() in (folder / "environ").read_bytes()
        except OSError:
            continue
        if ours and title.startswith(b"ray::") and b"Worker" in title:
            collected.append(int(folder.name))
    return collected


@pytest.fixture
def cluster() -> Iterator[None]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (nofinding[ray])")
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def test_a_killed_worker_changes_nothing(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "m"
    fit = ["fit", "thumbnail", "--films", FILMS, "--calibrate", "none", "--gate", "none"]
    assert main([*fit, "--threads", "1", "--out", str(model)]) == 0
    score = ["score", "--model", str(model), "--films", FILMS, "--split", "test", "--threads", "1"]
    score += ["--batch-size", "2", "--out"]
    assert main([*score, str(tmp_path / "here")]) == 0
    killed: list[int] = []
    own = Journal.append

    def and_kill(self: Journal, entry: Any) -> Any:
        if not killed and len(result := workers()) == 2:
            killed.append(result[0])
            os.kill(result[0], signal.SIGKILL)
        return own(self, entry)

    monkeypatch.setattr(Journal, "append", and_kill)
    assert main([*score, str(tmp_path / "there"), "--engine", "ray", "--workers", "2"]) == 0
    assert killed
    here, there = (files_of(tmp_path / name) for name in ("here", "there"))
    assert here == there and len(here) == 2 + 3 * TEST


def openmp_of(_: type) -> tuple[bool, dict[str, str | None]]:
    """In a process that was handed the worker's class: whether our package came before torch, and
    what OpenMP is told."""
    names = list(sys.modules)
    first = names.index("nofinding.openmp") < names.index("torch")
    return first, {name: os.environ.get(name) for name in CHOICES}


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_threads_of_a_worker_wait_as_elsewhere(
    own: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster whose nodes say nothing of OpenMP, or where the user has chosen."""
    ray = pytest.importorskip("ray")
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        first, setting = ray.get(ray.remote(openmp_of).remote(ray_backend.Worker))
    finally:
        ray.shutdown()
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert first
    assert {name: value for name, value in setting.items() if value} in (
        [own] if own else [QUIET, BUSY]
    )


def files_of(out: Path) -> dict[str, bytes]:
    """Every file; of run.json all but the seconds."""
    paths = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    run = json.loads(paths["run.json"])
    run.pop("seconds_per_film")
    return paths | {"run.json": json.dumps(run).encode()}


def test_without_ray_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    films = "phantom:train=4,val=0,test=2,abnormal=0,size=32"
    fit = ["fit", "mean-grey", "--films", films, "--calibrate", "none", "--gate", "none"]
    assert main([*fit, "--out", str(tmp_path / "m")]) == 0

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(ray_backend, "import_module", absent)
    capsys.readouterr()
    score = ["score", "--model", str(tmp_path / "m"), "--films", films, "--engine", "ray"]
    assert main([*score, "--out", str(tmp_path / "s")]) == 2
    assert "nofinding[ray]" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
