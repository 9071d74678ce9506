"""A repair that is led back to the film, on its way, wherever it left it without need.

Bercea, Wiestler, Rueckert and Schnabel 2024, arXiv:2403.08464 ("Diffusion Models with Implicit
Guidance for Medical Anomaly Detection", THOR: temporal harmonisation for optimal restoration).
At some levels the network's clean film is compared with the film itself; where they are alike,
the film takes its place, and the way down goes on from the mixture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor

from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, ddpm_step
from nofinding.functional.image.blur import gaussian_blur
from nofinding.functional.image.morphology import close, dilate
from nofinding.functional.noise import generators
from nofinding.methods.base.denoising import DenoiserConfig, Image, tiny_denoiser
from nofinding.methods.base.protocol import Notes
from nofinding.methods.base.repair import Repairing, published_denoiser, require_start
from nofinding.nets.perceptual import Perceptual
from nofinding.ranges import Checked, Range
from nofinding.types import Batch, Scores, Supervision

__all__ = ["THOR", "THORConfig"]

FLAT = 1e-9  # a discrepancy that never exceeds this has no scale
SMOOTHED = 2.0  # pixels: the program's standard deviation of the blurred perceptual distance


@dataclass(frozen=True, kw_only=True)
class THORConfig(Checked):
    """The denoiser, where the way down is led back, and by which mask."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The denoiser."""
    start: int = 350
    """Noise level that the repair begins at."""
    stride: Annotated[int, Range(1)] = 50
    """Steps of the whole schedule between two calls of the network."""
    harmonise: tuple[int, ...] = (300, 150, 50)
    """Levels at which the film is mixed in; they must be `start` less whole strides."""
    mask_from: Literal["normals", "film"] = "normals"
    """What is the mask's 1: a percentile of normal training films, or, as in the published program,
    the largest change of the film itself. `film` also averages the mask with the map that it was
    grown from, and joins the maps of all levels by their harmonic mean."""
    percentile: Annotated[float, Range(above=0, below=100)] = 98.0
    """Share of the pixels of normal films, in percent, whose change is below the mask's 1."""
    close: Annotated[int, Range(0)] = 1
    """Gaps of the mask up to twice so many pixels are closed."""
    dilate: Annotated[int, Range(0)] = 1
    """Pixels by which the mask grows."""
    perceptual_size: int = 64
    """Side at which the perceptual network sees the films, in pixels."""


def _published() -> THORConfig:
    return THORConfig(
        image_size=128,
        net=published_denoiser(),
        stride=1,
        close=3,
        dilate=3,
        perceptual_size=128,
    )


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
        program="At each level the residual times the perceptual distance, blurred by 2 pixels, is "
        "divided by its largest value in the batch; the mask is the mean of that map and of the "
        "same closed and dilated by 13 x 13 pixels. Map and score are the harmonic mean of the "
        "levels' maps.",
        ours="m is 1 from the 98th percentile of the pixels of at most 32 training films on, a "
        "percentile for each of the levels; they are the films that the denoiser learnt from, so "
        "that a denoiser can be shared between methods. The change is the difference of greys "
        "times a perceptual distance without learned weights, by EfficientNet-Lite0. The same "
        "noise is read as that which the film was given at first. By default every 50th step "
        "is called, 7 in all. Map and score are of the last film alone. `paper-program` follows "
        "the program (mask_from `film`), with the largest value of the film in place of the "
        "batch's, for else a score would depend on its neighbours; it joins the maps of the "
        "levels in `harmonise`, where the program adds those of its pictures.",
    )
    Config: ClassVar[type] = THORConfig
    PRESETS: ClassVar[Mapping[str, THORConfig]] = {
        "tiny": THORConfig(net=tiny_denoiser(), perceptual_size=32),
        "small": THORConfig(),
        "paper": _published(),
        "paper-program": replace(_published(), mask_from="film", close=6, dilate=6),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: THORConfig, stats: EhrStats) -> None:
        self.path = list(range(config.start, 0, -config.stride))
        require_start("start", config.start, len(self.path), config.net.diffusion_steps)
        for k in config.harmonise:
            if k not in self.path:
                raise UserError(f"harmonise {k}: give some of {', '.join(map(str, self.path))}")
        if config.mask_from == "film" and not config.harmonise:
            raise UserError("harmonise: mask_from film needs one level or more")
        super().__init__(config, stats)
        self.perceptual = Perceptual()

    @property
    def network_calls(self) -> int:
        """One a level, and two of the perceptual network at each mixture and for the map."""
        looks = len(self.config.harmonise) + (self.config.mask_from == "normals")
        return int(len(self.path) + 2 * looks)

    def repair(
        self,
        image: Image,
        rows: Sequence[Generator],
        scale: Callable[[int, Image], Tensor],
        maps: list[Image] | None = None,
    ) -> Image:
        """The film noised to `start` and brought back. `scale` says, for a level and the
        discrepancies there, which one is the mask's 1; with mask_from `film` it is not asked, and
        the map of each level is appended to `maps`."""
        first = self.noise(image.shape[1:], rows).to(image)
        x = add_noise(image, first, self.left(self.path[0]))
        for k, to in pairwise([*self.path, None]):
            assert k is not None
            _, x0 = self.look(x, k)
            if k in self.config.harmonise:
                if self.config.mask_from == "film":
                    own = self.own_map(image, x0)
                    mask = self.region(own)
                    if maps is not None:
                        maps.append(own)
                else:
                    discrepancy = self.discrepancy(image, x0)
                    mask = self.mask(discrepancy, scale(k, discrepancy).to(image))
                x0 = mask * x0 + (1 - mask) * image
                x = add_noise(x0, first, self.left(k))
            noise = self.noise(image.shape[1:], rows).to(image)
            x = ddpm_step(x, x0, noise, self.left(k), self.left(to))
        return x

    def mask(self, discrepancy: Image, one: Tensor) -> Image:
        """0 where the repair is like the film, 1 where it changed by `one` or more."""
        m = (discrepancy / one.clamp_min(FLAT)).clamp(0, 1)
        return dilate(close(m, self.config.close), self.config.dilate)

    def own_map(self, image: Image, x0: Image) -> Image:
        """The published program's map: residual times blurred perceptual distance, 1 at the
        largest of the film."""
        distance = gaussian_blur(self.distance(image, x0).clamp(0, 1), SMOOTHED, "reflect")
        change = distance * (image - x0).abs() / 2
        return change / change.amax((1, 2, 3), keepdim=True).clamp_min(FLAT)

    def region(self, own: Image) -> Image:
        """The published program's mask: the mean of the map, and of it closed and dilated."""
        grown = dilate(close(own, self.config.close), self.config.dilate)
        return ((grown + own) / 2).clamp(0, 1)

    def measure(self, image: Image, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The discrepancy at each mixture that few pixels of normal films exceed; later ones
        depend on the earlier, so they are taken on the way. Nothing where each film sets its own.
        """
        if self.config.mask_from == "film":
            return {}
        learnt: dict[str, Tensor] = {}

        def scale(k: int, discrepancy: Image) -> Tensor:
            learnt[str(k)] = discrepancy.quantile(self.config.percentile / 100)
            return learnt[str(k)]

        self.repair(image, rows, scale)
        return learnt

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Map and score are greys of [0, 1] times a squared distance of at most 4; with mask_from
        `film`, shares of each film's largest change."""
        self.require_fitted()
        self.net.eval()
        image = batch.image.to(self.device)
        rows = generators(seed, batch.ids)
        maps: list[Image] = []
        normal = self.repair(image, rows, lambda k, discrepancy: self.scales[str(k)], maps)
        joined = harmonic_mean(maps) if maps else self.discrepancy(image, normal)
        discrepancy = joined.cpu()
        parts = {
            "mean": discrepancy.mean((1, 2, 3)),
            "max": discrepancy.amax((1, 2, 3)),
            "mae": ((image - normal).abs() / 2).mean((1, 2, 3)).cpu(),
        }
        return Scores(
            score=parts["mean"],
            anomaly_map=discrepancy,
            reconstruction=normal.clamp(-1, 1).cpu(),
            components=parts,
        )


def harmonic_mean(maps: Sequence[Image]) -> Image:
    """Of maps >= 0, pixel by pixel: 0 where one of them is 0."""
    stack = torch.stack(list(maps))
    mean = len(maps) / stack.clamp_min(torch.finfo(stack.dtype).tiny).reciprocal().sum(0)
    return mean.where((stack > 0).all(0), mean.new_zeros(()))
