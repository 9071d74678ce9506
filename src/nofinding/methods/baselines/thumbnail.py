"""A baseline of every table: a thumbnail's distance from the mean normal thumbnail.

It sees posture, collimation and exposure, and hardly a lesion.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.training import TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["Thumbnail", "ThumbnailConfig"]

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class ThumbnailConfig:
    """How small the films are looked at."""

    image_size: int = 64
    """Side of the film, in pixels: the grid of the map."""
    side: int = 16
    """Side of the thumbnail, in pixels."""


class Thumbnail(WithoutRecord):
    """The Euclidean distance of a thumbnail from the mean of the normal ones."""

    name: ClassVar[str] = "thumbnail"
    summary: ClassVar[str] = "Distance of a 16 x 16 thumbnail from the mean normal one"
    paper: ClassVar[str] = "none (a baseline)"
    notes: ClassVar[Notes] = Notes(
        paper="A baseline: no paper proposes it.",
        program="There is none.",
        ours="A film shrunk to 16 x 16 pixels, and its distance from the mean normal one.",
    )
    Config: ClassVar[type] = ThumbnailConfig
    PRESETS: ClassVar[Mapping[str, ThumbnailConfig]] = {
        "tiny": ThumbnailConfig(image_size=32),
        "small": ThumbnailConfig(),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: ThumbnailConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self.mean: Float[Tensor, "1 1 s s"] | None = None

    @property
    def network_calls(self) -> int:
        """None: there is no network."""
        return 0

    def shrink(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 s s"]:
        """Thumbnails, in grey levels of [0, 1]: each pixel the mean of those it covers."""
        return F.adaptive_avg_pool2d((image + 1) / 2, self.config.side)

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Averages the normal thumbnails. Raises UserError where there is none."""
        if len(normal) == 0:
            raise UserError("thumbnail: 0 normal films to learn from; give at least 1")
        total = torch.zeros(1, 1, self.config.side, self.config.side, dtype=torch.float64)
        for start in range(0, len(normal), BATCH):
            batch = normal.batch(range(start, min(start + BATCH, len(normal))))
            total += self.shrink(batch.image).double().sum(0, keepdim=True)
        self.mean = (total / len(normal)).float()
        return self

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The distance, in grey levels; the map is the absolute difference, made as large as the
        film; the normal film is the mean thumbnail, alike for all."""
        if self.mean is None:
            raise UserError("thumbnail: not fitted yet; fit it, or load a model")
        image = batch.image.cpu()
        difference = self.shrink(image) - self.mean
        size = (image.shape[-2], image.shape[-1])
        mean = F.interpolate(self.mean * 2 - 1, size, mode="bilinear")
        return Scores(
            score=difference.flatten(1).norm(dim=1),
            anomaly_map=F.interpolate(difference.abs(), size, mode="bilinear"),
            reconstruction=mean.expand_as(image),
        )

    def state(self) -> dict[str, Tensor]:
        """The mean thumbnail."""
        return {} if self.mean is None else {"mean": self.mean}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes a mean thumbnail that `state` gave."""
        self.mean = state.get("mean")
