"""What a training run is asked to do, and what it tells when it is done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from torch import Generator, Tensor, nn

from nofinding.errors import UserError
from nofinding.ranges import Range, require_ranges
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

    steps: Annotated[int, Range(1)] = 1000
    """Updates of the weights."""
    batch_size: Annotated[int, Range(1)] = 16
    """Films in one forward pass of one process."""
    accumulate: Annotated[int, Range(1)] = 1
    """Forward passes that share one update: less memory, the same result."""
    lr: Annotated[float, Range(above=0)] = 1e-4
    """Learning rate of AdamW, after the warm-up."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """Decoupled weight decay of AdamW (Loshchilov and Hutter 2019)."""
    warmup: Annotated[int, Range(0)] = 100
    """Updates over which the learning rate rises linearly."""
    anneal: Annotated[int, Range(0)] = 0
    """Updates at the end over which the learning rate falls linearly to nothing; 0: it stays. Until
    then a run does not depend on its length (Hu et al. 2024, warmup-stable-decay)."""
    ema: Annotated[float, Range(0, below=1)] = 0.9999
    """Decay of the averaged weights, the ones that are kept. Update n uses min(ema, (1+n)/(10+n)),
    so that a short run is not held back by its first weights."""
    clip: Annotated[float, Range(above=0)] = 1.0
    """Largest norm of the gradient over all weights."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """auto: bfloat16 autocast where the hardware multiplies bfloat16, else 32 bit."""
    checkpoint_every: Annotated[int, Range(1)] = 200
    """Updates between two checkpoints; there is always one at the end."""
    keep: Annotated[int, Range(1)] = 2
    """Newest checkpoints that are kept."""
    log_every: Annotated[int, Range(1)] = 10
    """Updates between two rows of log.csv."""
    sample_every: Annotated[int, Range(0)] = 0
    """Updates between two sets of sample pictures; 0: none."""

    def __post_init__(self) -> None:
        require_ranges(self)
        if self.precision not in ("auto", "32", "bf16"):
            raise UserError(f"precision {self.precision}: give auto, 32 or bf16")


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
