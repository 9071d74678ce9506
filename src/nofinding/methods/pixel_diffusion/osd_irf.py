"""OSD-IRF: how improbable the noise is that a diffusion model sees in a film that has none added.

Zhang et al., "One-Step Diffusion with Inverse Residual Fields for Unsupervised Industrial Anomaly
Detection", 2026 (arXiv:2604.18393). On normal films the field of predicted noise follows a
Gaussian; where something does not belong, it is out of place. No film is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.methods.base.denoising import (
    DenoiserConfig,
    Denoising,
    Image,
    step_indices,
    tiny_denoiser,
)
from nofinding.methods.base.protocol import Notes
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["OSDIRF", "OSDIRFConfig"]


@dataclass(frozen=True, kw_only=True)
class OSDIRFConfig(Checked):
    """The denoiser, the levels at which it is asked, and the Gaussian of its answers."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The network and its training."""
    respacing: str = "ddim50"
    """Levels of the encoding: "ddimN" for every (T/N)-th, or counts a section ("10,20")."""
    noise_level: int = 3
    """Levels at which the network is asked, the first ones kept; a call each. 1 as published."""
    most: Annotated[int, Range(2)] = 256
    """Normal films, drawn from those of the training, on which the Gaussian is fitted."""
    least_spread: Annotated[float, Range(above=0)] = 0.05
    """Added to the standard deviation of every pixel; the noise itself has one of 1."""


class OSDIRF(Denoising):
    """Scores a film by the negative log density of its field of predicted noise."""

    name: ClassVar[str] = "osd-irf"
    summary: ClassVar[str] = "How improbable the noise is that a diffusion model sees in the film"
    paper: ClassVar[str] = "Zhang et al., 2026 (OSD-IRF, arXiv:2604.18393)"
    notes: ClassVar[Notes] = Notes(
        paper="An unconditional diffusion model is trained on normal images; from the noise that "
        "it predicts for a test image an inverse residual field is worked out, whose density "
        "under a Gaussian is the score; a single step suffices, for the field is alike at "
        "neighbouring steps.",
        program="None known to us; we know the paper by its abstract.",
        ours="The field is the predicted noise itself, at the first levels of the DDIM encoding "
        "of the film, with nothing added to it. The Gaussian has a mean and a standard deviation "
        "for each pixel and level, from normal films; the score is the mean over both of half the "
        "squared deviation. The films are of the training: to hold some out would cost the "
        "network that its siblings share.",
    )
    Config: ClassVar[type] = OSDIRFConfig
    PRESETS: ClassVar[Mapping[str, OSDIRFConfig]] = {
        "tiny": OSDIRFConfig(net=tiny_denoiser()),
        "small": OSDIRFConfig(),
        "paper": OSDIRFConfig(
            image_size=256,
            net=DenoiserConfig(
                width=128,
                multipliers=(1, 1, 2, 2, 4, 4),
                res_blocks=2,
                attention_at=(16,),
                norm_groups=32,
                train=TrainConfig(steps=130_000, batch_size=3, lr=1e-4, checkpoint_every=1000),
            ),
            noise_level=1,
            most=10_000,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: OSDIRFConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.steps = step_indices(config.net.diffusion_steps, config.respacing, config.noise_level)

    @property
    def network_calls(self) -> int:
        """One a level."""
        return int(self.config.noise_level)

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains the denoiser, and fits the Gaussian to its answers on normal films.

        Raises UserError for fewer than two films, and where the training loop does.
        """
        if len(normal) < 2:
            raise UserError(f"osd-irf: {len(normal)} normal films; give 2 or more")
        super().fit(normal, seed=seed, job=job)
        fields = self.over_normals(normal, self.fields, most=self.config.most, seed=seed)
        self.statistics = {"mean": fields.mean(0), "spread": fields.std(0)}
        return self

    def fields(self, image: Image) -> Float[Tensor, "b levels h w"]:
        """The noise seen at each level of the way up."""
        return torch.cat(self.denoise(image, self.steps)[1], 1)

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The map is half the squared deviation, averaged over the levels. Draws nothing."""
        self.require_fitted()
        self.net.eval()
        fields = self.fields(batch.image.to(self.device)).cpu()
        spread = self.statistics["spread"] + self.config.least_spread
        surprise = ((fields - self.statistics["mean"]) / spread).square() / 2
        heat = surprise.mean(1, keepdim=True)
        flat = fields.flatten(1)
        parts = {
            "surprise": heat.flatten(1).mean(1),
            "highest": heat.flatten(1).amax(1),
            "eps_abs": flat.abs().mean(1),
            "eps_rms": flat.square().mean(1).sqrt(),
        }
        return Scores(score=parts["surprise"], anomaly_map=heat, components=parts)
