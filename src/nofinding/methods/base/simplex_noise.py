"""What the methods share that noise a film with simplex noise.

Wyatt et al. (AnoDDPM, CVPR Workshops 2022) brought it in; Behrendt et al. (pDDPM, cDDPM) and Iqbal
et al. (mDDPM) took it over, with a network that gives the clean film at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from torch import Generator, Tensor

from nofinding.errors import UserError
from nofinding.functional.noise import simplex
from nofinding.methods.base.denoising import DenoiserConfig, Denoising, Residual, tiny_denoiser
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig

__all__ = ["SimplexDenoising", "SimplexX0Config", "published", "short", "tiny"]


def short() -> DenoiserConfig:
    """The small denoiser that gives the clean film, trained for about a minute."""
    return DenoiserConfig(
        schedule="cosine",
        predicts="x0",
        loss="l1",
        train=TrainConfig(steps=320, batch_size=16, lr=1.5e-3, warmup=40, ema=0.99),
    )


def tiny() -> DenoiserConfig:
    """The same for tests."""
    return tiny_denoiser(schedule="cosine", predicts="x0", loss="l1")


def published(steps: int) -> DenoiserConfig:
    """The published network, for films of 96 pixels."""
    return DenoiserConfig(
        width=128,
        multipliers=(1, 2, 2),
        res_blocks=3,
        attention_at=(24,),
        norm_groups=32,
        schedule="cosine",
        predicts="x0",
        loss="l1",
        train=TrainConfig(steps=steps, batch_size=32, lr=1e-4, warmup=0, checkpoint_every=1000),
    )


@dataclass(frozen=True, kw_only=True)
class SimplexX0Config(Checked):
    """A denoiser that gives the clean film under simplex noise."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=short)
    """The network and its training."""
    octaves: Annotated[int, Range(1)] = 6
    """Simplex noises that are added up, each half as coarse as the one before; those finer than 2
    pixels are left out."""
    persistence: Annotated[float, Range(above=0, high=1)] = 0.8
    """Strength of each octave, relative to the one before."""
    wavelength: Annotated[float, Range(above=0, high=4)] = 2 / 3
    """Size of the features of the coarsest octave, in sides of the film (64 of 96 pixels)."""
    score: Residual = "mae"
    """Which of the parts is the score. All are reported."""


class SimplexDenoising(Denoising):
    """A detector around one denoiser of simplex noise. Its config says `octaves`, `persistence` and
    `wavelength`."""

    TRAINED_BY: ClassVar[tuple[str, ...]] = ("octaves", "persistence", "wavelength")

    def check_levels(self, name: str, levels: Sequence[int]) -> None:
        """Raises UserError for steps that the schedule does not have, or none."""
        top = self.config.net.diffusion_steps - 1
        if not levels or not all(1 <= k <= top for k in levels):
            text = ", ".join(str(k) for k in levels)
            raise UserError(f"{name} {text}: give 1 to {top}")

    def noise(self, shape: Sequence[int], rows: Sequence[Generator]) -> Tensor:
        """Simplex noise."""
        c = self.config
        return simplex(
            shape,
            rows,
            wavelength=c.wavelength * c.image_size,
            octaves=c.octaves,
            persistence=c.persistence,
        )
