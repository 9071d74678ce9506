"""PaDiM: every place in the chest has a Gaussian of its own.

Defard, Setkov, Loesch and Audigier, ICPR workshops 2021, arXiv:2011.08785.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.functional.features.neighbourhoods import enlarge, join
from nofinding.functional.noise import generators
from nofinding.methods.base.frozen_backbone import WRN50, Frozen, FrozenConfig
from nofinding.methods.base.protocol import Notes
from nofinding.ranges import Range
from nofinding.training import TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["PaDiM", "PaDiMConfig", "whitening"]

PLACES = 64  # whose covariances are inverted at a time, for the memory's sake


@dataclass(frozen=True, kw_only=True)
class PaDiMConfig(FrozenConfig):
    """How many channels, and how the covariances are held together."""

    channels: Annotated[int, Range(1)] = 100
    """Channels drawn from all layers; all of them where there are fewer. Memory and the size of the
    model grow with its square times the cells of the finest layer."""
    ridge: Annotated[float, Range(above=0)] = 0.01
    """Added to every variance."""
    sigma: Annotated[float, Range(0)] = 4.0
    """Blur of the map, in pixels."""


class PaDiM(Frozen):
    """The largest Mahalanobis distance of any place from that place's Gaussian."""

    name: ClassVar[str] = "padim"
    summary: ClassVar[str] = "A Gaussian at every place of frozen feature maps; largest distance"
    paper: ClassVar[str] = "Defard et al., ICPR workshops 2021"
    notes: ClassVar[Notes] = Notes(
        paper="Features of stages 1 to 3 of a ResNet are joined on the finest grid, 100 channels "
        "(ResNet18) or 550 (WideResNet50) are drawn at random, and each place gets a mean and "
        "a covariance plus 0.01 I. The map is the Mahalanobis distance, the score its largest "
        "value.",
        program="The authors gave out none. The widely used one, and anomalib's, repeat coarse "
        "cells instead of interpolating them, and blur the map by sigma 4 before they take the "
        "largest value; the former also stretches maps by the test set's extremes.",
        ours="As those, without the stretch: coarse cells repeated, blur, largest value. The "
        "default looks through blocks 4 and 10 of EfficientNet-Lite0; `paper` has the "
        "WideResNet50 and 550 channels, whose covariances take some 12 GB while they are "
        "learnt. They are summed up film by film, so that memory does not grow with the "
        "number of films.",
    )
    Config: ClassVar[type] = PaDiMConfig
    PRESETS: ClassVar[Mapping[str, PaDiMConfig]] = {
        "tiny": PaDiMConfig(image_size=48, layers=(2, 4), channels=12),
        "small": PaDiMConfig(),
        "paper": PaDiMConfig(image_size=224, backbone=WRN50, layers=(1, 2, 3), channels=550),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def cells(self, maps: list[Tensor], channels: Tensor) -> Float[Tensor, "n b c"]:
        """The chosen channels of all cells, place by place."""
        joined = join(maps, "nearest")[:, channels.to(maps[0].device)]
        return joined.flatten(2).permute(2, 0, 1)

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """A mean and a covariance at every place. Raises UserError for fewer than two films."""
        if len(normal) < 2:
            raise UserError(f"padim: {len(normal)} normal films; a spread needs 2 or more")
        total = sum(self.backbone.widths)
        draw = generators(seed, ["padim/channels"])[0]
        channels = torch.randperm(total, generator=draw)[: self.config.channels].sort().values
        shift = mean = squares = torch.empty(0)
        for maps in self.feature_batches(normal, job or TrainingRun()):
            x = self.cells(maps, channels).double()  # (n, b, c)
            if not len(shift):  # about the first films' mean: sums of squares that do not cancel
                shift = x.mean(1, keepdim=True)
                mean = torch.zeros_like(shift[:, 0])
                squares = x.new_zeros(len(x), x.shape[2], x.shape[2])
            x = x - shift
            mean += x.sum(1)
            squares.baddbmm_(x.transpose(1, 2), x)
        count = len(normal)
        mean /= count
        whiten = squares.new_empty(squares.shape, dtype=torch.float32)
        for start in range(0, len(squares), PLACES):
            at = slice(start, start + PLACES)
            outer = mean[at, :, None] * mean[at, None]
            whiten[at] = whitening((squares[at] - count * outer) / (count - 1), self.config.ridge)
        self.learnt = {
            "channels": channels,
            "mean": (mean + shift[:, 0]).float().cpu().contiguous(),
            "whiten": whiten.cpu(),
        }
        return self

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The largest value of the blurred map of distances."""
        self.require_fitted()
        maps = self.maps(batch.image)
        cells = self.cells(maps, self.learnt["channels"])
        mean, whiten = (self.learnt[name].to(cells.device) for name in ("mean", "whiten"))
        white = torch.bmm(cells - mean[:, None], whiten.transpose(1, 2))
        apart = white.square().sum(2).sqrt().T  # (b, n)
        coarse = apart.reshape(len(apart), 1, *maps[0].shape[-2:])
        map = enlarge(coarse, batch.image.shape[-2:], self.config.sigma).cpu()
        return Scores(score=map.flatten(1).amax(1), anomaly_map=map)


def whitening(covariance: Float64[Tensor, "n c c"], ridge: float) -> Float[Tensor, "n c c"]:
    """Of C + ridge I = L L', the inverse of L: the squared distance of x is |L^-1 x|^2."""
    extractor = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    root = torch.linalg.cholesky(covariance + ridge * extractor)
    inverse: Tensor = torch.linalg.solve_triangular(root, extractor.expand_as(root), upper=False)
    return inverse.float()
