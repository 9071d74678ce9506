"""deep-kNN: how far two views of a film are from all normal views, in features adapted to films.

Liu, Alven, Haeggstroem and Zach, MLMI 2023, LNCS 14349: Deep Nearest Neighbors for Anomaly
Detection in Chest X-Rays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.neighbours import nearest
from nofinding.functional.noise import generators, integers
from nofinding.methods.base.frozen_backbone import Frozen, FrozenConfig
from nofinding.methods.base.protocol import Notes
from nofinding.ranges import Range
from nofinding.runtime import device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.training.ticker import Ticker
from nofinding.types import Batch, Scores, Supervision

__all__ = ["DeepKNN", "DeepKNNConfig", "siamese"]

FLAT = 1e-4  # below this standard deviation a feature says nothing


@dataclass(frozen=True, kw_only=True)
class DeepKNNConfig(FrozenConfig):
    """The views, the layers that are trained, and the neighbours."""

    image_size: Annotated[int, Range(1)] = 128
    """Side of the film, in pixels, before a view is cut from it."""
    layers: tuple[int, ...] = (10,)
    """Layers whose global averages, joined, are the frozen features."""
    crop: Annotated[float, Range(above=0, high=1)] = 0.875
    """Side of a view, as a share of the film's; where it is cut is drawn."""
    flip: bool = True
    """Whether half of the views are mirrored."""
    taught: Annotated[int, Range(2)] = 4
    """Views of each film that the layers learn from. They are drawn once, so that the frozen
    network sees each film this often and no more."""
    views: int = 2
    """Views of each film that are remembered, and that are scored."""
    k: Annotated[int, Range(1)] = 1
    """The distance is that to the k-th nearest normal view."""
    epochs: Annotated[int, Range(0)] = 0
    """Passes over the films; 0: as many steps as `train` says."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=300, batch_size=64, lr=1e-3, warmup=0, ema=0.0, clip=1e6, precision="32"
        )
    )
    """How adaptor and predictor are trained; `epochs`, if given, replaces its steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.views <= self.taught:
            raise UserError(f"views {self.views}: give 1 to {self.taught}")


class Siamese(nn.Module):
    """A linear adaptor that halves the features, and a linear predictor of one view's from
    another's."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.adaptor = nn.Linear(inputs, max(2, inputs // 2))
        self.predictor = nn.Linear(self.adaptor.out_features, self.adaptor.out_features)

    def forward(self, x: Float[Tensor, "b d"]) -> tuple[Tensor, Tensor]:
        """Adapted, and predicted from them."""
        adapted = self.adaptor(x)
        return adapted, self.predictor(adapted)


def siamese(predicted: Float[Tensor, "b d"], adapted: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """The negative cosine of a prediction with the other view, which gets no gradient: without
    that stop, all films would soon be one point (Chen and He 2021, SimSiam)."""
    return -F.cosine_similarity(predicted, adapted.detach(), dim=1).mean()


class DeepKNN(Frozen):
    """The geometric mean, over views, of the squared distance to the nearest normal view."""

    name: ClassVar[str] = "deep-knn"
    summary: ClassVar[str] = "Nearest normal views in frozen features with a Siamese adaptor"
    paper: ClassVar[str] = "Liu et al., MLMI 2023 (deep kNN)"
    notes: ClassVar[Notes] = Notes(
        paper="A light adaptor and predictor on a frozen, self-supervised network learn by a "
        "Siamese cosine loss that two augmentations of a film belong together. The score is "
        "the geometric mean of the nearest-neighbour distances of the film's augmentations to "
        "those of the training films.",
        program="SimCLRv2 or Barlow Twins ResNet50; one linear layer each, 2048 to 1024; random "
        "crops of 224 from 256 and mirroring; Adam (0.5, 0.999), learning rate 1e-7, 100 epochs of "
        "batches of 64. Squared distances between unit vectors that the predictor gives, one "
        "memory of two views a film. The views are drawn anew with each run, so that scores "
        "change.",
        ours="Those two networks are in no package that can be relied on: the default looks "
        "through block 10 of EfficientNet-Lite0, `paper` through DINOv2. Features are "
        "standardised by the normal films'. A film's views follow from seed and image id. The "
        "views that are learnt from are drawn once; at ten thousand times the learning "
        "rate there are 300 updates. Our Adam has betas 0.9 and 0.999.",
    )
    Config: ClassVar[type] = DeepKNNConfig
    PRESETS: ClassVar[Mapping[str, DeepKNNConfig]] = {
        "tiny": DeepKNNConfig(
            image_size=48,
            layers=(3,),
            crop=0.9,
            train=TrainConfig(
                steps=20, batch_size=8, lr=1e-3, warmup=0, ema=0.0, clip=1e6, precision="32"
            ),
        ),
        "small": DeepKNNConfig(),
        "paper": DeepKNNConfig(
            image_size=256,
            backbone="transformers:facebook/dinov2-small",
            layers=(12,),
            epochs=100,
            train=TrainConfig(
                steps=1, batch_size=64, lr=1e-7, warmup=0, ema=0.0, clip=1e6, precision="32"
            ),
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: DeepKNNConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.net = self._new_net(0)
        self._visited: dict[str, Tensor] = {}  # by image id, (taught, d); while fitting only

    def _new_net(self, seed: int) -> Siamese:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Siamese(sum(self.backbone.widths))

    @property
    def network_calls(self) -> int:
        """One a view."""
        return int(self.config.views)

    def view(
        self, image: Float[Tensor, "b 1 h w"], chance: Sequence[Generator]
    ) -> Float[Tensor, "b 1 s s"]:
        """A piece of each film, mirrored or not."""
        side = image.shape[-1]
        size = max(1, round(self.config.crop * side))
        top, left = (integers(0, side - size + 1, chance).tolist() for _ in range(2))
        turned = integers(0, 2, chance).tolist()
        pieces = [
            film[:, y : y + size, x : x + size] for film, y, x in zip(image, top, left, strict=True)
        ]
        if self.config.flip:
            pieces = [p.flip(-1) if t else p for p, t in zip(pieces, turned, strict=True)]
        return torch.stack(pieces)

    def features(self, batch: Batch, number: int, seed: int) -> Float[Tensor, "b d"]:
        """What the frozen network says of view `number` of each film."""
        chance = generators(seed, [f"deep-knn/{number}/{image_id}" for image_id in batch.ids])
        maps = self.maps(self.view(batch.image.cpu(), chance))
        return torch.cat([x.mean(dim=(2, 3)) for x in maps], 1).cpu()

    def loss(self, net: nn.Module, batch: Batch, chance: Sequence[Generator]) -> dict[str, Tensor]:
        """Of two different views of each film, each predicts the other."""
        count = self.config.taught
        one = integers(0, count, chance)
        other = (one + integers(1, count, chance)) % count
        known = torch.stack([self._visited[image_id] for image_id in batch.ids])
        row = torch.arange(len(known))
        (z1, p1), (z2, p2) = (net(known[row, v].to(batch.image.device)) for v in (one, other))
        return {"loss": (siamese(p1, z2) + siamese(p2, z1)) / 2}

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Teaches the layers, then remembers `views` views of every film."""
        job, c = job or TrainingRun(), self.config
        if not len(normal) or len(normal) * c.views < c.k:
            raise UserError(f"deep-knn: {len(normal)} normal films are too few for k = {c.k}")
        self.net = self._new_net(seed).to(device_of(self.net))
        views = self._views_of(normal, seed, job)  # (n, taught, d)
        std, mean = torch.std_mean(views.double().flatten(0, 1), dim=0, correction=0)
        mean, std = mean.float(), std.float().clamp_min(FLAT)
        self.learnt = {"mean": mean, "std": std}
        self._visited = dict(zip(normal.ids, (views - mean) / std, strict=True))
        config = c.train
        if c.epochs:
            steps = c.epochs * -(-len(normal) // (config.batch_size * config.accumulate))
            config = replace(config, steps=max(1, steps))
        train(self.net, self.loss, normal, config, seed=seed, job=job)
        self._visited = {}
        self.learnt["memory"] = self.adapted(views[:, : c.views].flatten(0, 1))
        return self

    def _views_of(self, normal: Films, seed: int, job: TrainingRun) -> Float[Tensor, "n v d"]:
        count, size = len(normal), self.config.batch_size
        portions = []
        with Ticker("features", count, show=job.progress) as report_progress:
            for start in range(0, count, size):
                stop = min(start + size, count)
                batch = normal.batch(range(start, stop))
                views = [self.features(batch, number, seed) for number in range(self.config.taught)]
                portions.append(torch.stack(views, 1))
                report_progress(stop)
        return torch.cat(portions)

    @torch.no_grad()
    def adapted(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """What the predictor makes of them, as unit vectors."""
        device = self.net.adaptor.weight.device
        x = (features - self.learnt["mean"]) / self.learnt["std"]
        return F.normalize(self.net.eval()(x.to(device))[1], dim=1).cpu()

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The geometric mean of the views' squared distances, each at most 4. No map."""
        self.require_fitted()
        parts: dict[str, Tensor] = {}
        for number in range(self.config.views):
            query = self.adapted(self.features(batch, number, seed))
            near, _ = nearest(query, self.learnt["memory"], self.config.k)
            parts[f"view_{number + 1}"] = near[:, -1].square()
        logs = torch.stack([*parts.values()]).clamp_min(1e-12).log()
        return Scores(score=logs.mean(0).exp(), components=parts)

    def state(self) -> dict[str, Tensor]:
        """The normals' views, the scale of the features, and the trained layers."""
        own = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        return {**super().state(), **own} if self.learnt else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave. Raises UserError where the backbone is not the same one."""
        super().load_state({k: v for k, v in state.items() if not k.startswith("net.")})
        if state:
            self.net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
            self.net.eval()
