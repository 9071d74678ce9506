"""Films and quick settings for the tests of the latent methods."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.methods.base.cached_latents import LatentConfig, LatentUNet
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Exam, Pixels

SIDE = 16
NO_RECORD = EhrStats.of([], [])
QUIET = TrainingRun(progress=False, accelerator="cpu")


@dataclass(frozen=True)
class Blocks:
    """Two grey blocks of random height and strength."""

    seed: int

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        film = np.full((SIDE, SIDE), 0.2, np.float32)
        film[rng.integers(2, 6) : 12, 2:7] = rng.uniform(0.5, 0.9)
        film[rng.integers(2, 6) : 12, 9:14] = rng.uniform(0.5, 0.9)
        return film


def films(numbers: Sequence[int]) -> Films:
    exams = [
        Exam(image_id=f"film-{n}", patient_id=str(n), pixels=Blocks(n), ehr={}) for n in numbers
    ]
    return Films(exams, NO_RECORD, SIDE)


def quick(steps: int) -> TrainConfig:
    return TrainConfig(steps=steps, batch_size=4, lr=3e-3, warmup=2, ema=0.5)


AUTOENCODER = LatentConfig(width=8, norm_groups=2, patch=1, multipliers=(1, 2), train=quick(6))
NET = LatentUNet(width=8, multipliers=(1, 2), attention_at=(), heads=1, norm_groups=2)
