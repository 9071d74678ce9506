"""cDDPM: the noised film is restored by a network that is told, in a few numbers, of the clean one.

Behrendt et al., "Guided Reconstruction with Conditioned Diffusion Models for Unsupervised Anomaly
Detection in Brain MRIs", 2023 (arXiv:2312.04215). Noise hides what is particular to a film, its
brightness first of all; a code of the clean film gives that back, and is too small to hold a
lesion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.ehr import EhrStats
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.noise import generators, integers
from nofinding.methods.base.denoising import Image, compared
from nofinding.methods.base.protocol import Notes
from nofinding.methods.base.simplex_noise import SimplexDenoising, SimplexX0Config, published, tiny
from nofinding.nets.denoiser import Denoiser
from nofinding.nets.unet import Encoder, UNetShape
from nofinding.ranges import Range
from nofinding.types import Batch, Scores, Supervision

__all__ = ["CDDPM", "CDDPMConfig", "Conditioned"]


@dataclass(frozen=True, kw_only=True)
class CDDPMConfig(SimplexX0Config):
    """The denoiser, the code, and how far a film is noised."""

    code: Annotated[int, Range(1)] = 128
    """Numbers that the denoiser is told of the clean film."""
    noise_levels: tuple[int, ...] = (250, 500, 750)
    """How far a film is noised, in steps of the whole schedule; the mean of what is restored from
    each counts, and each takes a call."""


class Conditioned(nn.Module):
    """A denoiser, and the encoder that tells it of the clean film; trained together."""

    def __init__(self, shape: UNetShape, code: int) -> None:
        super().__init__()
        self.encoder = Encoder(shape, embedded=False)
        self.squeeze = nn.Linear(shape.width * shape.multipliers[-1], code)
        self.denoiser = Denoiser(shape, code=code)

    def encode(self, film: Image) -> Float[Tensor, "b k"]:
        """The code of a clean film: the deepest maps, averaged over the film."""
        code: Tensor = self.squeeze(self.encoder(film)[-1].mean((2, 3)))
        return code

    def forward(
        self, x: Image, t: Float[Tensor, " b"], code: Float[Tensor, "b k"]
    ) -> Float[Tensor, "b 1 h w"]:
        """What the denoiser makes of x, told the code."""
        out: Tensor = self.denoiser(x, t, code)
        return out


class CDDPM(SimplexDenoising):
    """Scores a film by its absolute difference from what is restored, told of its code."""

    name: ClassVar[str] = "cddpm"
    summary: ClassVar[str] = "The noised film restored in one call, given a code of the clean film"
    paper: ClassVar[str] = "Behrendt et al., 2023 (cDDPM)"
    notes: ClassVar[Notes] = Notes(
        paper="A U-Net for brain slices of 96 pixels learns to give the clean film from the one "
        "under simplex noise, conditioned on a code of 128 numbers that an encoder makes of the "
        "clean film; one call restores a film.",
        program="The encoder is a ResNet50, pretrained as a masked autoencoder (SparK) on the "
        "same films and then trained along; the code enters with the time embedding. The means of "
        "three films, restored from t = 250, 500 and 750, are compared. The noise is the same for "
        "all films of a batch and not scaled to unit variance; the schedule is the cosine.",
        ours="The encoder is a U-Net's way down with its last maps averaged, trained with the "
        "denoiser from the start: no pretraining. Every film has noise of its own at every level, "
        "scaled to unit variance. The score is the mean absolute difference over all pixels, "
        "unfiltered; the small preset is 32 pixels.",
    )
    Config: ClassVar[type] = CDDPMConfig
    PRESETS: ClassVar[Mapping[str, CDDPMConfig]] = {
        "tiny": CDDPMConfig(net=tiny(), code=16),
        "small": CDDPMConfig(),
        "paper": CDDPMConfig(image_size=96, net=published(45_000)),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY
    TRAINED_BY: ClassVar[tuple[str, ...]] = (*SimplexDenoising.TRAINED_BY, "code")

    def __init__(self, config: CDDPMConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.check_levels("noise_levels", config.noise_levels)

    @property
    def network_calls(self) -> int:
        """One a level, and the encoder's."""
        return len(self.config.noise_levels) + 1

    def new_net(self) -> nn.Module:
        """Denoiser and encoder with first weights from torch's global generator."""
        return Conditioned(self.shape, self.config.code)

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The error at a random t, the network told the code of the clean film."""
        x0, c = batch.image, self.config.net
        t = integers(0, c.diffusion_steps, rows)
        noise = self.noise(x0.shape[1:], rows).to(x0)
        x = add_noise(x0, noise, self.abar[t])
        code = cast(Conditioned, net).encode(x0)
        prediction = net(x, t.float().to(x0.device), code)
        return {"loss": self.error(prediction, noise if c.predicts == "eps" else x0)}

    def reconstruct(self, image: Image, rows: Sequence[Generator]) -> Image:
        """The mean of the films restored from each level."""
        code = cast(Conditioned, self.net).encode(image)
        restored = []
        for step in self.config.noise_levels:
            noise = self.noise(image.shape[1:], rows).to(image)
            x = add_noise(image, noise, self.abar[step])
            restored.append(self.look(x, step, code)[1])
        return torch.stack(restored).mean(0)

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Film against film, in grey levels of [0, 1]."""
        self.require_fitted()
        self.net.eval()
        image = batch.image.to(self.device)
        normal = self.reconstruct(image, generators(seed, batch.ids))
        return compared(image, normal, self.config.score)
