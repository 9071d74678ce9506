"""AnoDDPM: the film under simplex noise, denoised; what the model would not have put there.

Wyatt et al., "AnoDDPM: Anomaly Detection With Denoising Diffusion Probabilistic Models Using
Simplex Noise", CVPR Workshops 2022. Gaussian noise hides fine detail only, so that a large lesion
shows through and is drawn again; simplex noise has coarse features, too, and hides it. The noise
needs to go a quarter of the way only, which keeps what is normal in place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator

from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, ddpm_step
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.denoising import (
    DenoiserConfig,
    Image,
    Residual,
    compared,
    tiny_denoiser,
)
from nofinding.methods.base.protocol import Notes
from nofinding.methods.base.simplex_noise import SimplexDenoising
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig
from nofinding.types import Batch, Scores, Supervision

__all__ = ["AnoDDPM", "AnoDDPMConfig"]


def _short() -> DenoiserConfig:
    return DenoiserConfig(
        train=TrainConfig(steps=320, batch_size=16, lr=1.5e-3, warmup=40, ema=0.99)
    )


@dataclass(frozen=True, kw_only=True)
class AnoDDPMConfig(Checked):
    """The denoiser, its noise, and how far a film is noised."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=_short)
    """The network and its training."""
    octaves: Annotated[int, Range(1)] = 6
    """Simplex noises that are added up, each half as coarse as the one before; those finer than 2
    pixels are left out."""
    persistence: Annotated[float, Range(above=0, high=1)] = 0.8
    """Strength of each octave, relative to the one before."""
    wavelength: Annotated[float, Range(above=0, high=4)] = 0.25
    """Size of the features of the coarsest octave, in sides of the film (64 of 256 pixels)."""
    noise_level: int = 250
    """How far a film is noised, in steps of the whole schedule."""
    stride: Annotated[int, Range(1)] = 25
    """Steps that one call denoises; 1 as published."""
    step_noise: Literal["gaussian", "simplex"] = "gaussian"
    """The fresh noise of each step on the way back."""
    clamp: bool = False
    """Clamp the clean film that the network sees to the grey levels there are, at every step."""
    variance: Literal["posterior", "beta"] = "posterior"
    """Variance of each step on the way back: of the posterior, or the schedule's beta, which is
    larger (Ho et al. 2020, section 3.2)."""
    score: Residual = "mse"
    """Which of the parts is the score. All are reported."""


def _published() -> AnoDDPMConfig:
    return AnoDDPMConfig(
        image_size=256,
        net=DenoiserConfig(
            width=128,
            multipliers=(1, 1, 2, 2, 4, 4),
            res_blocks=2,
            attention_at=(16, 8),
            heads=2,
            norm_groups=32,
            # 3,000 epochs at one film a batch, counted for 100 films.
            train=TrainConfig(steps=300_000, batch_size=1, lr=1e-4, checkpoint_every=1000),
        ),
        stride=1,
    )


class AnoDDPM(SimplexDenoising):
    """Scores a film by its squared difference from what the model makes of it under noise."""

    name: ClassVar[str] = "anoddpm"
    summary: ClassVar[str] = "Simplex noise to a quarter of the way, denoised: squared residual"
    paper: ClassVar[str] = "Wyatt et al., CVPR Workshops 2022 (AnoDDPM)"
    notes: ClassVar[Notes] = Notes(
        paper="A U-Net for 256 pixels learns to predict simplex noise of 6 octaves, persistence "
        "0.8 and a starting frequency of 64 pixels; a film is noised to t = 250 of 1000 and "
        "denoised step by step, and the squared difference is the map.",
        program="Every octave is a slice of three-dimensional OpenSimplex noise at the height "
        "t; one slice is drawn and repeated over the batch, without scaling it to the unit "
        "variance that the schedule counts on. The steps back clamp the clean film to "
        "[-1, 1] and add Gaussian noise of variance beta by default. Batches hold one slice, for "
        "3,000 epochs.",
        ours="Every film has noise of its own, from its id, of two-dimensional OpenSimplex at a "
        "random place, scaled to unit variance: a batch that shares its noise would make a score "
        "depend on its neighbours. The starting frequency is kept as a share of the side, and "
        "octaves that the pixels cannot show are left out. The small preset, at 32 pixels, "
        "takes 25 steps of the schedule at once. `paper-program` clamps and uses beta as the "
        "program does; the others draw from the posterior.",
    )
    Config: ClassVar[type] = AnoDDPMConfig
    PRESETS: ClassVar[Mapping[str, AnoDDPMConfig]] = {
        "tiny": AnoDDPMConfig(net=tiny_denoiser(), stride=50),
        "small": AnoDDPMConfig(),
        "paper": _published(),
        "paper-program": replace(_published(), clamp=True, variance="beta"),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: AnoDDPMConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.check_levels("noise_level", (config.noise_level,))
        if config.stride > config.noise_level:
            raise UserError(f"stride {config.stride}: give 1 to {config.noise_level}")
        self.steps = list(range(config.noise_level, 0, -config.stride))

    @property
    def network_calls(self) -> int:
        """One a step down."""
        return len(self.steps)

    def reconstruct(self, image: Image, rows: Sequence[Generator]) -> Image:
        """The film noised and denoised."""
        shape = image.shape[1:]
        fresh = self.noise if self.config.step_noise == "simplex" else gaussian
        x = add_noise(image, self.noise(shape, rows).to(image), self.abar[self.steps[0]])
        for here, there in zip(self.steps, self.steps[1:], strict=False):
            _, x0 = self.look(x, here)
            x0 = self._clamped(x0)
            x = ddpm_step(
                x,
                x0,
                fresh(shape, rows).to(x),
                self.abar[here],
                self.abar[there],
                variance=self.config.variance,
            )
        return self._clamped(self.look(x, self.steps[-1])[1])  # q(x_0 | x, x0) is x0 itself

    def _clamped(self, x0: Image) -> Image:
        return x0.clamp(-1, 1) if self.config.clamp else x0

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Film against film, in grey levels of [0, 1]."""
        self.require_fitted()
        self.net.eval()
        image = batch.image.to(self.device)
        normal = self.reconstruct(image, generators(seed, batch.ids))
        return compared(image, normal, self.config.score)
