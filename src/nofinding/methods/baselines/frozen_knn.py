"""Distance to the most alike normal film, in the features of a network that knows photographs.

Bergman, Cohen and Hoshen 2020, arXiv:2002.10445 (DN2), with a smaller network, one of its middle
blocks instead of the last, and standardised features. No training: `fit` remembers the features.
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
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.nets.backbone import BLOCKS, film_to_rgb, load_efficientnet_lite0
from nofinding.ranges import Checked, Range
from nofinding.training import TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["FrozenKNN", "FrozenKNNConfig"]

# Below this standard deviation a feature says nothing, and dividing by it would make noise of it.
FLAT = 1e-4


@dataclass(frozen=True, kw_only=True)
class FrozenKNNConfig(Checked):
    """Where in the network one looks, and at how many neighbours."""

    image_size: int = 224
    """Side of the film, in pixels; the network was trained at 224."""
    blocks: Annotated[tuple[int, ...], Range(0, len(BLOCKS) - 1)] = (10,)
    """Blocks of EfficientNet-Lite0, 0 to 15, whose global averages are the features, joined."""
    k: Annotated[int, Range(1)] = 1
    """The score is the mean distance to this many neighbours."""
    batch_size: int = 32
    """Films at a time in `fit`."""


class FrozenKNN(WithoutRecord):
    """The k nearest normal films in standardised EfficientNet-Lite0 features."""

    name: ClassVar[str] = "frozen-knn"
    summary: ClassVar[str] = "Distance to the nearest normal film in frozen ImageNet features"
    paper: ClassVar[str] = "Bergman et al. 2020 (DN2)"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "DN2: the mean distance to the k nearest training films in the last pooled layer of "
            "an ImageNet ResNet."
        ),
        program="ResNet-101 or -152 features, k = 2, no standardisation.",
        ours=(
            "EfficientNet-Lite0, a middle block (its last layers know classes of photographs, "
            "not textures), standardised features, k = 1."
        ),
    )
    Config: ClassVar[type] = FrozenKNNConfig
    PRESETS: ClassVar[Mapping[str, FrozenKNNConfig]] = {
        "tiny": FrozenKNNConfig(image_size=32, blocks=(3,)),
        "small": FrozenKNNConfig(),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: FrozenKNNConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self.net = load_efficientnet_lite0()
        self.learnt: dict[str, Tensor] = {}

    @property
    def network_calls(self) -> int:
        """One, up to the last block asked for."""
        return 1

    @torch.no_grad()
    def features(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b d"]:
        """Each block's global average, joined. In 32 bit: bfloat16 is three times as fast, but
        its rounding would show in the distance."""
        device = next(self.net.parameters()).device
        rgb = film_to_rgb(image.to(device)).contiguous(memory_format=torch.channels_last)
        maps = self.net.features(rgb, self.config.blocks)
        pooled = [maps[block].mean(dim=(2, 3)) for block in self.config.blocks]
        return torch.cat(pooled, dim=1).cpu()

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Remembers every normal film. Raises UserError where there are fewer than k."""
        count, size = len(normal), self.config.batch_size
        if count < self.config.k:
            raise UserError(f"frozen-knn: {count} normal films; k = {self.config.k} needs as many")
        features = torch.cat(
            [
                self.features(normal.batch(range(start, min(start + size, count))).image)
                for start in range(0, count, size)
            ]
        )
        std, mean = torch.std_mean(features.double(), dim=0, correction=0)
        mean, std = mean.float(), std.float().clamp_min(FLAT)
        self.learnt = {"mean": mean, "std": std, "memory": (features - mean) / std}
        return self

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The distance, in standard deviations of the normals' features. No map."""
        if not self.learnt:
            raise UserError("frozen-knn: not fitted yet; fit it, or load a model")
        query = (self.features(batch.image) - self.learnt["mean"]) / self.learnt["std"]
        distance, _ = nearest(query, self.learnt["memory"], self.config.k)
        return Scores(score=distance.mean(1))

    def state(self) -> dict[str, Tensor]:
        """The normals' features and their scale; the network's own weights never change."""
        return dict(self.learnt)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.learnt = dict(state)
