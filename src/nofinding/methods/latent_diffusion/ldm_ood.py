"""What a latent diffusion model cannot bring back is abnormal: films and volumes.

Graham et al., "Unsupervised 3D out-of-distribution detection with latent diffusion models",
MICCAI 2023, arXiv:2307.03777. Its version on pixels is `ddpm_ood.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from nofinding.data.ehr import EhrStats
from nofinding.functional.diffusion.plms import plms
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.image.residual import mse
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.latent_diffusion import (
    CodecConfig,
    LatentConfig,
    LatentDiffusion,
    UNetConfig,
    tiny_latent,
)
from nofinding.methods.base.protocol import Notes
from nofinding.methods.base.restarts import MEASURES, Restarts, statistics, z_scores
from nofinding.ranges import Range
from nofinding.training import TrainConfig
from nofinding.types import Batch, Scores, Supervision

__all__ = ["LDMOOD", "LDMOODConfig", "paper_networks", "small_volumes"]


@dataclass(frozen=True, kw_only=True)
class LDMOODConfig(LatentConfig):
    """The two networks, and from where the denoising is started."""

    grid: int = 10
    """Noise levels that a sampling from pure noise would visit; 100 in the paper."""
    skip: int = 2
    """Every so manyth level of the grid is a start, beginning with the second."""
    deepest: int = 300
    """Highest level to start from, of `unet.diffusion_steps`."""
    slice_stride: Annotated[int, Range(1)] = 1
    """Of a volume, every so manyth slice along each axis is compared perceptually."""


def small_volumes() -> dict[str, Any]:
    """Networks for volumes of 32 voxels a side that one CPU thread trains in minutes."""
    small = LatentConfig()
    return {
        "dimensions": 3,
        "image_size": 32,
        "held_out": 0.2,
        "codec": replace(
            small.codec, train=replace(small.codec.train, steps=260, batch_size=4, lr=2e-3)
        ),
        "unet": replace(
            small.unet, train=replace(small.unet.train, steps=500, batch_size=4, lr=1e-3)
        ),
    }


def paper_networks() -> dict[str, Any]:
    """Both networks as published."""
    published = TrainConfig(
        steps=100_000, batch_size=64, lr=3e-4, warmup=0, ema=0.0, clip=1e6, precision="32"
    )
    return {
        "codec": CodecConfig(
            channels=(256, 256, 256, 256),
            res_blocks=3,
            latent_channels=128,
            codes=2048,
            perceptual_weight=0.001,
            train=published,
        ),
        "unet": UNetConfig(
            channels=(128, 256, 256),
            norm_groups=32,
            train=replace(published, lr=2.5e-5, precision="auto"),
        ),
    }


class LDMOOD(LatentDiffusion):
    """z-scores of what is lost on the way from several noise levels of the latent, averaged."""

    name: ClassVar[str] = "ldm-ood"
    summary: ClassVar[str] = "A latent denoised from several noise levels; films or volumes"
    paper: ClassVar[str] = "Graham et al., MICCAI 2023"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "A VQ-VAE (four levels of 256 channels, 2,048 codes of 128 numbers, decay 0.9) makes "
            "a volume small; a U-Net (128, 256, 256 channels, attention at the last level) "
            "denoises what is small. The latent is noised to many levels, denoised from each by "
            "PLMS, decoded and compared with the volume by mean squared error and LPIPS; the "
            "score is the mean over levels of the summed z-scores under validation volumes. The "
            "VQ-VAE is trained by L1, commitment, a patch discriminator, LPIPS (0.001) and the "
            "difference of spectra."
        ),
        program=(
            "MONAI's networks, with a discriminator weight of 0.01 and Adam at 3e-4 and 2.5e-5; "
            "latents are scaled by a number given by hand. The sampler is not reset between two "
            "starts. In 3-D, LPIPS "
            "is taken along the three axes, but only that along the last one is kept."
        ),
        ours=(
            "MONAI's networks, without the patch discriminator: it needs a second optimiser that "
            "alternates with the first, which the one training loop here does not do, so that "
            "decoded films are smoother. Codes begin at encodings of training films, and every "
            "channel of the latent is standardised. The z-scores come from training films that "
            "the networks were not shown (chosen by film: a method is not told who the patient "
            "is). Each start begins afresh and ends at a clean latent. LPIPS has all weights 1, "
            "looks through EfficientNet-Lite0, and in 3-D is the mean over the slices along all "
            "three axes. The default is for films of 64 pixels, without LPIPS in the training of "
            "the VQ-VAE, on a grid of 10 levels up to 300; the number of updates of `paper` is "
            "ours, and its volumes are cubes of 128 voxels."
        ),
    )
    Config: ClassVar[type] = LDMOODConfig
    PRESETS: ClassVar[Mapping[str, LDMOODConfig]] = {
        "tiny": LDMOODConfig(**tiny_latent()),
        "small": LDMOODConfig(),
        "small-3d": LDMOODConfig(**small_volumes(), slice_stride=2),
        "paper": LDMOODConfig(
            **paper_networks(),
            dimensions=3,
            image_size=128,
            held_out=0.1,
            grid=100,
            skip=4,
            deepest=1000,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: LDMOODConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.restarts = Restarts.of(
            config.unet.diffusion_steps, config.grid, config.skip, config.deepest
        )

    @property
    def network_calls(self) -> int:
        """Of the U-Net: every level below each start, and one more for its first step. The
        encoder is called once, the decoder once a start."""
        return self.restarts.calls

    @torch.no_grad()
    def come_back(self, batch: Batch, seed: int) -> list[Tensor]:
        """What comes back from every start, in [-1, 1]. Each start has noise of its own."""
        net, rows = self.fitted_or_fitting(), generators(seed, batch.ids)
        z0 = net.encode(batch.image.to(self.device))
        reconstructions = []
        for path in self.restarts.paths:
            noise = gaussian(z0.shape[1:], rows).to(z0)
            z = add_noise(z0, noise, self.abar[path[0]])
            reconstructions.append(net.decode(plms(self.look, z, path, self.abar)))
        return reconstructions

    @torch.no_grad()
    def measured(self, image: Tensor, reconstructions: list[Tensor]) -> Tensor:
        """Both measures of every film and start, (b, t, 2); grey levels of [0, 1]."""
        x0 = image.to(self.device)
        squares = torch.stack([mse((x0 + 1) / 2, (x + 1) / 2) for x in reconstructions], dim=1)
        gaps = self.gap.to(self.device)(x0, reconstructions)
        return torch.stack([squares, gaps], dim=2).cpu()

    def calibrated(self, held: Iterator[Batch], seed: int) -> dict[str, Tensor]:
        """Mean and spread of each measure at each start."""
        return statistics([self.measured(b.image, self.come_back(b, seed)) for b in held])

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Score and parts in spreads of the normal films, the map in grey levels of [0, 1].

        The map is the mean |x - x'| over the starts; the film shown came back from the middle one.
        """
        self.fitted()
        reconstructions = self.come_back(batch, seed)
        z = z_scores(self.measured(batch.image, reconstructions), self.learnt)
        image = batch.image.to(reconstructions[0])
        gaps = torch.stack([(image - x).abs() for x in reconstructions]).mean(0) / 2
        parts = {name: z[:, :, i].mean(1) for i, name in enumerate(MEASURES)}
        return Scores(
            score=z.sum(2).mean(1),
            anomaly_map=gaps.cpu(),
            reconstruction=reconstructions[len(reconstructions) // 2].cpu(),
            components=parts,
        )
