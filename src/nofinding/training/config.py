"""What a training run is asked to do, and what it tells when it is done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Generator, Tensor, nn

from nofinding.errors import UserError
from nofinding.types import Batch

__all__ = ["Loss", "TrainConfig", "Trained", "TrainingRun"]

Loss: TypeAlias = Callable[[nn.Module, Batch, Sequence[Generator]], Mapping[str, Tensor]]
"""Gives named scalars, each a mean over the rows; "loss" is the one that is minimised.

All chance comes from the generators, one a row (`functional.noise`), so that the same row of
the same step draws the same numbers in any process and any micro-batch.
"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast and in which portions a network is trained."""

    steps: int = 1000
    """Updates of the weights."""
    batch_size: int = 16
    """Films in one forward pass of one process."""
    accumulate: int = 1
    """Forward passes that share one update: less memory, the same result."""
    lr: float = 1e-4
    """Learning rate of AdamW, after the warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW (Loshchilov and Hutter 2019)."""
    warmup: int = 100
    """Updates over which the learning rate rises linearly."""
    ema: float = 0.9999
    """Decay of the averaged weights, the ones that are kept. Update n uses min(ema, (1+n)/(10+n)),
    so that a short run is not held back by its first weights."""
    clip: float = 1.0
    """Largest norm of the gradient over all weights."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """auto: bfloat16 autocast where the hardware multiplies bfloat16, else 32 bit."""
    checkpoint_every: int = 200
    """Updates between two checkpoints; there is always one at the end."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    log_every: int = 10
    """Updates between two rows of log.csv."""
    sample_every: int = 0
    """Updates between two sets of sample pictures; 0: none."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "keep", "log_every"):
            self._require(name, "1 or more", getattr(self, name) >= 1)
        for name in ("warmup", "weight_decay", "sample_every"):
            self._require(name, "0 or more", getattr(self, name) >= 0)
        for name in ("lr", "clip"):
            self._require(name, "above 0", getattr(self, name) > 0)
        self._require("ema", "at least 0 and below 1", 0 <= self.ema < 1)
        self._require("precision", "auto, 32 or bf16", self.precision in ("auto", "32", "bf16"))

    def _require(self, name: str, allowed: str, holds: bool) -> None:
        if not holds:
            raise UserError(f"{name}: {getattr(self, name)} is not allowed; give {allowed}")


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Where a run writes and on what it runs: nothing here changes what is learnt."""

    folder: Path | None = None
    """Takes checkpoints, log.csv and TensorBoard events; None: nothing is written. Under torchrun
    every process must see the same folder."""
    resume: bool = False
    """Continue from the newest whole checkpoint in the folder, or begin where there is none."""
    progress: bool = True
    """Tell on stderr how far it is."""
    accelerator: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: int = 1
    """Above 1, one process a device must be started by torchrun."""
    shared: Path | None = None
    """Folder of networks that several methods train alike: one that lies there is taken over, one
    that does not is put there. None: each trains its own."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else a resumed run must have in common with the first, as JSON: method, its config."""

    def part(self, name: str) -> "TrainingRun":
        """The same job in a subfolder, for a method that trains in several stages."""
        return replace(self, folder=self.folder / name if self.folder else None)


@dataclass(frozen=True)
class Trained:
    """What a run did, over all its interruptions."""

    steps: int
    seconds: float
    """Time in the loop; what was lost between a checkpoint and a crash is not in it."""
    films_per_second: float
    history: tuple[float, ...]
    """The loss of every step, a mean over the films of all processes, before the update."""
