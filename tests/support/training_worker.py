"""A tiny training, also as a program of its own: the tests kill it, and start it under torchrun.

python training_worker.py FOLDER RESULT [--resume] [--pause SECONDS] [--kill SIGKILL 0.1 0.2 ...]
RESULT.safetensors/.json takes the final weights and the loss history, from rank 0. With --kill,
forked processes train in FOLDER first, each killed after its seconds; the last one is let be.
"""

import argparse
import importlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from nofinding.functional.noise import gaussian, uniform
from nofinding.storage import checkpoint
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch


@dataclass
class Stats:
    mean: tuple[float, ...] = (50.0, 0.0)

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean}


@dataclass
class TinyFilms:
    """Stands for data.batch.Films: films that are a function of their index."""

    count: int = 13
    size: int = 8
    stats: Stats = field(default_factory=Stats)
    asked: list[tuple[int, ...]] = field(default_factory=list)
    pause: float = 0.0
    begun: ClassVar[int | None] = None
    """Where to tell that the first batch is asked for."""

    def __post_init__(self) -> None:
        self.ids = tuple(f"film-{index}" for index in range(self.count))
        chance = Generator().manual_seed(5)
        self.images = torch.rand((self.count, 1, self.size, self.size), generator=chance) * 2 - 1

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> Batch:
        if TinyFilms.begun is not None:
            os.write(TinyFilms.begun, b"!")
            TinyFilms.begun = None
        time.sleep(self.pause)
        self.asked.append(tuple(indices))
        rows = list(indices)
        ehr = torch.tensor(rows, dtype=torch.float32)[:, None].expand(-1, 2) / self.count
        known = torch.ones_like(ehr, dtype=torch.bool)
        return Batch(self.images[rows], ehr, known, tuple(self.ids[row] for row in rows))


class TinyNet(nn.Module):
    """A denoiser with all that can go wrong: dropout, a frozen part, a buffer, an unused one."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.before = nn.Conv2d(1, 4, 3, padding=1)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.after = nn.Conv2d(4, 1, 3, padding=1)
        self.record = nn.Linear(2, 4)
        self.branch = nn.Linear(2, 4)  # only some single films pass it, else: no gradient
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, ehr: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        h = self.frozen(self.before(x)) + self.record(ehr)[:, :, None, None]
        if len(ehr) == 1 and ehr.mean() > 0.5:
            h = h + self.branch(ehr)[:, :, None, None]
        return self.after(self.dropout(torch.relu(h)))


def denoise(net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
    noise = gaussian(batch.image.shape[1:], rows).to(batch.image.device)
    level = uniform((1, 1, 1), rows).to(batch.image.device)
    squared = (net(batch.image + level * noise, batch.ehr) - noise).square()
    return {"loss": squared.mean(), "largest": squared.flatten(1).amax(1).mean()}


def config_of(**given: Any) -> TrainConfig:
    small = {"steps": 12, "batch_size": 4, "lr": 1e-2, "warmup": 5, "checkpoint_every": 5}
    return TrainConfig(**{"precision": "32", **small, **given})


def run(given: argparse.Namespace, resume: bool) -> None:
    config = config_of(
        steps=given.steps, batch_size=given.batch_size, accumulate=given.accumulate, log_every=3
    )
    net = TinyNet(given.dropout)
    where = {"accelerator": given.accelerator, "devices": given.devices}
    job = TrainingRun(folder=given.folder, resume=resume, **where)
    done = train(net, denoise, TinyFilms(pause=given.pause), config, seed=1, job=job)
    if os.environ.get("RANK", "0") == "0":
        spoken = torch.distributed.is_initialized()
        backend = torch.distributed.get_backend() if spoken else "none"
        metadata = {"history": done.history, "backend": backend}
        checkpoint.save(given.result, net.state_dict(), metadata)


def killed(given: argparse.Namespace, number: int, seconds: float) -> int:
    """Trains in a forked process and kills it some seconds after its first batch was asked for.

    Gives its exit status, negative for a signal.
    """
    heard, message = os.pipe()
    child = os.fork()
    if child == 0:
        TinyFilms.begun = message
        try:
            run(given, resume=True)
        except SystemExit as left:
            os._exit(int(str(left.code)))
        os._exit(0)
    os.close(message)
    os.read(heard, 1)  # it has begun, however busy the machine is; or it has ended
    os.close(heard)
    time.sleep(seconds)
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill", nargs="+", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for module in ("lightning_fabric", "torch.utils.tensorboard"):
        importlib.import_module(module)  # before the forks, so that these are quick
    if given.kill:
        number = signal.Signals[given.kill[0]]
        print(*(killed(given, number, float(seconds)) for seconds in given.kill[1:]))
    run(given, given.resume or bool(given.kill))


if __name__ == "__main__":
    main()
