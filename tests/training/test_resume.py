"""A run that was killed, stopped, damaged or split learns bit for bit what it would have."""

import csv
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nofinding.errors import UserError
from nofinding.storage import checkpoint
from nofinding.training import TrainingRun, train
from nofinding.types import Batch

WORKER = Path(__file__).parents[1] / "support" / "training_worker.py"
sys.path.insert(0, str(WORKER.parents[1]))
from support import training_worker as worker  # noqa: E402

sys.path.pop(0)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Cut(worker.TinyFilms):  # type: ignore[misc]
    """Films of which the n-th batch of a run gets a signal or a crash."""

    def __init__(self, after: int, number: int | None) -> None:
        super().__init__()
        self.after, self.number = after, number

    def batch(self, indices: Sequence[int]) -> Batch:
        if len(self.asked) == self.after:
            if self.number is None:
                raise RuntimeError("the machine fell over")
            signal.raise_signal(self.number)
        return super().batch(indices)  # type: ignore[no-any-return]


def go(folder: Path | None, *, films: Any = None, resume: bool = False, **given: Any) -> Any:
    net = given.pop("net", None) or worker.TinyNet()
    metadata = {key: given.pop(key) for key in ("about", "seed") if key in given}
    job = TrainingRun(
        folder=folder,
        resume=resume,
        accelerator="cpu",
        progress=False,
        about=metadata.get("about", {}),
    )
    films = worker.TinyFilms() if films is None else films
    config = worker.config_of(**given)
    done = train(net, worker.denoise, films, config, seed=metadata.get("seed", 1), job=job)
    return net.state_dict(), done


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def whole() -> Any:
    """What the run gives when nothing happens to it."""
    return go(None)


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("step-*.json"))


def steps_logged(folder: Path) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader((folder / "log.csv").open())]


@pytest.mark.parametrize("after", [1, 4, 6, 7, 12])
def test_crash(tmp_path: Path, whole: Any, after: int) -> None:
    with pytest.raises(RuntimeError, match="fell over"):
        go(tmp_path, films=Cut(after, None), log_every=2)
    assert stems(tmp_path) == [f"step-{s:08d}" for s in (5, 10) if s < after]
    weights, done = go(tmp_path, resume=True, log_every=2)
    assert equal(weights, whole[0])
    assert done.history == whole[1].history
    assert steps_logged(tmp_path) == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
    ("number", "leaves"),
    [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)],
)
def test_signal_finishes_the_step_and_saves(
    tmp_path: Path, whole: Any, number: signal.Signals, leaves: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(leaves) as caught:
        go(tmp_path, films=Cut(7, number))
    if leaves is SystemExit:
        assert caught.value.code == 143  # type: ignore[attr-defined]
    assert signal.getsignal(number) is before
    assert stems(tmp_path) == ["step-00000005", "step-00000007"]
    films = worker.TinyFilms()
    weights, done = go(tmp_path, films=films, resume=True)
    assert len(films.asked) == 1 + 5  # the fingerprint, and the steps that were left
    assert equal(weights, whole[0])
    assert done.history == whole[1].history


def test_checkpoint_is_the_state_bit_for_bit(tmp_path: Path) -> None:
    """Net, moments, step counters, average: the interrupted run's last file is the other's."""
    go(tmp_path / "whole")
    with pytest.raises(SystemExit):
        go(tmp_path / "cut", films=Cut(3, signal.SIGTERM))
    go(tmp_path / "cut", resume=True)
    one, _ = checkpoint.load(tmp_path / "whole" / "step-00000012")
    other, _ = checkpoint.load(tmp_path / "cut" / "step-00000012")
    assert equal(one, other)
    assert int(one["ema.n_averaged"]) == 12
    assert {name.split(".")[-1] for name in one if name.startswith("optimizer.")} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    assert one["optimizer.0.step"] == 12


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_damaged_newest_falls_back_and_says_so(
    tmp_path: Path, whole: Any, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError):
        go(tmp_path, films=Cut(12, None))
    path = tmp_path / f"step-00000010{suffix}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    films = worker.TinyFilms()
    weights, _ = go(tmp_path, films=films, resume=True)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"step-00000010{suffix}: damaged" in err
    assert "Falling back" in err
    assert len(films.asked) == 1 + 7
    assert equal(weights, whole[0])
    checkpoint.load(tmp_path / "step-00000010")  # overwritten by the whole one


def test_all_damaged_is_refused(tmp_path: Path) -> None:
    go(tmp_path)
    for path in tmp_path.glob("step-*.json"):
        path.write_text("{")
    with pytest.raises(UserError, match="none of its 2 checkpoints is whole"):
        go(tmp_path, resume=True)


def test_half_a_first_checkpoint_is_no_checkpoint(tmp_path: Path, whole: Any) -> None:
    """Killed between the two renames of its first checkpoint, a run begins again."""
    (tmp_path / "step-00000005.safetensors").write_bytes(b"whatever")
    left = tmp_path / ".step-00000005.json.1-1.tmp"
    left.write_bytes(b"")
    assert equal(go(tmp_path, resume=True)[0], whole[0])
    assert not left.exists()
    assert stems(tmp_path) == ["step-00000010", "step-00000012"]


def test_finished_run_returns_at_once(tmp_path: Path, whole: Any) -> None:
    _, first = go(tmp_path)
    films = worker.TinyFilms()
    weights, done = go(tmp_path, films=films, resume=True)
    assert len(films.asked) == 1
    assert equal(weights, whole[0])
    assert done == first


def test_full_folder_is_refused_without_resume(tmp_path: Path) -> None:
    go(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="--resume"):
        go(tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


class WideNet(worker.TinyNet):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.after = nn.Conv2d(4, 1, 5, padding=2)


def other_pixels() -> Any:
    films = worker.TinyFilms()
    films.images = films.images * 0.5
    return films


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": 0.02}, r"config.lr was 0.01, now 0.02"),
        ({"seed": 2}, r"seed was 1, now 2"),
        ({"about": {"lambda": 0.5}}, r"about.lambda was null, now 0.5"),
        ({"films": worker.TinyFilms(count=12)}, r"films.count was 13, now 12"),
        ({"films": worker.TinyFilms(stats=worker.Stats((51.0, 0.0)))}, r"stats.mean was"),
        ({"films": other_pixels()}, r"films.sha256 was"),
        ({"net": WideNet()}, r"the network differs"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    go(tmp_path)
    with pytest.raises(UserError, match=named) as caught:
        go(tmp_path, resume=True, **change)
    assert "\n" not in str(caught.value)


def test_log_drops_what_is_beyond_the_checkpoint_and_a_torn_row(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        go(tmp_path, films=Cut(9, None), log_every=1)
    assert steps_logged(tmp_path)[-1] == 8
    with (tmp_path / "log.csv").open("a") as file:
        file.write("1")  # of "10,0.93,..."
    go(tmp_path, resume=True, log_every=1)
    assert steps_logged(tmp_path) == list(range(1, 13))


def test_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any
) -> None:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if "step-00000010" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        go(tmp_path)
    monkeypatch.undo()
    assert stems(tmp_path) == ["step-00000005"]
    assert equal(go(tmp_path, resume=True)[0], whole[0])


# Processes of their own from here on.


def result(stem: Path) -> tuple[bytes, list[float]]:
    _, meta = checkpoint.load(stem)
    return stem.with_suffix(".safetensors").read_bytes(), meta["history"]


def start(folder: Path, *more: str, processes: int = 1) -> subprocess.Popen[str]:
    run = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(run if processes > 1 else []), str(WORKER), str(folder)]
    return subprocess.Popen(
        [*command, f"{folder}-result", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[float]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(folder))
    return result(Path(f"{folder}-result"))


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -9), ("SIGTERM", 143)])
def test_killed_at_any_moment(
    tmp_path: Path, undisturbed: tuple[bytes, list[float]], name: str, code: int
) -> None:
    moments = random.Random(name)
    seconds = [f"{moments.uniform(0.02, 0.2):.3f}" for _ in range(8)]
    out, _ = finish(start(tmp_path / "run", "--pause", "0.006", "--kill", name, *seconds))
    codes = [int(each) for each in out.split()]
    assert codes.count(code) >= 3, f"too few of the kills met a run: {codes}"
    assert result(tmp_path / "run-result") == undisturbed
    logged = steps_logged(tmp_path / "run")
    assert logged == list(range(3, 61, 3))


TWO = ("--devices", "2", "--batch-size", "1", "--accumulate", "2", "--dropout", "0")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of two processes with two micro-batches of one film each."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    _, err = finish(start(folder, *TWO, processes=2))
    assert "Warning" not in err
    assert err.count("step 60 of 60") == 1  # one process speaks for both
    return Path(f"{folder}-result")


def test_two_processes_learn_what_one_learns(pair: Path) -> None:
    net = worker.TinyNet(0.0)
    _, done = go(None, net=net, steps=60, batch_size=1, accumulate=4)
    weights, meta = checkpoint.load(pair)
    worst = max(abs(a - b) for a, b in zip(meta["history"], done.history, strict=True))
    assert worst < 1e-5
    for name, value in net.state_dict().items():
        if name != "calls":
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)


def test_two_processes_stop_together_and_go_on(tmp_path: Path, pair: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, *TWO, "--pause", "0.02", processes=2)
    while not list(folder.glob("step-*.json")) and process.poll() is None:
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert err.count("--resume goes on from there") == 1, err
    assert stems(folder)[-1] != "step-00000060"
    finish(start(folder, *TWO, "--resume", processes=2))
    assert result(tmp_path / "run-result") == result(pair)
