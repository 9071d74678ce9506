"""A plain diffusion model: the film is encoded into noise and decoded again.

The first ablation of Diff3M (Kim et al., MICCAI 2025): noise prediction (Ho et al. 2020) without
the masked branch and without the record; DDIM (Song et al. 2021) up to T' and back. The network
is the one that the other pixel diffusion methods train, so that it costs nothing beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from nofinding.data.ehr import EhrStats
from nofinding.methods.base.denoising import (
    DenoiserConfig,
    Denoising,
    Image,
    Residual,
    compared,
    step_indices,
    tiny_denoiser,
)
from nofinding.methods.base.protocol import Notes
from nofinding.training import TrainConfig
from nofinding.types import Batch, Scores, Supervision

__all__ = ["DDPM", "DDPMConfig"]


@dataclass(frozen=True, kw_only=True)
class DDPMConfig:
    """The denoiser, how far a film is encoded, and what of the difference is the score."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The network and its training."""
    respacing: str = "ddim25"
    """Levels kept for detection: "ddimN" for every (T/N)-th, or counts a section ("10,20")."""
    noise_level: int = 5
    """How far a film is encoded, counted in kept levels (5 of 25 is T' = 200 of 1000)."""
    score: Residual = "max_abs"
    """Which of the parts is the score. All are reported."""


class DDPM(Denoising):
    """Scores a film by what does not come back when it is encoded into noise and decoded."""

    name: ClassVar[str] = "ddpm"
    summary: ClassVar[str] = "Plain diffusion model: DDIM into noise and back, residual"
    paper: ClassVar[str] = "Kim et al., MICCAI 2025 (ablation); Ho et al., NeurIPS 2020"
    notes: ClassVar[Notes] = Notes(
        paper="Diff3M reports it as its first ablation: noise prediction alone, DDIM up to "
        "T' = 400 of 1000 and back, step by step, at 256 pixels; compared by the mean squared and "
        "by the largest difference.",
        program="Diff3M's program reaches this ablation by leaving its masked branch and its "
        "record out; its step clamps the predicted film and works the noise out anew from it "
        "(`diff3m --preset small-program`).",
        ours="The steps are those of the paper, the same as of the preset `small-ddpm` of "
        "`diff3m` with `blind_encoding` and `decode: np`; the network has the same blocks and the "
        "same loss, but a single stage of training. At 32 pixels, 5 levels each way instead of "
        "400. With a network that predicts the noise well the way back undoes the way there, "
        "whatever the film shows: what is measured is how badly it predicts.",
    )
    Config: ClassVar[type] = DDPMConfig
    PRESETS: ClassVar[Mapping[str, DDPMConfig]] = {
        "tiny": DDPMConfig(net=tiny_denoiser(), respacing="ddim50", noise_level=10),
        "small": DDPMConfig(),
        "paper": DDPMConfig(
            image_size=256,
            net=DenoiserConfig(
                width=128,
                multipliers=(1, 1, 2, 2, 4, 4),
                res_blocks=2,
                attention_at=(16,),
                norm_groups=32,
                train=TrainConfig(steps=130_000, batch_size=3, lr=1e-4, checkpoint_every=1000),
            ),
            respacing="ddim1000",
            noise_level=400,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: DDPMConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.steps = step_indices(config.net.diffusion_steps, config.respacing, config.noise_level)

    @property
    def network_calls(self) -> int:
        """One a level, up and down."""
        return 2 * int(self.config.noise_level)

    def reconstruct(self, image: Image) -> Image:
        """The film encoded and decoded."""
        latent, _ = self.denoise(image, self.steps)
        return self.denoise(latent, self.steps[::-1])[0]

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Film against film, in grey levels of [0, 1]. Draws nothing."""
        self.require_fitted()
        self.net.eval()
        image = batch.image.to(self.device)
        return compared(image, self.reconstruct(image), self.config.score)
