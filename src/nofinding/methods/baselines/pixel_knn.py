"""A baseline of every table: the distance to the most alike normal films, pixel by pixel.

What deeper methods have to beat where films are alike: no network, no training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.neighbours import nearest
from nofinding.functional.image.residual import residual_map
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.ranges import Checked, Range
from nofinding.training import TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["PixelKNN", "PixelKNNConfig"]

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class PixelKNNConfig(Checked):
    """How finely one looks, and at how many neighbours."""

    image_size: Annotated[int, Range(1)] = 64
    """Side of the film, in pixels; every normal film is remembered at this size."""
    k: Annotated[int, Range(1)] = 1
    """The score is the mean distance to this many neighbours."""


class PixelKNN(WithoutRecord):
    """The Euclidean distance from the k nearest normal films, in grey levels of [0, 1]."""

    name: ClassVar[str] = "pixel-knn"
    summary: ClassVar[str] = "Distance to the nearest normal film in pixels"
    paper: ClassVar[str] = "none (a baseline)"
    notes: ClassVar[Notes] = Notes(
        paper="There is none: that a film is compared with its nearest neighbour is as old as the "
        "nearest-neighbour rule (Cover and Hart 1967).",
        program="There is none; the tests compare the distances with scikit-learn's "
        "NearestNeighbors.",
        ours="Every normal film is remembered at 64 x 64, none is left out. The map is the "
        "absolute difference from the nearest film, which is shown as the normal one.",
    )
    Config: ClassVar[type] = PixelKNNConfig
    PRESETS: ClassVar[Mapping[str, PixelKNNConfig]] = {
        "tiny": PixelKNNConfig(image_size=32),
        "small": PixelKNNConfig(),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: PixelKNNConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self.memory: Float[Tensor, "n 1 h w"] | None = None  # grey levels of [0, 1]

    @property
    def network_calls(self) -> int:
        """None: there is no network."""
        return 0

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Remembers every normal film. Raises UserError where there are fewer than k."""
        count = len(normal)
        if count < self.config.k:
            raise UserError(f"pixel-knn: {count} normal films; k = {self.config.k} needs as many")
        starts = range(0, count, BATCH)
        parts = [normal.batch(range(s, min(s + BATCH, count))).image for s in starts]
        self.memory = (torch.cat(parts) + 1) / 2
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The mean distance to the k nearest; map and normal film are of the nearest one."""
        if self.memory is None:
            raise UserError("pixel-knn: not fitted yet; fit it, or load a model")
        film = (batch.image.cpu() + 1) / 2
        distance, place = nearest(film.flatten(1), self.memory.flatten(1), self.config.k)
        alike = self.memory[place[:, 0]]
        return Scores(
            score=distance.mean(1),
            anomaly_map=residual_map(film, alike),
            reconstruction=alike * 2 - 1,
            components={"nearest": distance[:, 0]},
        )

    def state(self) -> dict[str, Tensor]:
        """The normal films."""
        return {} if self.memory is None else {"memory": self.memory}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.memory = state.get("memory")
