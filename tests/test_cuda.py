"""What a GPU must do as a CPU does. All of it is skipped where there is none; what is forgotten on
the way to one is found without it, too (`elsewhere.py`).

Scores are compared in units of their spread over eight films. `record_property` keeps what was
measured: `pytest --junitxml FILE tests/test_cuda.py` writes it down.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from methods.test_contract import SCORED, STATS, learn, rows, spread
from nofinding.cli import main
from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS
from nofinding.datasets.phantom import PHANTOM
from nofinding.methods import METHODS, Detector
from nofinding.runtime import Portable, Runtime, to_device
from nofinding.storage import checkpoint
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores
from support import training_worker as worker
from support.tables import write_table

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA GPU here", allow_module_level=True)

GPU = TrainingRun(progress=False, accelerator="cuda")
OTHER_CHIP = 1e-2  # of the spread: sums are rounded in another order, and samplers pass that on
OTHER_BATCH = 1e-3  # likewise: cuDNN takes another algorithm for another number of rows
AGAIN = 1e-4  # the same call twice: sums by atomic additions come in any order
# pytest-xdist --dist loadgroup: each method is fitted once, by one worker.
NAMES = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in METHODS]
Note = Callable[[str, object], None]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@dataclass(frozen=True)
class Fitted:
    """A tiny detector that was fitted on the GPU and lies there, and its scores with seed 3."""

    kind: type[Detector]
    detector: Detector
    batch: Batch
    scores: Scores

    def again_on_the_cpu(self, folder: Path) -> Detector:
        """The same by way of a checkpoint, as a user takes it to another machine."""
        checkpoint.save(folder / "model", self.detector.state(), {})
        other = self.kind(self.kind.PRESETS["tiny"], STATS)
        other.load_state(checkpoint.load(folder / "model")[0])
        return other


@pytest.fixture(scope="module", params=NAMES)
def fitted(request: pytest.FixtureRequest) -> Fitted:
    kind = METHODS[request.param]
    detector = kind(kind.PRESETS["tiny"], STATS)
    to_device(detector, "cuda")  # as `fit` does, before and after
    learn(detector, GPU)
    to_device(detector, "cuda")
    films = Films(SCORED, STATS, detector.image_size)
    batch = films.batch(range(len(films)))
    return Fitted(kind, detector, batch, detector.score(batch, seed=3))


def off(result: Scores, scores: Scores) -> float:
    """The largest difference of two scores of one film, in units of the scores' spread."""
    return float((result.score - scores.score).abs().max()) / spread(scores)


def test_scores_come_back_from_where_the_network_lies(fitted: Fitted) -> None:
    net = getattr(fitted.detector, "net", None)
    if isinstance(net, nn.Module):
        assert {weight.device.type for weight in net.parameters()} == {"cuda"}
    scores = fitted.scores
    for tensor in (
        scores.score,
        scores.anomaly_map,
        scores.reconstruction,
        *scores.components.values(),
    ):
        if tensor is not None:
            assert tensor.device.type == "cpu" and tensor.dtype == torch.float32
            assert tensor.isfinite().all()


def test_the_cpu_scores_alike(fitted: Fitted, tmp_path: Path, record_property: Note) -> None:
    expected = fitted.again_on_the_cpu(tmp_path).score(fitted.batch, seed=3)
    scores = fitted.scores
    record_property("difference", off(scores, expected))
    assert off(scores, expected) <= OTHER_CHIP
    pairs = [
        (scores.anomaly_map, expected.anomaly_map),
        (scores.reconstruction, expected.reconstruction),
    ]
    for here, there in pairs:
        assert (here is None) == (there is None)
        if here is not None and there is not None:
            scale = max(1e-6, float(there.abs().max()))
            apart = float((here - there).abs().max()) / scale
            record_property("map", apart)
            assert apart <= 5 * OTHER_CHIP


def test_a_film_alone_scores_as_in_company(fitted: Fitted, record_property: Note) -> None:
    alone = [fitted.detector.score(rows(fitted.batch, [i]), seed=3).score for i in range(8)]
    apart = off(Scores(score=torch.cat(alone)), fitted.scores)
    record_property("difference", apart)
    assert apart <= OTHER_BATCH


def test_same_seed_same_scores(fitted: Fitted, record_property: Note) -> None:
    torch.manual_seed(99)  # also of the GPU: no score may draw from there
    again = fitted.detector.score(fitted.batch, seed=3)
    record_property("bit for bit", torch.equal(again.score, fitted.scores.score))
    assert off(again, fitted.scores) <= AGAIN


def test_bfloat16_is_near(fitted: Fitted, record_property: Note) -> None:
    detector = fitted.detector
    if not isinstance(detector, Portable):
        pytest.skip("this method is always run in float32")
    detector.runtime = Runtime(precision="bfloat16")
    scores = detector.score(fitted.batch, seed=3)
    detector.runtime = Runtime()
    record_property("difference", off(scores, fitted.scores))
    assert scores.score.dtype == torch.float32 and scores.score.isfinite().all()
    assert 0 < off(scores, fitted.scores) < 0.5


def relative(prediction: Tensor, target: Tensor) -> float:
    return float((prediction.double().cpu() - target).norm() / target.norm())


def test_float32_is_not_tf32(record_property: Note) -> None:
    """torch's own default rounds the inputs of convolutions to 10 bits on a GPU."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    x = torch.randn(16, 64, 64, 64, generator=generator)
    expected = conv.double()(x.double())
    conv.float().cuda()
    torch.backends.cudnn.allow_tf32 = True
    record_property("TF32", relative(conv(x.cuda()), expected))
    detector = METHODS["thumbnail"](METHODS["thumbnail"].Config(), STATS)
    detector.net = conv  # type: ignore[attr-defined]
    to_device(detector, "cuda")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    exact = relative(conv(x.cuda()), expected)
    record_property("float32", exact)
    assert exact < 1e-6


def test_channels_last_is_the_same_network(record_property: Note) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 8, 3)).cuda()
    torch.backends.cudnn.allow_tf32 = False
    x = torch.randn(4, 3, 32, 32, device="cuda")
    target = net(x).detach().double().cpu()
    prepared = Runtime().prepare(net)
    (result,) = prepared(x)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    record_property("difference", relative(result, target))
    assert relative(result, target) < 1e-6


class Watched:
    """A loss that notes how the network is run."""

    def __init__(self) -> None:
        self.calls: list[tuple[bool, torch.dtype, str]] = []

    def __call__(
        self, net: nn.Module, batch: Batch, chance: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        low = torch.is_autocast_enabled("cuda")
        self.calls.append((low, torch.get_autocast_dtype("cuda"), batch.image.device.type))
        return worker.denoise(net, batch, chance)


def trained(
    config: TrainConfig, job: TrainingRun = GPU
) -> tuple[nn.Module, Watched, tuple[float, ...]]:
    net, watched = worker.TinyNet(), Watched()
    done = train(net, watched, worker.TinyFilms(), config, seed=1, job=job)  # type: ignore[arg-type]
    return net, watched, done.history


def test_training_takes_bfloat16_where_nothing_else_is_asked(record_property: Note) -> None:
    net, watched, low = trained(worker.config_of(precision="auto"))
    assert set(watched.calls) == {(True, torch.bfloat16, "cuda")}
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}
    assert {weight.device.type for weight in net.parameters()} == {"cpu"}  # where it lay
    _, watched, full = trained(worker.config_of(precision="32"))
    assert {(calls[0], calls[2]) for calls in watched.calls} == {(False, "cuda")}
    apart = float(np.abs(np.array(low) / np.array(full) - 1).max())
    record_property("difference of the loss", apart)
    assert 0 < apart < 0.05


def test_a_gpu_learns_what_a_cpu_learns(record_property: Note) -> None:
    config = worker.config_of(precision="32")
    histories = []
    for accelerator in ("cuda", "cpu"):
        net = worker.TinyNet(dropout=0)  # whose draws a GPU makes itself
        job = replace(GPU, accelerator=accelerator)
        films = worker.TinyFilms()
        done = train(net, worker.denoise, films, config, seed=1, job=job)  # type: ignore[arg-type]
        histories.append(np.array(done.history))
    apart = float(np.abs(histories[0] / histories[1] - 1).max())
    record_property("difference of the loss", apart)
    assert apart < 1e-3


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    config = worker.config_of()
    _, _, expected = trained(config)
    job = replace(GPU, folder=tmp_path)
    calls: list[int] = []

    def stops(net: nn.Module, batch: Batch, chance: Sequence[torch.Generator]) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) > 8:
            raise KeyboardInterrupt
        return worker.denoise(net, batch, chance)

    with pytest.raises(KeyboardInterrupt):
        films = worker.TinyFilms()
        train(worker.TinyNet(), stops, films, config, seed=1, job=job)  # type: ignore[arg-type]
    _, watched, changed = trained(config, replace(job, resume=True))
    assert len(watched.calls) == config.steps - 5  # from the checkpoint of step 5
    np.testing.assert_allclose(changed, expected, rtol=1e-4)


def test_nccl_under_torchrun(tmp_path: Path) -> None:
    """One process: more would need a GPU each. The gradients pass through DDP all the same."""
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    script = [str(Path(worker.__file__)), str(tmp_path / "run"), str(tmp_path / "result")]
    options = ["--accelerator", "cuda", "--steps", "12", "--dropout", "0"]
    search = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, *run, *script, *options],
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metadata = checkpoint.load(tmp_path / "result")[1]
    assert "nccl" in metadata["backend"]
    net = worker.TinyNet(dropout=0)
    config = worker.config_of(steps=12, log_every=3)
    alone = train(net, worker.denoise, worker.TinyFilms(), config, seed=1, job=GPU)  # type: ignore[arg-type]
    np.testing.assert_allclose(metadata["history"], alone.history, rtol=1e-4)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Phantom films as files, which a child process decodes beside the GPU's own threads."""
    folder = tmp_path_factory.mktemp("films")
    values = []
    for exam in PHANTOM.read("train=24,val=10,test=12,abnormal=6,kinds=mass,size=128", FIELDS):
        name = f"{exam.image_id}.png"
        Image.fromarray((exam.pixels() * 255).astype(np.uint8)).save(folder / name)
        values.append(
            {
                "image_id": exam.image_id,
                "path": name,
                "patient_id": exam.patient_id,
                "sex": FIELDS["sex"].categories[int(exam.ehr["sex"])],
                "age": f"{exam.ehr['age']:g}",
                "findings": "|".join(sorted(exam.findings or ())),
                "split": exam.split or "",
            }
        )
    return write_table(folder / "films.csv", values)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setenv("NOFINDING_CACHE", str(tmp_path / "cache"))

    def command(*arguments: object) -> None:
        assert main([str(a) for a in arguments]) == 0

    return command


def scores_in(folder: Path) -> np.ndarray:
    with (folder / "scores.csv").open(newline="") as file:
        return np.array([float(row["score"]) for row in csv.DictReader(file)])


def test_fit_score_and_evaluate(
    films: str, run: Callable[..., None], tmp_path: Path, record_property: Note
) -> None:
    model, there = tmp_path / "model", ["--films", films, "--split", "test"]
    fit = ["fit", "diff3m-f", "--preset", "tiny", "--films", films, "--out", model]
    run(*fit, "--accelerator", "cuda", "--gate", "none")
    score = ["score", "--model", model, *there, "--gate", "off"]
    run(*score, "--accelerator", "cuda", "--out", tmp_path / "gpu")
    run(*score, "--accelerator", "cpu", "--out", tmp_path / "cpu")
    low = ["--accelerator", "cuda", "--precision", "bfloat16"]
    run(*score, *low, "--out", tmp_path / "low")
    gpu, cpu, bf16 = (scores_in(tmp_path / name) for name in ("gpu", "cpu", "low"))
    record_property("CPU", float(np.abs(gpu - cpu).max() / np.ptp(cpu)))
    record_property("bfloat16", float(np.abs(bf16 - gpu).max() / np.ptp(gpu)))
    assert len(gpu) == 18  # 12 normal and 6 with a mass
    assert np.abs(gpu - cpu).max() <= OTHER_CHIP * np.ptp(cpu)
    assert 0 < np.abs(bf16 - gpu).max() < 0.5 * np.ptp(gpu)
    report = ["--scores", tmp_path / "gpu" / "scores.csv", "--films", films]
    run("evaluate", *report, "--out", tmp_path / "report", "--baselines", "none")
    assert (tmp_path / "report" / "report.html").stat().st_size > 1000


def test_bench_gives_each_cell_the_gpu(
    films: str, run: Callable[..., None], tmp_path: Path
) -> None:
    """Its cells are forked from a process that must not have touched the GPU."""
    grid = [
        "--films",
        films,
        "--methods",
        "rd4ad,ddad",
        "--preset",
        "tiny",
        "--jobs",
        2,
        "--no-pictures",
    ]
    run("bench", *grid, "--accelerator", "cuda", "--out", tmp_path / "bench", "--bootstrap", 20)
    payload = json.loads((tmp_path / "bench" / "results.json").read_text())
    (cohort,) = payload["cohorts"]
    assert {"rd4ad", "ddad"} <= {row["label"] for row in cohort["rows"]}, cohort["failures"]
