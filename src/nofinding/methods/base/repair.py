"""What the methods share that repair a film by a denoiser and measure where it changed.

Beside the denoiser they learn one thing more from normal films: how much these change by
themselves. The original programs take such numbers from the films that they judge.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Generator, Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import ddpm_step
from nofinding.functional.noise import generators
from nofinding.methods.base.denoising import DenoiserConfig, Denoising, Image
from nofinding.nets.perceptual import Perceptual
from nofinding.training import TrainConfig, TrainingRun

__all__ = ["MEASURED", "Repairing", "grown", "levels", "published_denoiser", "require_start"]

MEASURED = 32  # training films, at most, that set the scale

SCALE = "scale."  # before the names of the scales in a model


def published_denoiser() -> DenoiserConfig:
    """The denoiser of both published programs (AutoDDPM, THOR), for films of 128 pixels."""
    return DenoiserConfig(
        width=128,
        multipliers=(1, 2, 2),
        res_blocks=2,
        attention_at=(32,),
        norm_groups=32,
        train=TrainConfig(steps=100_000, batch_size=8, lr=1e-4),
    )


def levels(start: int, steps: int) -> list[int]:
    """`steps` noise levels from `start` down, evenly spread; the clean film is one step below."""
    return [round(start * (steps - i) / steps) for i in range(steps)]


def require_start(name: str, start: int, steps: int, top: int) -> None:
    """Raises UserError unless `steps` different levels lie in 1 to `start`, below `top` = T."""
    if not 1 <= start < top:
        raise UserError(f"{name} {start}: give 1 to {top - 1}")
    if not 1 <= steps <= start:
        raise UserError(f"{name}: {steps} levels from {start} down; give 1 to {start} of them")


class Repairing(Denoising):
    """A denoiser, and scales that normal films set. A subclass says what it measures on them."""

    perceptual: Perceptual

    def __init__(self, config: Any, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.scales: dict[str, Tensor] = {}

    def measure(self, image: Image, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The scales, from normal films and a generator for each."""
        raise NotImplementedError

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains the denoiser, then measures some of the same films. Raises UserError where the
        loop does."""
        job = job or TrainingRun()
        super().fit(normal, seed=seed, job=job)
        self.after_training(normal, seed=seed, job=job)
        self._measure(normal, seed, job)
        return self

    def after_training(self, normal: Films, *, seed: int, job: TrainingRun) -> None:
        """What is learnt once the denoiser is there, and before it is measured: nothing."""

    @torch.no_grad()
    def _measure(self, normal: Films, seed: int, job: TrainingRun) -> None:
        """Films and noise follow from the seed alone."""
        home = self.device
        if job.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
            self.net.to("cuda")
        elif job.accelerator == "mps":
            self.net.to("mps")
        chance = generators(seed, ["measured"])[0]
        indices = torch.randperm(len(normal), generator=chance)[:MEASURED].tolist()
        batch = normal.batch(indices)
        rows = generators(seed, [f"measured/{place}" for place in indices])
        measured = self.measure(batch.image.to(self.device), rows)
        self.scales = {name: value.float().cpu() for name, value in measured.items()}
        self.net.to(home)

    def left(self, k: int | None) -> Float64[Tensor, ""]:
        """abar at step k of the whole schedule; None is the clean film."""
        return torch.ones((), dtype=torch.float64) if k is None else self.abar[k]

    def descend(self, x: Image, path: Sequence[int], rows: Sequence[Generator]) -> Image:
        """From x at level path[0] to a clean film: a draw at each level, given what the network
        sees (Ho et al. 2020, algorithm 2, on fewer levels)."""
        for k, to in pairwise([*path, None]):
            assert k is not None
            _, x0 = self.look(x, k)
            noise = self.noise(x.shape[1:], rows).to(x)
            x = ddpm_step(x, x0, noise, self.left(k), self.left(to))
        return x

    def discrepancy(self, x: Image, normal: Image) -> Image:
        """The difference of grey levels times the perceptual distance, at every pixel.

        The perceptual network sees both films at `config.perceptual_size` pixels.
        """
        return self.distance(x, normal) * (x - normal).abs() / 2

    def distance(self, x: Image, normal: Image) -> Image:
        """The perceptual distance at every pixel."""
        network = self.perceptual.to(x.device)
        side = self.config.perceptual_size
        result = network.map(grown(x, side), grown(normal.clamp(-1, 1), side))
        return grown(result, x.shape[-1])

    def state(self) -> dict[str, Tensor]:
        """The denoiser, and the scales."""
        return {**super().state(), **{SCALE + name: value for name, value in self.scales.items()}}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.scales = {
            name.removeprefix(SCALE): value
            for name, value in state.items()
            if name.startswith(SCALE)
        }
        super().load_state({n: value for n, value in state.items() if not n.startswith(SCALE)})


def grown(x: Image, side: int) -> Image:
    """The film at another side, in pixels; as it is where it has it already."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
