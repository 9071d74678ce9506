"""The loop learns what a plain loop of twenty lines learns, and tells what it does."""

import csv
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from nofinding.errors import UserError
from nofinding.functional.noise import generators
from nofinding.storage import checkpoint
from nofinding.training import TrainConfig, TrainingRun, loop, train
from nofinding.types import Batch

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import training_worker as worker

sys.path.pop(0)

CPU = TrainingRun(accelerator="cpu", progress=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def go(
    job: TrainingRun = CPU,
    *,
    net: nn.Module | None = None,
    films: Any = None,
    loss: Any = worker.denoise,
    sample: Any = None,
    seed: int = 1,
    **config: Any,
) -> tuple[dict[str, Tensor], Any]:
    """Trains; gives the final weights and what `train` told."""
    net = worker.TinyNet() if net is None else net
    films = worker.TinyFilms() if films is None else films
    done = train(net, loss, films, worker.config_of(**config), seed=seed, job=job, sample=sample)
    return net.state_dict(), done


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def plain_loop(net: nn.Module, films: Any, config: TrainConfig, seed: int) -> list[float]:
    """The same training written down once more, from the documents of torch alone."""
    weights = [w for w in net.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=config.weight_decay)
    averaged: list[Tensor] = []
    history = []
    for step in range(config.steps):
        fall = (config.steps - step) / (config.anneal + 1) if config.anneal else 1
        optimizer.param_groups[0]["lr"] = config.lr * min(1, (step + 1) / config.warmup, fall)
        places = range(step * config.batch_size, (step + 1) * config.batch_size)
        selection = []
        for place in places:
            epoch, at = divmod(place, len(films))
            chance = generators(seed, [f"epoch/{epoch}"])[0]
            selection.append(int(torch.randperm(len(films), generator=chance)[at]))
        rows = generators(seed, [f"{step}/{row}" for row in range(config.batch_size)])
        loss = worker.denoise(net, films.batch(selection), rows)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, config.clip)
        optimizer.step()
        now = [w.detach().clone() for w in net.parameters()]
        decay = min(config.ema, (1 + step) / (10 + step))
        if averaged:
            now = [decay * a + (1 - decay) * w for a, w in zip(averaged, now, strict=True)]
        averaged = now
        history.append(loss.item())
    for weight, mean in zip(net.parameters(), averaged, strict=True):
        weight.data.copy_(mean)
    return history


@pytest.mark.parametrize(
    ("ema", "clip", "anneal"), [(0.9999, 0.05, 0), (0.2, 1.0, 0), (0.2, 1.0, 4)]
)
def test_is_a_plain_loop(ema: float, clip: float, anneal: int) -> None:
    config = {"steps": 9, "ema": ema, "clip": clip, "anneal": anneal, "weight_decay": 0.1}
    net, expected = worker.TinyNet(0.0), worker.TinyNet(0.0)
    _, done = go(net=net, **config)
    history = plain_loop(expected, worker.TinyFilms(), worker.config_of(**config), seed=1)
    torch.testing.assert_close(torch.tensor(done.history), torch.tensor(history))
    for weight, other in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-6)


def test_learning_rate_falls_at_the_end_alone(tmp_path: Path) -> None:
    """The rates are written down from the documents: level at 0.01, then 4/5 to 1/5 of it."""
    job = TrainingRun(folder=tmp_path, progress=False)
    go(job, steps=9, warmup=1, lr=1e-2, anneal=4, log_every=1)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    at = rows[0].split(",").index("lr")
    rates = [float(row.split(",")[at]) for row in rows[1:]]
    assert rates == pytest.approx([1e-2] * 5 + [8e-3, 6e-3, 4e-3, 2e-3])


def test_leaves_the_net_ready_to_score() -> None:
    net = worker.TinyNet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.random.get_rng_state()
    after, done = go(net=net, steps=60)
    assert torch.equal(torch.random.get_rng_state(), random)  # a caller's draws are his own
    assert not net.training
    assert torch.equal(after["frozen.weight"], before["frozen.weight"])
    assert not net.frozen.weight.requires_grad
    assert net.before.weight.requires_grad
    assert int(after["calls"]) == 60  # buffers are those of the last step
    assert done.steps == len(done.history) == 60
    assert sum(done.history[-10:]) < 0.9 * sum(done.history[:10])
    assert done.films_per_second == pytest.approx(60 * 4 / done.seconds)


def test_every_epoch_shows_every_film_once() -> None:
    films = worker.TinyFilms(count=6)
    go(films=films, steps=9)
    asked = [index for batch in films.asked[1:] for index in batch]  # the first is the fingerprint
    epochs = [asked[start : start + 6] for start in range(0, 36, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_batch_larger_than_the_films_wraps() -> None:
    films = worker.TinyFilms(count=3)
    go(films=films, steps=3, batch_size=8)
    asked = [index for batch in films.asked[1:] for index in batch]
    assert [asked.count(index) for index in range(3)] == [8, 8, 8]


def test_seed_decides() -> None:
    assert equal(go(steps=3)[0], go(steps=3)[0])
    assert not equal(go(steps=3)[0], go(steps=3, seed=2)[0])


def test_micro_batches_learn_what_the_large_batch_learns() -> None:
    whole, done = go(net=worker.TinyNet(0.0), batch_size=6)
    parts, other = go(net=worker.TinyNet(0.0), batch_size=2, accumulate=3)
    torch.testing.assert_close(torch.tensor(done.history), torch.tensor(other.history))
    for name, value in whole.items():
        if name != "calls":
            torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6)


def test_no_film() -> None:
    with pytest.raises(UserError, match="no film to train on"):
        go(films=worker.TinyFilms(count=0))


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"lr": 0.0}, {"ema": 1.0}, {"precision": "16"}, {"warmup": -1}, {"clip": 0.0}],
)
def test_config_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} .*: give"):
        TrainConfig(**wrong)


def test_several_devices_want_torchrun() -> None:
    with pytest.raises(UserError, match="torchrun"):
        go(TrainingRun(accelerator="cpu", devices=2))


def broken_after(steps: int, value: float) -> Callable[..., dict[str, Tensor]]:
    calls = []

    def loss(net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        calls.append(len(rows))
        parts: dict[str, Tensor] = worker.denoise(net, batch, rows)
        return {**parts, "loss": parts["loss"] * (value if len(calls) > steps else 1.0)}

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_a_loss_that_is_not_finite_is_not_saved(tmp_path: Path, value: float) -> None:
    job = TrainingRun(folder=tmp_path, accelerator="cpu", progress=False)
    with pytest.raises(UserError, match=r"(loss|gradient).* became .* at step 10; lower lr"):
        go(job, loss=broken_after(9, value), lr=1.0, warmup=0)
    assert sorted(p.name for p in tmp_path.glob("step-*.json")) == ["step-00000005.json"]
    tensors, _ = checkpoint.load(tmp_path / "step-00000005")
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())


def test_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    job = TrainingRun(folder=tmp_path, accelerator="cpu", progress=False, about={"method": "tiny"})
    go(job, checkpoint_every=3, keep=2)
    names = sorted(path.name for path in tmp_path.glob("step-*"))
    assert names == [f"step-{step:08d}.{kind}" for step in (9, 12) for kind in SUFFIXES]
    _, meta = checkpoint.load(tmp_path / "step-00000012")
    assert meta["config"]["lr"] == 1e-2
    assert meta["stats"] == {"mean": [50.0, 0.0]}
    assert (meta["seed"], meta["step"], meta["world_size"]) == (1, 12, 1)
    assert meta["code"] == checkpoint.code_version()
    assert meta["about"] == {"method": "tiny"}
    assert meta["films"]["count"] == 13


SUFFIXES = ("json", "safetensors")


def test_log_has_every_tenth_step_and_the_last(tmp_path: Path) -> None:
    job = TrainingRun(folder=tmp_path, accelerator="cpu", progress=False)
    _, done = go(job, steps=25, log_every=10)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["step"] for row in rows] == ["10", "20", "25"]
    assert float(rows[0]["loss"]) == pytest.approx(done.history[9], rel=1e-6)
    assert float(rows[0]["lr"]) == pytest.approx(1e-2)
    columns = ["step", "loss", "largest", "gradient_norm", "lr", "films_per_second"]
    assert list(rows[0]) == columns


def test_tensorboard_has_scalars_and_pictures(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    calls: list[Tensor] = []

    def sample(net: nn.Module) -> dict[str, Tensor]:
        assert not net.training
        assert not torch.is_grad_enabled()
        torch.rand(3)  # what a picture draws must not reach the training
        calls.append(net.before.weight.clone())
        return {"film": net(torch.zeros(2, 1, 8, 8), torch.zeros(2, 2))}

    job = TrainingRun(folder=tmp_path, accelerator="cpu", progress=False)
    weights, _ = go(job, sample=sample, sample_every=4, log_every=4, steps=10)
    assert torch.equal(calls[-1], weights["before.weight"])  # the averaged ones
    assert equal(weights, go(sample_every=4, log_every=4, steps=10)[0])
    read = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [4, 8, 10]
    assert [event.step for event in read.Images("sample/film")] == [4, 8, 10]


def test_works_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    go(TrainingRun(folder=tmp_path, accelerator="cpu", progress=False))
    assert not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "log.csv").is_file()


def test_writes_nothing_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    go()
    assert not list(tmp_path.iterdir())


def test_progress_is_one_line_where_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    go()
    assert capfd.readouterr() == ("", "")
    go(TrainingRun(accelerator="cpu"))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("step 12 of 12: loss ")
    assert err.count("\n") == 1


def test_progress_is_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    go(TrainingRun(accelerator="cpu"))
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "films/s" in shown
    assert "loss" in shown


@pytest.mark.parametrize(("precision", "has", "expected"), [
    ("auto", True, torch.bfloat16),
    ("auto", False, torch.float32),
    ("32", True, torch.float32),
    ("bf16", False, torch.bfloat16),
])  # fmt: skip
def test_precision(
    monkeypatch: pytest.MonkeyPatch, precision: str, has: bool, expected: torch.dtype
) -> None:
    for name in loop.CPU_BF16:
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: has)
    types: set[torch.dtype] = set()

    def loss(net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        types.add(net.before(batch.image).dtype)
        parts: dict[str, Tensor] = worker.denoise(net, batch, rows)
        return parts

    weights, done = go(loss=loss, precision=precision)
    assert types == {expected}
    assert weights["before.weight"].dtype == torch.float32
    assert math.isfinite(done.history[-1])


def test_part_of_a_job() -> None:
    job = TrainingRun(folder=Path("run"), resume=True, devices=2, about={"method": "tiny"})
    part = job.part("stage-1")
    assert part.folder == Path("run/stage-1")
    assert (part.resume, part.devices, part.about) == (True, 2, {"method": "tiny"})
    assert TrainingRun().part("stage-1").folder is None
