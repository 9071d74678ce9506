"""Diffusion inversion in feature space: noise a film deterministically; a normal one ends as noise.

Sakai et al., CVPR 2026, arXiv:2504.05662 (InvAD). Nothing is reconstructed: the frozen features of
a film are carried along the learnt diffusion to its end, and judged by how unlike white noise they
are there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, ddim_step, predict_x0
from nofinding.functional.diffusion.schedule import linear_abar
from nofinding.functional.noise import gaussian, integers
from nofinding.methods.base.feature_maps import (
    MapFilms,
    channel_statistics,
    map_shapes,
    unpacked,
    with_epochs,
)
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.nets.dit import DiT
from nofinding.nets.external_backbones import load_features
from nofinding.nets.feature_maps import EFFICIENTNET, FeatureMaps
from nofinding.ranges import Checked, Range
from nofinding.runtime import device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["InvAD", "InvADConfig"]

PARTS = ("nll", "range")
CHUNK = 32  # training films inverted at a time


@dataclass(frozen=True, kw_only=True)
class InvADConfig(Checked):
    """Features, denoiser, training and inversion. The defaults take less than a minute on one CPU
    core."""

    image_size: int = 128
    """Side of the film, in pixels."""
    backbone: str = EFFICIENTNET
    """The frozen network (see `load_features`)."""
    layer: int = 10
    """Its layer that is looked at; of EfficientNet-Lite0, 5 to 10 have stride 16."""
    width: Annotated[int, Range(4, multiple=4)] = 128
    """Numbers of a token in the transformer: a multiple of 4."""
    depth: Annotated[int, Range(1)] = 4
    """Blocks of the transformer."""
    heads: Annotated[int, Range(1)] = 4
    """Heads of its self-attention; they divide `width`."""
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    inversion_steps: Annotated[int, Range(1)] = 3
    """Calls of the transformer in scoring: steps from the film to noise."""
    epochs: int = 0
    """Passes over the films; 0: as many steps as `train` says."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=250, batch_size=16, lr=1e-3, warmup=30, ema=0.99, precision="32"
        )
    )
    """How it is trained; `epochs`, if given, replaces its steps."""


class InvAD(WithoutRecord):
    """Scores a film by how far its inverted features are from white noise, and how unevenly."""

    name: ClassVar[str] = "invad"
    summary: ClassVar[str] = "Frozen features inverted to noise in three steps: how unlike noise"
    paper: ClassVar[str] = "Sakai et al., CVPR 2026 (InvAD)"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "EfficientNet-B4 features at stride 16 of a 256-pixel picture; a diffusion transformer "
            "learns their noise at 1000 levels; three steps of DDIM inversion, to t = 333, 666 "
            "and 999, carry a picture's features to z_T. Its score joins -log N(z_T; 0, I) with "
            "how far |z_T| ranges over the positions; the map is |z_T|. Nothing is reconstructed."
        ),
        program=(
            "The transformer has 16 blocks, 2048 wide, 8 heads, and is trained for 1000 epochs "
            "with AdamW, peak learning rate 0.00005 under a warm-up and a cosine decay, batch 8, "
            "averaged weights 0.999. The two ingredients are stretched to 0 .. 1 over all test "
            "pictures together, labels aside, and added; features are taken as they are."
        ),
        ours=(
            "Each ingredient is put in standard deviations of the training films instead of "
            "stretched over the test set, so a film's score depends on no other film. Features "
            "are EfficientNet-Lite0's, whose weights come with the package, also in the preset "
            "`paper`, and are standardised by channel over the training films. The default "
            "transformer is small. The learning rate stays level behind its warm-up."
        ),
    )
    Config: ClassVar[type] = InvADConfig
    PRESETS: ClassVar[Mapping[str, InvADConfig]] = {
        "tiny": InvADConfig(
            image_size=64,
            width=32,
            depth=2,
            heads=2,
            train=TrainConfig(steps=100, batch_size=8, lr=3e-3, warmup=5, ema=0.9, precision="32"),
        ),
        "small": InvADConfig(),
        "paper": InvADConfig(
            image_size=256,
            width=2048,
            depth=16,
            heads=8,
            epochs=1000,
            train=TrainConfig(steps=1, batch_size=8, lr=5e-5, warmup=1000, ema=0.999),
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: InvADConfig, stats: EhrStats) -> None:
        if config.width % config.heads:
            raise UserError(f"heads {config.heads}: give a number that divides {config.width}")
        if config.inversion_steps >= config.diffusion_steps:
            raise UserError(
                f"inversion_steps {config.inversion_steps}: give 1 to {config.diffusion_steps - 1}"
            )
        self.config, self.stats = config, stats
        teacher = load_features(config.backbone, (config.layer,))
        self.shapes = map_shapes(teacher, config.image_size)
        if min(self.shapes[0][1:]) < 2:  # the ingredient "range" compares positions
            raise UserError(
                f"image_size {config.image_size}: layer {config.layer} has a side "
                f"of {self.shapes[0][1]}, and 2 or more are needed"
            )
        self.abar = linear_abar(config.diffusion_steps)
        self.net = nn.ModuleDict({"teacher": teacher, "denoiser": self.new_denoiser(0)})
        self.scale: dict[str, Tensor] = {}

    def new_denoiser(self, seed: int) -> DiT:
        """A transformer that has seen nothing."""
        c, (channels, rows, columns) = self.config, self.shapes[0]
        with torch.random.fork_rng(devices=[]):  # torch draws first weights from a global state
            torch.manual_seed(seed)
            return DiT(channels, (rows, columns), width=c.width, depth=c.depth, heads=c.heads)

    @property
    def teacher(self) -> FeatureMaps:
        """The frozen network."""
        return cast(FeatureMaps, self.net["teacher"])

    @property
    def network_calls(self) -> int:
        """The frozen network's one, and the transformer's at every step."""
        return 1 + int(self.config.inversion_steps)

    @property
    def levels(self) -> list[int]:
        """Steps of the schedule that the inversion visits: 0, then evenly on to the last."""
        last, steps = self.config.diffusion_steps - 1, self.config.inversion_steps
        return [last * i // steps for i in range(steps + 1)]

    def standardised(self, maps: Tensor) -> Tensor:
        """Features with each channel's mean and spread over training films taken out: z_0."""
        return (maps - self.scale["mean"].to(maps)) / self.scale["spread"].to(maps)

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The squared error of the noise at a random level (Ho et al. 2020, eq. 14)."""
        z = self.standardised(unpacked(batch.image, self.shapes)[0])
        t = integers(0, self.config.diffusion_steps, rows)
        noise = gaussian(z.shape[1:], rows).to(z)
        prediction = net(add_noise(z, noise, self.abar[t]), t.float().to(z.device))
        return {"loss": (prediction - noise).square().mean()}

    def invert(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """z_T: the features carried to the last noise level, by DDIM steps that draw nothing."""
        net = self.net["denoiser"]
        for here, there in pairwise(self.levels):
            eps = net(z, torch.full((1,), float(here), device=z.device))
            z = ddim_step(predict_x0(z, eps, self.abar[here]), eps, self.abar[there])
        return z

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains a new transformer on normal films, then notes how their inversions spread.

        Raises UserError for fewer than 2 films, or where the training loop does.
        """
        if len(normal) < 2:
            raise UserError(f"invad: {len(normal)} normal films; give 2 or more")
        job = job or TrainingRun()
        config = with_epochs(self.config.train, self.config.epochs, len(normal))
        films = MapFilms(normal, self.teacher, job)
        mean, spread = channel_statistics(films)[0]
        self.scale = {"mean": mean, "spread": spread}
        self.net["denoiser"] = self.new_denoiser(seed).to(device_of(self.net))
        train(self.net["denoiser"], self.loss, cast(Films, films), config, seed=seed, job=job)
        norms = []
        with torch.no_grad():
            for start in range(0, len(films), CHUNK):
                batch = films.batch(range(start, min(start + CHUNK, len(films))))
                z = self.standardised(unpacked(batch.image, self.shapes)[0])
                norms.append(ingredients(self.invert(z.to(device_of(self.net))).cpu()))
        for name in PARTS:
            values = torch.cat([each[name] for each in norms])
            self.scale[f"{name}.mean"] = values.mean()
            self.scale[f"{name}.spread"] = values.std().clamp_min(1e-6)
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The sum of the parts, each in standard deviations of the training films. Draws nothing.

        The map is the length of z_T at each position, about sqrt(channels) for white noise.
        """
        if "nll.mean" not in self.scale:
            raise UserError("invad: not fitted yet; fit it, or load a model")
        features = self.teacher(batch.image.to(next(self.net.parameters()).device))[0]
        self.net["denoiser"].eval()
        z = self.invert(self.standardised(features)).cpu()
        parts = {
            name: (value - self.scale[f"{name}.mean"]) / self.scale[f"{name}.spread"]
            for name, value in ingredients(z).items()
        }
        cells = z.norm(dim=1, keepdim=True)
        map_ = F.interpolate(
            cells, size=batch.image.shape[-2:], mode="bilinear", align_corners=False
        )
        return Scores(
            score=parts["nll"] + parts["range"], anomaly_map=map_.clamp_min(0), components=parts
        )

    def state(self) -> dict[str, Tensor]:
        """The transformer's weights and all scales; the frozen network's never change."""
        if "nll.mean" not in self.scale:
            return {}
        out = {f"denoiser.{k}": v for k, v in self.net["denoiser"].state_dict().items()}
        return out | {f"scale.{k}": v for k, v in self.scale.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        under: dict[str, dict[str, Tensor]] = {"denoiser": {}, "scale": {}}
        for name, value in state.items():
            first, _, rest = name.partition(".")
            under[first][rest] = value
        self.scale = under["scale"]
        if state:
            self.net["denoiser"].load_state_dict(under["denoiser"])
            self.net["denoiser"].eval()


def ingredients(z: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, " b"]]:
    """-log N(z; 0, I), in nats, and the largest less the smallest length of a position's vector."""
    flat = z.double().flatten(1)
    nll = 0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))
    length = z.double().norm(dim=1).flatten(1)
    return {"nll": nll.float(), "range": (length.amax(1) - length.amin(1)).float()}
