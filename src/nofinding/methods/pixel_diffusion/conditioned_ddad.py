"""Denoising that is steered towards the film it began from.

Mousakhan, Brox and Tayyub 2023, arXiv:2305.15956 ("Anomaly Detection with Conditioned Denoising
Diffusion Models", DDAD; not the DDAD of Cai et al.). A film is noised and denoised; at every
step the predicted noise is corrected such that what becomes of it stays like the film, as far as
the denoiser can make it. What still differs, in features and in greys, is abnormal.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.functional.diffusion.sampler import add_noise, ddpm_step, predict_x0
from nofinding.functional.image.blur import gaussian_blur
from nofinding.functional.noise import generators
from nofinding.methods.base.denoising import DenoiserConfig, Image, tiny_denoiser
from nofinding.methods.base.protocol import Notes
from nofinding.methods.base.repair import Repairing, grown, require_start
from nofinding.nets.external_backbones import load_features
from nofinding.nets.feature_maps import EFFICIENTNET, FeatureMaps
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["ConditionedDDAD", "ConditionedDDADConfig", "apart", "conditioned"]

FEATURES = "features."  # before the names of adapted weights in a model
HIGH = 0.99  # the quantile over pixels of normal films that makes both distances alike
FLAT = 1e-6  # a distance that never exceeds this on normal films has no scale


@dataclass(frozen=True, kw_only=True)
class ConditionedDDADConfig(Checked):
    """The denoiser, how it is steered, and how two films are compared."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The denoiser."""
    start: int = 250
    """T', the noise level that a film is taken to."""
    stride: Annotated[int, Range(1)] = 25
    """Steps of the whole schedule between two calls of the network."""
    guidance: Annotated[float, Range(0)] = 3.0
    """w, how strongly the film itself steers the denoising; 0: not at all."""
    pixel_weight: Annotated[float, Range(0)] = 1.0
    """v, weight of the distance of greys, made as large as that of the features."""
    backbone: str = EFFICIENTNET
    """Frozen network whose features are compared."""
    layers: tuple[int, ...] = (4, 10)
    """Its blocks that are compared (strides 8 and 16)."""
    feature_size: int = 64
    """Side at which that network sees the films, in pixels."""
    blur: float = 1.0
    """Standard deviation of the Gaussian over the map, in pixels of the film."""
    adapt_steps: Annotated[int, Range(0)] = 0
    """Updates of the feature network on pairs of a normal film and what becomes of it (domain
    adaptation); 0: it stays as it is."""
    adapt_batch: int = 8
    """Films in each of these updates."""
    adapt_keep: float = 0.1
    """Weight of staying near the original features meanwhile (distillation)."""


class ConditionedDDAD(Repairing):
    """Scores a film by the largest value of its blurred map of distances."""

    name: ClassVar[str] = "conditioned-ddad"
    summary: ClassVar[str] = "Denoising steered by the film: distance of features and greys"
    paper: ClassVar[str] = "Mousakhan et al. 2023 (DDAD)"
    notes: ClassVar[Notes] = Notes(
        paper="A U-Net predicts noise. A film y is noised to T' = 250 of 1000 and comes back in 10 "
        "calls with eta = 1; at each, y_t is y under the predicted noise, and the noise becomes "
        "eps - sqrt(1 - abar) w (y_t - x_t). The map adds cosine distances of the features of a "
        "WideResNet and the distance of greys, blurred by sigma 4 at 256 pixels; its maximum "
        "is the score. The features are first adapted to the domain by making those of normal "
        "films and of their generated versions alike, held near the original ones.",
        program="Scales the greys' distance by the ratio of both distances' maxima over all films "
        "that are judged, so that a score depends on the others; w and v are chosen for each "
        "class of objects with its anomalies at hand.",
        ours="The ratio is that of the 99th percentiles over pixels of at most 32 training films, "
        "the same ones that the denoiser learnt from, so that a denoiser can be shared between "
        "methods. Features are EfficientNet-Lite0's, since those of a WideResNet come with no "
        "package. The first call is at T' itself. One w and one v for all films, set by us. "
        "Domain adaptation is there (`adapt_steps`) but off by default, for its time; "
        "its length and its weight of distillation were not in our sources and are our choice.",
    )
    Config: ClassVar[type] = ConditionedDDADConfig
    PRESETS: ClassVar[Mapping[str, ConditionedDDADConfig]] = {
        "tiny": ConditionedDDADConfig(net=tiny_denoiser(), stride=50),
        "small": ConditionedDDADConfig(),
        "paper": ConditionedDDADConfig(
            image_size=256,
            net=DenoiserConfig(
                width=128,
                multipliers=(1, 1, 2, 2, 4, 4),
                res_blocks=2,
                attention_at=(16,),
                norm_groups=32,
                train=TrainConfig(steps=20_000, batch_size=8, lr=3e-4, weight_decay=0.05),
            ),
            feature_size=256,
            blur=4.0,
            adapt_steps=500,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: ConditionedDDADConfig, stats: EhrStats) -> None:
        path = _path(config)
        require_start("start", config.start, len(path), config.net.diffusion_steps)
        super().__init__(config, stats)
        self.original: FeatureMaps = load_features(config.backbone, config.layers)
        self.features = self.original

    @property
    def network_calls(self) -> int:
        """One a level, and two of the feature network: for the film and what becomes of it."""
        return len(_path(self.config)) + 2

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains the denoiser, adapts the features if asked to, and measures the scales."""
        self.features = self.original
        return super().fit(normal, seed=seed, job=job)

    def after_training(self, normal: Films, *, seed: int, job: TrainingRun) -> None:
        """Adapts the feature network."""
        if self.config.adapt_steps:
            self.adapt(normal, seed=seed, job=job)

    def adapt(self, normal: Films, *, seed: int, job: TrainingRun) -> None:
        """Trains a copy of the feature network to see a normal film in what becomes of it."""
        c, home = self.config, self.device
        tuned = copy.deepcopy(self.original).requires_grad_(True)
        config = TrainConfig(
            steps=c.adapt_steps,
            batch_size=c.adapt_batch,
            lr=1e-4,
            warmup=0,
            ema=0.0,
            precision="32",
        )
        train(tuned, self.adapt_loss, normal, config, seed=seed, job=job.part("adapt"))
        self.features = tuned.requires_grad_(False)
        self.net.to(home)

    def adapt_loss(
        self, net: nn.Module, batch: Batch, rows: Sequence[Generator]
    ) -> dict[str, Tensor]:
        """The features' distance of a film from its repair, and of both from their old features."""
        device = batch.image.device
        side = self.config.feature_size
        with torch.no_grad():
            self.net.to(device)
            old = self.original.to(device)
            x = grown(batch.image, side)
            repaired = grown(self.repair(batch.image, rows).clamp(-1, 1), side)
            x_before, made_before = old(x), old(repaired)
        x_now, made_now = net(x), net(repaired)
        alike = _mean(apart(x_now, made_now))
        drift = _mean(apart(x_now, x_before)) + _mean(apart(made_now, made_before))
        return {"loss": alike + self.config.adapt_keep * drift, "alike": alike, "drift": drift}

    def repair(self, image: Image, rows: Sequence[Generator]) -> Image:
        """The film noised to T' and brought back, steered by itself."""
        path = _path(self.config)
        x = add_noise(image, self.noise(image.shape[1:], rows).to(image), self.abar[path[0]])
        for k, to in pairwise([*path, None]):
            assert k is not None
            eps, _ = self.look(x, k)
            eps = conditioned(eps, x, image, self.abar[k], self.config.guidance)
            x0 = predict_x0(x, eps, self.abar[k])
            # eta = 1: all noise that DDIM may add, which is the posterior of a DDPM.
            noise = self.noise(image.shape[1:], rows).to(image)
            x = ddpm_step(x, x0, noise, self.left(k), self.left(to))
        return x

    def distances(self, image: Image, normal: Image) -> tuple[Image, Image]:
        """(features', greys') distance at every pixel; the former summed over the layers."""
        network, side = self.features.to(image.device), self.config.feature_size
        pairs = apart(network(grown(image, side)), network(grown(normal.clamp(-1, 1), side)))
        maps = [grown(layer, image.shape[-1]) for layer in pairs]
        return sum(maps[1:], maps[0]), (image - normal).abs() / 2

    def measure(self, image: Image, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """How many times as large the features' distance is as that of the greys."""
        features, greys = self.distances(image, self.repair(image, rows))
        high = features.quantile(HIGH) / greys.quantile(HIGH).clamp_min(FLAT)
        return {"ratio": high}

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The map is in units of the features' distance: 0 to 2 a layer, and as much for greys."""
        self.require_fitted()
        self.net.eval()
        image = batch.image.to(self.device)
        normal = self.repair(image, generators(seed, batch.ids))
        features, greys = self.distances(image, normal)
        scaled = self.config.pixel_weight * self.scales["ratio"].to(image) * greys
        blurred = gaussian_blur(features + scaled, self.config.blur).clamp_min(0).cpu()
        parts = {
            "max": blurred.amax((1, 2, 3)),
            "mean": blurred.mean((1, 2, 3)),
            "features": features.mean((1, 2, 3)).cpu(),
            "greys": greys.mean((1, 2, 3)).cpu(),
        }
        return Scores(
            score=parts["max"],
            anomaly_map=blurred,
            reconstruction=normal.clamp(-1, 1).cpu(),
            components=parts,
        )

    def state(self) -> dict[str, Tensor]:
        """The denoiser, the ratio, and the feature network where it was adapted."""
        state = super().state()
        if state and self.config.adapt_steps:
            weights = self.features.state_dict()
            state |= {FEATURES + name: value for name, value in weights.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        own = {n.removeprefix(FEATURES): v for n, v in state.items() if n.startswith(FEATURES)}
        self.features = self.original
        if own:
            self.features = copy.deepcopy(self.original)
            self.features.load_state_dict(own)
        super().load_state({n: v for n, v in state.items() if not n.startswith(FEATURES)})


def conditioned(eps: Image, x: Image, y: Image, abar: Tensor, w: float) -> Image:
    """The noise in x, corrected so that the clean film comes w (1 - abar) of the way to y.

    eps - sqrt(1 - abar) w (y_t - x_t), where y_t is y under the same noise (Mousakhan et al.,
    section 4.1).
    """
    return eps - (1 - abar).sqrt().to(x) * w * (add_noise(y, eps, abar) - x)


def apart(some: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """1 - cos of the feature vectors at every position of each layer, (b, 1, i, j)."""
    return [
        1 - F.cosine_similarity(a, b, dim=1)[:, None] for a, b in zip(some, others, strict=True)
    ]


def _mean(maps: Sequence[Tensor]) -> Tensor:
    return torch.stack([layer.mean() for layer in maps]).sum()


def _path(config: ConditionedDDADConfig) -> list[int]:
    """The noise levels at which the network is called."""
    return list(range(config.start, 0, -config.stride))
