"""CFA: patch features learn to lie inside small spheres around remembered normal ones.

Lee, Lee and Song, IEEE Access 2022, arXiv:2206.04325.
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
from nofinding.functional.features.neighbourhoods import enlarge, join, neighbourhoods, rows
from nofinding.functional.features.neighbours import nearest
from nofinding.methods.base.frozen_backbone import WRN50, Frozen, FrozenConfig
from nofinding.methods.base.protocol import Notes
from nofinding.ranges import Range
from nofinding.runtime import device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["CFA", "CFAConfig", "coupled_hypersphere"]


@dataclass(frozen=True, kw_only=True)
class CFAConfig(FrozenConfig):
    """The spheres, and how the features are taught to lie in them."""

    image_size: Annotated[int, Range(1)] = 128
    """Side of the film, in pixels."""
    attract: Annotated[int, Range(1)] = 3
    """K: each patch is drawn into the spheres of this many nearest centres."""
    repel: Annotated[int, Range(1)] = 3
    """J: and kept out of those of as many after them."""
    margin: Annotated[float, Range(0)] = 0.1
    """alpha: how far inside a foreign sphere a patch may be at no cost, squared distance."""
    radius: Annotated[float, Range(0)] = 1e-5
    """r of the spheres, before it is learnt."""
    softness: Annotated[float, Range(above=0)] = 1e-3
    """nu: the loss is divided by it."""
    compression: Annotated[int, Range(1)] = 1
    """gamma_c: the centres are clustered to this share of the places of a film; 1 keeps all."""
    squeeze: Annotated[int, Range(1)] = 1
    """gamma_d: the adapted features have this share of the channels; 1 keeps all."""
    sigma: Annotated[float, Range(0)] = 4.0
    """Blur of the map, in pixels."""
    epochs: Annotated[int, Range(0)] = 0
    """Passes over the films; 0: as many steps as `train` says."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=120, batch_size=8, lr=1e-3, weight_decay=5e-4, warmup=0, ema=0.0, clip=1e9,
            precision="32",
        )
    )  # fmt: skip
    """How it is trained; `epochs`, if given, replaces its steps."""


class Descriptor(nn.Module):
    """A 1 x 1 convolution that also sees where it is (CoordConv), and the radius of the spheres."""

    def __init__(self, inputs: int, outputs: int, radius: float) -> None:
        super().__init__()
        self.mix = nn.Conv2d(inputs + 2, outputs, 1)
        self.radius = nn.Parameter(torch.tensor([radius]))

    def forward(self, patches: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Adapted features; row and column run from -1 to 1."""
        b, _, h, w = patches.shape
        y = torch.linspace(-1, 1, h, device=patches.device)[:, None].expand(b, 1, h, w)
        x = torch.linspace(-1, 1, w, device=patches.device).expand(b, 1, h, w)
        adapted: Tensor = self.mix(torch.cat([patches, y, x], 1))
        return adapted


def coupled_hypersphere(
    patches: Float[Tensor, "b n d"],
    centres: Float[Tensor, "m d"],
    radius: Float[Tensor, "1"],
    *,
    attract: int,
    repel: int,
    margin: float,
) -> tuple[Tensor, Tensor]:
    """Attraction and repulsion of the paper's loss, each a mean.

    max(0, D - r^2) over the `attract` nearest centres, and max(0, r^2 - D - margin) over the
    `repel` after them, with D the squared distance.
    """
    squares = (
        patches.square().sum(-1, keepdim=True)
        - 2 * patches @ centres.T
        + centres.square().sum(1)
    ).clamp_min(0)  # fmt: skip
    near = squares.topk(attract + repel, dim=-1, largest=False).values
    limit = radius.square()
    pull = F.relu(near[..., :attract] - limit).mean()
    push = F.relu(limit - near[..., attract:] - margin).mean()
    return pull, push


class CFA(Frozen):
    """Distance of adapted patches to their nearest centre, weighted by how clear a case it is."""

    name: ClassVar[str] = "cfa"
    summary: ClassVar[str] = "Patch features taught to lie in spheres around normal ones"
    paper: ClassVar[str] = "Lee et al., IEEE Access 2022 (CFA)"
    notes: ClassVar[Notes] = Notes(
        paper="A descriptor with CoordConv adapts patch features of a frozen network; centres "
        "are the mean normal feature of each place, compressed by K-means. A soft-boundary "
        "loss draws each patch into the spheres of its K nearest centres and keeps it out of "
        "the next J. The map is the nearest distance times its softmin among the K nearest.",
        program="The centres come from the descriptor before it is trained, as a running mean over "
        "batches of 4; the radius starts at 1e-5 and is learnt. The distances that are to be "
        "pushed off begin at index J, which is K only as long as J = K = 3. AdamW with "
        "AMSGrad, 1e-3, 30 epochs; the best epoch is picked on the test set, and maps are "
        "stretched by its extremes.",
        ours="The mean is exact, over all films. The pushed distances are those after the K "
        "nearest, whatever J is. Our AdamW has no AMSGrad; no epoch is picked and nothing is "
        "stretched. The default looks through EfficientNet-Lite0 (blocks 4 and 10) and takes "
        "120 updates; `paper` has the WideResNet50 and the 30 epochs.",
    )
    Config: ClassVar[type] = CFAConfig
    PRESETS: ClassVar[Mapping[str, CFAConfig]] = {
        "tiny": CFAConfig(
            image_size=48,
            layers=(2, 4),
            compression=2,
            train=TrainConfig(
                steps=20, batch_size=4, lr=1e-3, warmup=0, ema=0.0, clip=1e9, precision="32"
            ),
        ),
        "small": CFAConfig(),
        "paper": CFAConfig(
            image_size=224,
            backbone=WRN50,
            layers=(1, 2, 3),
            epochs=30,
            train=TrainConfig(
                steps=1, batch_size=4, lr=1e-3, weight_decay=5e-4, warmup=0, ema=0.0, clip=1e9,
                precision="32",
            ),
        ),
    }  # fmt: skip
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: CFAConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.net = self._new_descriptor(0)

    def _new_descriptor(self, seed: int) -> Descriptor:
        inputs = sum(self.backbone.widths)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Descriptor(inputs, max(1, inputs // self.config.squeeze), self.config.radius)

    @staticmethod
    def patches(maps: list[Tensor]) -> Float[Tensor, "b c i j"]:
        """What the frozen network sees, averaged over 3 x 3 cells, on the finest grid."""
        return join([neighbourhoods(x) for x in maps])

    def loss(self, net: nn.Module, batch: Batch, chance: Sequence[Generator]) -> dict[str, Tensor]:
        """Attraction and repulsion over nu. Draws nothing."""
        assert isinstance(net, Descriptor)
        c, device = self.config, batch.image.device
        pull, push = coupled_hypersphere(
            rows(net(self.patches(self.maps_on(device, batch.image)))),
            self.learnt["centres"].to(device),
            net.radius,
            attract=c.attract,
            repel=c.repel,
            margin=c.margin,
        )
        return {"loss": (pull + push) / c.softness, "attraction": pull, "repulsion": push}

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Places the centres, then teaches the descriptor. Raises UserError where the loop does."""
        job, c = job or TrainingRun(), self.config
        self.net = self._new_descriptor(seed).to(device_of(self.net))
        with torch.no_grad():
            total = sum(
                rows(self.net(self.patches(maps))).double().sum(0)
                for maps in self.feature_batches(normal, job)
            )
        centres = (torch.as_tensor(total) / len(normal)).float()
        if c.compression > 1:
            centres = clustered(centres, max(1, len(centres) // c.compression), seed)
        if len(centres) < c.attract + c.repel:
            raise UserError(
                f"attract {c.attract} and repel {c.repel}: there are {len(centres)} centres; take "
                "fewer, or a larger image_size"
            )
        self.learnt = {"centres": centres.contiguous()}
        config = c.train
        if c.epochs:
            steps = c.epochs * -(-len(normal) // (config.batch_size * config.accumulate))
            config = replace(config, steps=max(1, steps))
        train(self.net, self.loss, normal, config, seed=seed, job=job)
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The largest value of the blurred map."""
        self.require_fitted()
        grid = self.net.eval()(self.patches(self.maps(batch.image)))
        query = rows(grid)
        b, n, d = query.shape
        centres = self.learnt["centres"].to(grid.device)
        near, _ = nearest(query.reshape(b * n, d), centres, min(self.config.attract, len(centres)))
        apart = near[:, 0] * F.softmin(near, dim=1)[:, 0]
        coarse = apart.reshape(b, 1, *grid.shape[-2:])
        map = enlarge(coarse, batch.image.shape[-2:], self.config.sigma).cpu()
        return Scores(score=map.flatten(1).amax(1), anomaly_map=map)

    def state(self) -> dict[str, Tensor]:
        """The centres and the descriptor."""
        own = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        return {**super().state(), **own} if self.learnt else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave. Raises UserError where the backbone is not the same one."""
        super().load_state({k: v for k, v in state.items() if not k.startswith("net.")})
        if state:
            own = {k[4:]: v for k, v in state.items() if k.startswith("net.")}
            self.net.load_state_dict(own)
            self.net.eval()


def clustered(points: Float[Tensor, "n d"], count: int, seed: int) -> Float[Tensor, "m d"]:
    """The means of `count` clusters of the points, by K-means."""
    from sklearn.cluster import KMeans  # a second to import, and most settings need none

    clusters = KMeans(count, n_init=1, random_state=seed).fit(points.cpu().double().numpy())
    return torch.from_numpy(clusters.cluster_centers_).float()
