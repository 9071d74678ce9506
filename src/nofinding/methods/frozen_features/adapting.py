"""A fitted detector at another hospital: its statistics follow the films there, its networks stay.

What is learnt of local films is judged on others: each film gets its score from a detector that
was adapted without it, so that these scores are those of the next film there.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nofinding.functional.features.gaussian import Gaussian, distance
from nofinding.functional.features.mixture import NormalPart, Shape, normal_part, shape_of
from nofinding.functional.features.recentre import recentred
from nofinding.methods.base.protocol import Adaptable, Detector
from nofinding.types import Batch, Scores

__all__ = ["FOLDS", "Adapted", "OfGaussians", "adapted", "adapted_scores"]

FOLDS = 5
BELL = shape_of(torch.empty(0))
"""What components are like among normal films: as good as a bell curve."""


@dataclass(frozen=True)
class Adapted:
    """A detector that follows local films, and what it says of these when it has not met them."""

    detector: Detector
    scores: Float[Tensor, " n"]
    """Of each local film, by a detector that was adapted without it."""
    normal: NormalPart
    """Of those scores."""
    features: bool
    """Whether the features' statistics were moved, or the p-value alone."""


def adapted_scores(
    detector: Detector,
    scores: Float[Tensor, " n"],
    elsewhere: Float[Tensor, " m"],
    *,
    abnormal_at_most: float,
) -> Adapted:
    """For any method: the score stays as it is, and the p-value follows the local films.

    `elsewhere` are scores of normal films that the detector was calibrated on.
    """
    shape, spread = _like(elsewhere)
    part = normal_part(scores, shape, spread, abnormal_at_most=abnormal_at_most)
    return Adapted(detector, scores, part, features=False)


def adapted(
    detector: Adaptable,
    features: Mapping[str, Tensor],
    elsewhere: Float[Tensor, " m"],
    *,
    abnormal_at_most: float,
    seed: int = 0,
) -> Adapted:
    """The detector with its features' statistics moved to local films, of which features are given.

    With `abnormal_at_most` above 0 nothing is known of single films. Then centres move, those
    of components to the median, and spreads do not: what varies among films that are not all
    normal may be disease.
    """
    shape, spread = _like(elsewhere)
    n, all_normal = len(next(iter(features.values()))), abnormal_at_most == 0
    components = _out_of_fold(detector, features, _folds(n, seed), all_normal=all_normal)
    scales = {}
    for name, values in components.items():
        old = detector.scales()[name][1]
        if all_normal:
            own = normal_part(values, BELL, old, abnormal_at_most=0)
            scales[name] = own.place, own.spread
        else:
            scales[name] = float(values.median()), old
    scores = detector.rescaled(scales).score_of(components)
    part = normal_part(scores, shape, spread, abnormal_at_most=abnormal_at_most)
    moved = detector.recentred(features, all_normal=all_normal).rescaled(scales)
    return Adapted(cast(Detector, moved), scores, part, features=True)


def _like(elsewhere: Float[Tensor, " m"]) -> tuple[Shape, float]:
    """Shape and spread of normal films' scores; a bell curve of unit spread if there are none."""
    if len(elsewhere) < 2:
        return BELL, 1.0
    spread = float(elsewhere.double().std().clamp_min(1e-9))
    return shape_of((elsewhere.double() - elsewhere.double().mean()) / spread), spread


def _folds(n: int, seed: int) -> Int64[Tensor, " n"]:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order.argsort() % min(FOLDS, n)


def _out_of_fold(
    detector: Adaptable,
    features: Mapping[str, Tensor],
    fold: Int64[Tensor, " n"],
    *,
    all_normal: bool,
) -> dict[str, Tensor]:
    """Components of each film, by a detector that was moved to the films of the other folds."""
    n, values = len(fold), dict[str, Tensor]()
    for number in sorted(set(fold.tolist())):
        inside = fold == number
        rest = {name: x[~inside] for name, x in features.items()}
        moved = detector.recentred(rest, all_normal=all_normal)
        own = moved.components_of({name: x[inside] for name, x in features.items()})
        for name, x in own.items():
            values.setdefault(name, torch.empty(n, dtype=x.dtype))[inside] = x
    return values


class OfGaussians:
    """Adapts a detector whose components are distances from Gaussians, and others that are only
    scaled: `gaussians` by name, and `scale` with NAME.mean and NAME.spread of each component."""

    parts: list[Any]
    gaussians: dict[str, Gaussian]
    scale: dict[str, Tensor]

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def _judged(self, calls: Mapping[str, Tensor], batch: Batch) -> Scores:
        raise NotImplementedError

    def _standard(self, name: str, values: Tensor) -> Tensor:
        raise NotImplementedError

    def _as_one(self, parts: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def features_of(self, batch: Batch, *, seed: int = 0) -> dict[str, Tensor]:
        """The vectors that distances are taken of, and the other components as they are."""
        features = self._features(batch)
        standard = self._judged(features, batch).components
        return {
            name: features[name]
            if name in self.gaussians
            else standard[name] * self.scale[f"{name}.spread"] + self.scale[f"{name}.mean"]
            for name in self.parts
        }

    def components_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The logarithms of the distances, and the other components."""
        return {
            name: distance(x, self.gaussians[name]).log() if name in self.gaussians else x
            for name, x in features.items()
        }

    def recentred(self, features: Mapping[str, Tensor], *, all_normal: bool) -> Self:
        """Another detector, whose Gaussians follow those films (`features/recentre.py`)."""
        other = copy.copy(self)
        other.gaussians = {
            name: recentred(of, features[name], widths=all_normal) if name in features else of
            for name, of in self.gaussians.items()
        }
        return other

    def scales(self) -> dict[str, tuple[float, float]]:
        """Of each component: mean and spread over normal films."""
        return {
            name: (float(self.scale[f"{name}.mean"]), float(self.scale[f"{name}.spread"]))
            for name in self.parts
        }

    def rescaled(self, scales: Mapping[str, tuple[float, float]]) -> Self:
        """Another detector with other scales of its components."""
        other = copy.copy(self)
        other.scale = dict(self.scale)
        for name, (mean, spread) in scales.items():
            other.scale[f"{name}.mean"] = torch.tensor(mean, dtype=torch.float32)
            other.scale[f"{name}.spread"] = torch.tensor(max(spread, 1e-6), dtype=torch.float32)
        return other

    def score_of(self, components: Mapping[str, Tensor]) -> Tensor:
        """The score that those components make together."""
        return self._as_one({name: self._standard(name, x) for name, x in components.items()})
