"""Where a latent diffusion model is surprised, the film is painted anew: films and volumes.

Pinaya et al., "Fast unsupervised brain anomaly detection and segmentation with diffusion models",
MICCAI 2022, arXiv:2206.03461.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.divergence import step_kl
from nofinding.functional.diffusion.sampler import add_noise, ddpm_step, predict_x0
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.latent_diffusion import (
    Latent,
    LatentConfig,
    LatentDiffusion,
    tiny_latent,
)
from nofinding.methods.base.protocol import Notes
from nofinding.methods.latent_diffusion.ldm_ood import paper_networks, small_volumes
from nofinding.ranges import Range
from nofinding.types import Batch, Scores, Supervision

__all__ = ["LDMKL", "LDMKLConfig", "repaint", "smooth_mask"]

Mask = Float[Tensor, "b 1 *i"]


@dataclass(frozen=True, kw_only=True)
class LDMKLConfig(LatentConfig):
    """The two networks, where surprise is measured, and how the flagged part is painted anew."""

    lowest: int = 400
    """Lowest noise level at which surprise is measured, of `unet.diffusion_steps`."""
    highest: int = 600
    """Highest one."""
    kl_stride: Annotated[int, Range(1)] = 50
    """Every so manyth level between them is measured; 1 in the paper."""
    variance: Literal["posterior", "beta"] = "posterior"
    """Of the network's step: that of the true step back, or that of the step forth."""
    percentile: Annotated[float, Range(above=0, below=100)] = 97.5
    """A position is flagged where its surprise is above this percentile of held-out films."""
    start: int = 500
    """Noise level from which the flagged positions are painted anew."""
    paint_stride: Annotated[int, Range(1)] = 50
    """Levels from one step of that to the next; 1 in the paper."""


class LDMKL(LatentDiffusion):
    """The surprise at every position of the latent, averaged; the map is what was painted anew."""

    name: ClassVar[str] = "ldm-kl"
    summary: ClassVar[str] = "Surprise of a latent diffusion model; films or volumes"
    paper: ClassVar[str] = "Pinaya et al., MICCAI 2022"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "A VQ-VAE makes the film small, and a diffusion model learns normal latents. Between "
            "t = 400 and 600 the divergence of the true step back from the model's, the terms "
            "L_t-1 of the variational bound, is averaged at every position of the latent. "
            "Positions above the 97.5th percentile of healthy validation films are painted anew "
            "from t = 500 while the noised original is copied everywhere else. The map is the "
            "difference from the decoded result, times the mask, smoothed and enlarged."
        ),
        program="The authors published none; constants of the smoothing are not known.",
        ours=(
            "The networks of `ldm-ood`, so that both can share them, with its differences: no "
            "patch discriminator, standardised latents. The percentile is of all positions of "
            "training films that the networks were not shown. Divergences of a position's "
            "numbers are summed, as those of independent Gaussians are, and the network's "
            "variance is fixed to that of the true step, so that only means differ. The mask is "
            "averaged over 3 positions along every axis and enlarged linearly. The score of a "
            "film is its mean divergence. The default measures at 5 levels and paints in 11 "
            "steps of 50 levels; `paper` does both at every level, with the networks of `ldm-ood`."
        ),
    )
    Config: ClassVar[type] = LDMKLConfig
    PRESETS: ClassVar[Mapping[str, LDMKLConfig]] = {
        "tiny": LDMKLConfig(**tiny_latent(), kl_stride=100, paint_stride=250),
        "small": LDMKLConfig(),
        "small-3d": LDMKLConfig(**small_volumes()),
        "paper": LDMKLConfig(
            **paper_networks(),
            image_size=128,
            held_out=0.1,
            kl_stride=1,
            paint_stride=1,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: LDMKLConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        c, steps = config, config.unet.diffusion_steps
        if not 1 <= c.lowest <= c.highest < steps:
            raise UserError(
                f"lowest {c.lowest} and highest {c.highest}: give 1 to {steps - 1}, in that order"
            )
        if not 1 <= c.start < steps:
            raise UserError(f"start {c.start}: give 1 to {steps - 1}")
        self.levels = [*range(c.lowest, c.highest + 1, c.kl_stride)]
        self.path = [*range(c.start, -1, -c.paint_stride)]

    @property
    def network_calls(self) -> int:
        """Of the U-Net: one a level that is measured, and one a step that is painted. Encoder and
        decoder are called once."""
        return len(self.levels) + len(self.path)

    @torch.no_grad()
    def surprise(self, z0: Latent, rows: list[Generator]) -> Float[Tensor, "b 1 *i"]:
        """The divergence of a step back at every position, in nats, averaged over the levels."""
        total = torch.zeros_like(z0[:, :1])
        for t in self.levels:
            z = add_noise(z0, gaussian(z0.shape[1:], rows).to(z0), self.abar[t])
            estimate = predict_x0(z, self.look(z, t), self.abar[t])
            here, there = float(self.abar[t]), float(self.abar[t - 1])
            kl = step_kl(z, z0, estimate, here, there, self.config.variance)
            total += kl.sum(1, keepdim=True)
        return total / len(self.levels)

    @torch.no_grad()
    def calibrated(self, held: Iterator[Batch], seed: int) -> dict[str, Tensor]:
        """The surprise that `percentile` % of the positions of held-out films stay below."""
        surprises = []
        for batch in held:
            z0 = self.fitted_or_fitting().encode(batch.image.to(self.device))
            surprises.append(self.surprise(z0, generators(seed, batch.ids)).flatten().cpu().numpy())
        limit = np.percentile(np.concatenate(surprises), self.config.percentile)
        return {"limit": torch.tensor([limit], dtype=torch.float32)}

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The mean surprise in nats; the map is the masked |x - x'| in grey levels of [0, 1]."""
        net = self.fitted()
        image, rows = batch.image.to(self.device), generators(seed, batch.ids)
        z0 = net.encode(image)
        kl = self.surprise(z0, rows)
        mask = (kl > self.learnt["limit"].to(kl)).to(z0)
        painted = repaint(self.look, z0, mask, self.path, self.abar, rows)
        normal = net.decode(painted)
        difference = (image - normal).abs() / 2 * smooth_mask(mask, tuple(image.shape[2:]))
        score = kl.double().flatten(1).mean(1).float()
        return Scores(
            score=score.cpu(),
            anomaly_map=difference.cpu(),
            reconstruction=normal.cpu(),
            components={
                "kl": score.cpu(),
                "largest_kl": kl.flatten(1).amax(1).cpu(),
                "flagged": mask.flatten(1).mean(1).cpu(),
                "residual": difference.flatten(1).mean(1).cpu(),
            },
        )


def repaint(
    look: Callable[[Latent, int], Latent],
    z0: Latent,
    mask: Mask,
    path: Sequence[int],
    abar: Float[Tensor, " T"],
    rows: Sequence[Generator],
) -> Latent:
    """z0 with the masked positions drawn anew, from level path[0] down to a clean latent.

    After every step the other positions are those of z0 under noise of that level, so that what
    is drawn fits what surrounds it.
    """
    fixed = mask == 0

    def draw() -> Latent:
        return gaussian(z0.shape[1:], rows).to(z0)

    z = add_noise(z0, draw(), abar[path[0]])
    for k, after in zip(path, [*path[1:], None], strict=True):
        estimate = predict_x0(z, look(z, k), abar[k])
        if after is None:
            return torch.where(fixed, z0, estimate)
        z = ddpm_step(z, estimate, draw(), abar[k], abar[after])
        z = torch.where(fixed, add_noise(z0, draw(), abar[after]), z)
    raise AssertionError("unreachable: the path has an end")


def smooth_mask(mask: Mask, size: tuple[int, ...]) -> Mask:
    """The mask of the latent on the grid of the film, in [0, 1]: averaged over 3 positions along
    every axis, and enlarged linearly."""
    pool, mode = (F.avg_pool2d, "bilinear") if mask.ndim == 4 else (F.avg_pool3d, "trilinear")
    soft = pool(mask, 3, stride=1, padding=1, count_include_pad=False)
    return F.interpolate(soft, size=size, mode=mode, align_corners=False)
