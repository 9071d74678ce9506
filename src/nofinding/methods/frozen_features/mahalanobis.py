"""How far a film's features are from the normals' Gaussian: no memory, one distance a layer.

Rippel, Mertens and Merhof 2020, arXiv:2005.14140.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.functional.features.gaussian import Gaussian, distance, fit_gaussian
from nofinding.methods.base.frozen_backbone import Frozen, FrozenConfig
from nofinding.methods.base.protocol import Notes
from nofinding.ranges import Range
from nofinding.training import TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["Mahalanobis", "MahalanobisConfig"]


@dataclass(frozen=True, kw_only=True)
class MahalanobisConfig(FrozenConfig):
    """Which layers, and how the covariance is held together."""

    image_size: Annotated[int, Range(1)] = 224
    """Side of the film, in pixels; EfficientNet-Lite0 was trained at 224."""
    layers: tuple[int, ...] = (10,)
    """Layers whose global averages are the features: one Gaussian each, the distances are added."""
    shrinkage: Annotated[float, Range(high=1)] = -1.0
    """Share of a sphere in the covariance, 0 to 1; below 0: as much as Ledoit and Wolf advise."""


class Mahalanobis(Frozen):
    """The Mahalanobis distance of global averages, summed over layers."""

    name: ClassVar[str] = "mahalanobis"
    summary: ClassVar[str] = "Mahalanobis distance of frozen ImageNet features, a number a film"
    paper: ClassVar[str] = "Rippel et al., ICPR 2020"
    notes: ClassVar[Notes] = Notes(
        paper="Global averages of every level of an ImageNet EfficientNet-B4 are modelled by a "
        "Gaussian each, its covariance shrunk as Ledoit and Wolf advise; the score is the sum "
        "of the Mahalanobis distances.",
        program="The authors' program was not at hand.",
        ours="The default is one Gaussian at block 10 of EfficientNet-Lite0, which needs 0.8 GFLOP "
        "a film. `paper` sums over the five stages that timm gives of EfficientNet-B4, where "
        "the paper takes nine levels.",
    )
    Config: ClassVar[type] = MahalanobisConfig
    PRESETS: ClassVar[Mapping[str, MahalanobisConfig]] = {
        "tiny": MahalanobisConfig(image_size=32, layers=(2, 3)),
        "small": MahalanobisConfig(),
        "paper": MahalanobisConfig(
            image_size=380, backbone="timm:tf_efficientnet_b4.aa_in1k", layers=(0, 1, 2, 3, 4)
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """One Gaussian a layer. Raises UserError for fewer than two films."""
        if len(normal) < 2:
            raise UserError(f"mahalanobis: {len(normal)} normal films; a spread needs 2 or more")
        portions = [
            self._averages(maps) for maps in self.feature_batches(normal, job or TrainingRun())
        ]
        share = self.config.shrinkage
        self.learnt = {}
        for layer, averages in enumerate(zip(*portions, strict=True)):
            of = fit_gaussian(torch.cat(averages), shrinkage=None if share < 0 else share)
            self.learnt[f"mean.{layer}"], self.learnt[f"whiten.{layer}"] = of.mean, of.whiten
        self.learnt = {name: value.contiguous() for name, value in self.learnt.items()}
        return self

    @staticmethod
    def _averages(maps: list[Tensor]) -> list[Tensor]:
        return [x.mean(dim=(2, 3)).cpu() for x in maps]

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The sum of the distances; no map, for an average has no place."""
        self.require_fitted()
        parts: dict[str, Tensor] = {}
        for n, x in enumerate(self._averages(self.maps(batch.image))):
            of = Gaussian(self.learnt[f"mean.{n}"], self.learnt[f"whiten.{n}"])
            parts[f"layer_{self.config.layers[n]}"] = distance(x, of) * x.shape[1] ** 0.5
        return Scores(score=torch.stack([*parts.values()]).sum(0), components=parts)
