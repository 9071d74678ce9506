"""A repair that is led back to the film, on its way, wherever it left it without need.

Bercea, Wiestler, Rueckert and Schnabel 2024, arXiv:2403.08464 ("Diffusion Models with Implicit
Guidance for Medical Anomaly Detection", THOR: temporal harmonisation for optimal restoration).
At some levels the network's clean film is compared with the film itself; where they are alike,
the film takes its place, and the way down goes on from the mixture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Generator, Tensor

from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.morphology import close, dilate
from nofinding.functional.noise import generators
from nofinding.functional.sampler import add_noise, ddpm_step
from nofinding.methods.denoising import DenoiserConfig, Image, tiny_denoiser
from nofinding.methods.protocol import Notes
from nofinding.methods.repairing import Repairing, require_start
from nofinding.nets.perceptual import Perceptual
from nofinding.training import TrainConfig
from nofinding.types import Batch, Scores, Supervision

__all__ = ["THOR", "THORConfig"]

FLAT = 1e-9  # a discrepancy that never exceeds this on normal films has no scale


@dataclass(frozen=True, kw_only=True)
class THORConfig:
    """The denoiser, where the way down is led back, and by which mask."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The denoiser."""
    start: int = 350
    """Noise level that the repair begins at."""
    stride: int = 50
    """Steps of the whole schedule between two calls of the network."""
    harmonise: tuple[int, ...] = (300, 150, 50)
    """Levels at which the film is mixed in; they must be `start` less whole strides."""
    percentile: float = 98.0
    """Share of the pixels of normal films, in percent, whose change is below the mask's 1."""
    close: int = 1
    """Gaps of the mask up to twice so many pixels are closed."""
    dilate: int = 1
    """Pixels by which the mask grows."""
    perceptual_size: int = 64
    """Side at which the perceptual network sees the films, in pixels."""


class THOR(Repairing):
    """Scores a film by the mean of residual times perceptual distance from its repair."""

    name: ClassVar[str] = "thor"
    summary: ClassVar[str] = "Repair that is led back to the film where they are alike"
    paper: ClassVar[str] = "Bercea et al. 2024 (THOR)"
    notes: ClassVar[Notes] = Notes(
        paper="The film is noised by Gaussian noise to t = 350 and denoised step by step. At t in "
        "{300, 150, 50} the clean film x0 that the network sees becomes m x0 + (1 - m) x, with m "
        "the map of change so far, normalised, closed and dilated, and is noised again with the "
        "same noise.",
        program="Not consulted beyond these settings.",
        ours="m is 1 from the 98th percentile of the pixels of at most 32 training films on, a "
        "percentile for each of the levels; they are the films that the denoiser learnt from, so "
        "that a denoiser can be shared between methods. The change is the difference of greys "
        "times a perceptual distance without learned weights, by EfficientNet-Lite0. The same "
        "noise is read as that which the film was given at first. By default every 50th step "
        "is called, 7 in all. Map and score are of the last film alone: how the authors join the "
        "maps of several levels was not in our sources.",
    )
    Config: ClassVar[type] = THORConfig
    PRESETS: ClassVar[Mapping[str, THORConfig]] = {
        "tiny": THORConfig(net=tiny_denoiser(), perceptual_size=32),
        "small": THORConfig(),
        "paper": THORConfig(
            image_size=128,
            net=DenoiserConfig(
                width=128,
                multipliers=(1, 2, 2),
                res_blocks=2,
                attention_at=(32,),
                norm_groups=32,
                train=TrainConfig(steps=100_000, batch_size=8, lr=1e-4),
            ),
            stride=1,
            close=3,
            dilate=3,
            perceptual_size=128,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: THORConfig, stats: EhrStats) -> None:
        if config.stride < 1:
            raise UserError(f"stride: {config.stride} is not allowed; give 1 or more")
        self.path = list(range(config.start, 0, -config.stride))
        require_start("start", config.start, len(self.path), config.net.diffusion_steps)
        for k in config.harmonise:
            if k not in self.path:
                raise UserError(
                    f"harmonise: {k} is not allowed; give some of {', '.join(map(str, self.path))}"
                )
        if not 0 < config.percentile < 100:
            raise UserError(f"percentile: {config.percentile}: give more than 0 and less than 100")
        if config.close < 0 or config.dilate < 0:
            raise UserError(f"close: {config.close}, dilate: {config.dilate}: give 0 or more each")
        super().__init__(config, stats)
        self.perceptual = Perceptual()

    @property
    def network_calls(self) -> int:
        """One a level, and two of the perceptual network at each mixture and for the map."""
        return len(self.path) + 2 * (len(self.config.harmonise) + 1)

    def repair(
        self, image: Image, rows: Sequence[Generator], scale: Callable[[int, Image], Tensor]
    ) -> Image:
        """The film noised to `start` and brought back. `scale` says, for a level and the
        discrepancies there, which one is the mask's 1."""
        first = self.noise(image.shape[1:], rows).to(image)
        x = add_noise(image, first, self.left(self.path[0]))
        for k, to in pairwise([*self.path, None]):
            assert k is not None
            _, x0 = self.look(x, k)
            if k in self.config.harmonise:
                found = self.discrepancy(image, x0)
                mask = self.mask(found, scale(k, found).to(image))
                x0 = mask * x0 + (1 - mask) * image
                x = add_noise(x0, first, self.left(k))
            noise = self.noise(image.shape[1:], rows).to(image)
            x = ddpm_step(x, x0, noise, self.left(k), self.left(to))
        return x

    def mask(self, found: Image, one: Tensor) -> Image:
        """0 where the repair is like the film, 1 where it changed by `one` or more."""
        m = (found / one.clamp_min(FLAT)).clamp(0, 1)
        return dilate(close(m, self.config.close), self.config.dilate)

    def measure(self, image: Image, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The discrepancy at each mixture that few pixels of normal films exceed; later ones
        depend on the earlier, so they are taken on the way."""
        learnt: dict[str, Tensor] = {}

        def scale(k: int, found: Image) -> Tensor:
            learnt[str(k)] = found.quantile(self.config.percentile / 100)
            return learnt[str(k)]

        self.repair(image, rows, scale)
        return learnt

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Map and score are greys of [0, 1] times a squared distance of at most 4."""
        self.require_fitted()
        self.net.eval()
        image = batch.image.to(self.device)
        rows = generators(seed, batch.ids)
        normal = self.repair(image, rows, lambda k, found: self.scales[str(k)])
        found = self.discrepancy(image, normal).cpu()
        parts = {
            "mean": found.mean((1, 2, 3)),
            "max": found.amax((1, 2, 3)),
            "mae": ((image - normal).abs() / 2).mean((1, 2, 3)).cpu(),
        }
        return Scores(score=parts["mean"], map=found, normal=normal.clamp(-1, 1).cpu(), parts=parts)
