"""Repair, mask what changed, and repair only that again, stitched into the film itself.

Bercea, Neumayr, Rueckert and Schnabel 2023, arXiv:2305.19643 ("Mask, Stitch, and Re-Sample",
AutoDDPM). A first repair from much noise says where the film is unlike normal ones, but loses
detail everywhere. So only what is masked stays repaired; from little noise the network then
makes both parts fit, going back and forth (RePaint, Lugmayr et al. 2022, arXiv:2201.09865).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor

from nofinding.data.ehr import EhrStats
from nofinding.functional.diffusion.sampler import add_noise, ddpm_step
from nofinding.functional.image.morphology import dilate
from nofinding.functional.noise import generators
from nofinding.methods.base.denoising import DenoiserConfig, Image, tiny_denoiser
from nofinding.methods.base.protocol import Notes
from nofinding.methods.base.repair import Repairing, levels, published_denoiser, require_start
from nofinding.nets.perceptual import Perceptual
from nofinding.ranges import Checked, Range
from nofinding.types import Batch, Scores, Supervision

__all__ = ["AutoDDPM", "AutoDDPMConfig"]

FLAT = 1e-9  # a film that comes back whole has no scale of its own


@dataclass(frozen=True, kw_only=True)
class AutoDDPMConfig(Checked):
    """The denoiser, both repairs, and the mask between them."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The denoiser."""
    start: int = 200
    """Noise level that the first repair begins at."""
    steps: int = 5
    """Calls of the network in the first repair, at levels evenly spread."""
    mask_from: Literal["normals", "film"] = "normals"
    """What sets the mask's threshold: the pixels of normal training films, or, as in the published
    program, those of the film itself, so that every film has as large a mask."""
    percentile: Annotated[float, Range(0, below=100)] = 95.0
    """Share of the pixels of normal films, or of the film, in percent, that the mask leaves out."""
    dilate: Annotated[int, Range(0)] = 1
    """Pixels by which the mask grows."""
    stitch_start: int = 50
    """Noise level at which the film and its first repair are stitched together."""
    stitch_steps: int = 2
    """Levels of the second repair, evenly spread."""
    resamplings: Annotated[int, Range(1)] = 3
    """Calls at each of them: after all but the last one noise is added back."""
    perceptual_size: int = 64
    """Side at which the perceptual network sees the films, in pixels."""


def _published() -> AutoDDPMConfig:
    return AutoDDPMConfig(
        image_size=128,
        net=published_denoiser(),
        steps=200,
        dilate=3,
        stitch_steps=50,
        resamplings=5,
        perceptual_size=128,
    )


class AutoDDPM(Repairing):
    """Scores a film by its mean residual, inside its mask, from the stitched repair."""

    name: ClassVar[str] = "autoddpm"
    summary: ClassVar[str] = "Repair, mask what changed, and repair it again within the film"
    paper: ClassVar[str] = "Bercea et al. 2023 (AutoDDPM)"
    notes: ClassVar[Notes] = Notes(
        paper="A denoiser takes the film from t = 200 to a first pseudo-healthy film, one step at "
        "a time. Where residual times perceptual distance (LPIPS) exceeds what healthy films show "
        "is the mask, dilated. The film under noise outside the mask and the first repair inside "
        "it then go from t = 50 down together, each step re-sampled 5 times. The map is the "
        "residual from that, inside the mask.",
        program="Threshold and scale come from each film: the residual over its own 95th "
        "percentile, clipped to 1, times LPIPS is the first map; what exceeds that map's 95th "
        "percentile is the mask, grown by a pixel. The second repair begins at the first one "
        "everywhere, with 4 re-samplings. The map is the residual from the second repair times "
        "the first map, over the whole film; the score is its mean.",
        ours="The threshold is the 95th percentile over the pixels of at most 32 training films, "
        "the same ones that the denoiser learnt from, so that a denoiser can be shared between "
        "methods. LPIPS has no learned weights and EfficientNet-Lite0 for its network. By default "
        "11 calls instead of 450: 5 levels in the first repair, 2 with 3 re-samplings in the "
        "second. The score of a film, which the paper does not need, is the mean of the map. "
        "`paper-program` follows the program in all of this (mask_from `film`).",
    )
    Config: ClassVar[type] = AutoDDPMConfig
    PRESETS: ClassVar[Mapping[str, AutoDDPMConfig]] = {
        "tiny": AutoDDPMConfig(
            net=tiny_denoiser(), steps=3, stitch_steps=2, resamplings=2, perceptual_size=32
        ),
        "small": AutoDDPMConfig(),
        "paper": _published(),
        "paper-program": replace(_published(), mask_from="film", dilate=1, resamplings=4),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: AutoDDPMConfig, stats: EhrStats) -> None:
        top = config.net.diffusion_steps
        require_start("start", config.start, config.steps, top)
        require_start("stitch_start", config.stitch_start, config.stitch_steps, top)
        super().__init__(config, stats)
        self.perceptual = Perceptual()

    @property
    def network_calls(self) -> int:
        """Of the denoiser in both repairs, and two of the perceptual network."""
        c = self.config
        return int(c.steps + c.stitch_steps * c.resamplings + 2)

    def first_repair(self, image: Image, rows: Sequence[Generator]) -> Image:
        """The film noised to `start` and brought back, wholly."""
        path = levels(self.config.start, self.config.steps)
        noise = self.noise(image.shape[1:], rows).to(image)
        return self.descend(add_noise(image, noise, self.abar[path[0]]), path, rows)

    def stitched(
        self, image: Image, repaired: Image, mask: Image, rows: Sequence[Generator]
    ) -> Image:
        """A film that is `image` where the mask is 0, and a repair that fits it where it is 1.

        RePaint's loop (algorithm 1) from `stitch_start`, which begins at the first repair.
        """

        def at(film: Image, k: int | None) -> Image:
            noise = self.noise(image.shape[1:], rows).to(image)
            return add_noise(film, noise, self.left(k))

        path = levels(self.config.stitch_start, self.config.stitch_steps)
        x = at(repaired, path[0])
        if self.config.mask_from == "normals":
            x = mask * x + (1 - mask) * at(image, path[0])
        for k, to in pairwise([*path, None]):
            assert k is not None
            for again in reversed(range(self.config.resamplings)):
                _, x0 = self.look(x, k)
                noise = self.noise(image.shape[1:], rows).to(image)
                inside = ddpm_step(x, x0, noise, self.left(k), self.left(to))
                x = mask * inside + (1 - mask) * at(image, to)
                if again:  # back up to level k, all of it: what is left from `to` is their ratio
                    noise = self.noise(image.shape[1:], rows).to(image)
                    x = add_noise(x, noise, self.left(k) / self.left(to))
        return x

    def measure(self, image: Image, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The discrepancy from a first repair that few pixels of normal films exceed; nothing
        where each film sets its own threshold."""
        if self.config.mask_from == "film":
            return {}
        discrepancy = self.discrepancy(image, self.first_repair(image, rows))
        return {"threshold": discrepancy.quantile(self.config.percentile / 100)}

    def soft_map(self, image: Image, repaired: Image) -> Image:
        """The published program's first map: the residual as a share of the film's own percentile,
        at most 1, times the perceptual distance."""
        residual = (image - repaired.clamp(-1, 1)).abs() / 2
        top = self.own_percentile(residual)
        return (residual / top.clamp_min(FLAT)).clamp_max(1) * self.distance(image, repaired)

    def own_percentile(self, maps: Image) -> Tensor:
        """Of each film's pixels, (b, 1, 1, 1)."""
        return maps.flatten(1).quantile(self.config.percentile / 100, dim=1)[:, None, None, None]

    def mask(self, image: Image, repaired: Image) -> Image:
        """1 where the first repair changed more than the threshold, and around it; else 0."""
        if self.config.mask_from == "film":
            soft = self.soft_map(image, repaired)
            beyond = soft > self.own_percentile(soft).clamp_max(1)
        else:
            beyond = self.discrepancy(image, repaired) > self.scales["threshold"].to(image)
        return dilate(beyond.to(image), self.config.dilate)

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Score, parts and map are in grey levels of [0, 1]; `masked` is a share of the film."""
        self.require_fitted()
        self.net.eval()
        image = batch.image.to(self.device)
        rows = generators(seed, batch.ids)
        repaired = self.first_repair(image, rows)
        mask = self.mask(image, repaired)
        normal = self.stitched(image, repaired, mask, rows)
        if self.config.mask_from == "film":
            difference = self.soft_map(image, repaired) * (image - normal.clamp(-1, 1)).abs() / 2
        else:
            difference = mask * (image - normal).abs() / 2
        difference = difference.cpu()
        parts = {
            "mean": difference.mean((1, 2, 3)),
            "max": difference.amax((1, 2, 3)),
            "masked": mask.mean((1, 2, 3)).cpu(),
        }
        return Scores(
            score=parts["mean"],
            anomaly_map=difference,
            reconstruction=normal.clamp(-1, 1).cpu(),
            components=parts,
        )
