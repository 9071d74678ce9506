"""Reverse distillation with a decoder of state spaces, which see the whole film at linear cost.

He et al., NeurIPS 2024, arXiv:2404.06564 (MambaAD).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self, cast

import torch
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.feature_maps import cosine_map, summed_map
from nofinding.methods.base.feature_maps import (
    MapFilms,
    channel_statistics,
    halving_shapes,
    unpacked,
    with_epochs,
)
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.nets.external_backbones import load_features
from nofinding.nets.feature_maps import EFFICIENTNET, FeatureMaps
from nofinding.nets.reverse import Student
from nofinding.nets.state_space import HalfFPN, MambaDecoder
from nofinding.ranges import Checked, Range
from nofinding.runtime import device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["MambaAD", "MambaADConfig"]


def _schedule(
    *, steps: int, lr: float = 0.002, batch_size: int = 8, weight_decay: float = 0.0
) -> TrainConfig:
    """No averaging, because batch normalisation's statistics are of the newest weights."""
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        warmup=20,
        ema=0.0,
        precision="32",
    )


@dataclass(frozen=True, kw_only=True)
class MambaADConfig(Checked):
    """Teacher, student and training. The defaults take about a minute on one CPU core."""

    image_size: int = 128
    """Side of the film, in pixels: every map must have half the sides of the one before, and the
    embedding half the sides of the last, 2 or more."""
    backbone: str = EFFICIENTNET
    """The frozen teacher (see `load_features`)."""
    layers: tuple[int, ...] = (4, 10, 14)
    """Its layers, finest first. The cost goes with the number of cells of the finest."""
    embedding: Annotated[int, Range(1)] = 256
    """Channels of the embedding; published: twice the deepest layer's."""
    fusion_depth: Annotated[int, Range(1)] = 1
    """Bottleneck blocks behind the half-FPN."""
    depths: tuple[int, ...] = (1, 1, 1, 1)
    """State-space blocks at the embedding's scale and at each map's, coarsest first."""
    kernels: tuple[int, ...] = (5, 7)
    """Of the depth-wise convolutions beside the state-space blocks."""
    directions: int = 8
    """In which Hilbert's curve is walked: 2, 4 or 8."""
    state: Annotated[int, Range(1)] = 4
    """N, numbers that each channel of a scan remembers."""
    expand: Annotated[int, Range(1)] = 1
    """How many times wider a scan is than its map."""
    weight: float = 5.0
    """Of the loss, the mean squared difference summed over scales."""
    blur: Annotated[float, Range(0)] = 2.0
    """Standard deviation of the blur of the map, in pixels; the authors' program: 4 at 256."""
    epochs: int = 0
    """Passes over the films; 0: as many steps as `train` says."""
    train: TrainConfig = field(default_factory=lambda: _schedule(steps=90))
    """How it is trained; `epochs`, if given, replaces its steps. At least 2 films a batch."""


class MambaAD(WithoutRecord):
    """Scores a film by the largest disagreement of teacher and state-space student."""

    name: ClassVar[str] = "mambaad"
    summary: ClassVar[str] = "Reverse distillation with a state-space decoder, Hilbert scans"
    paper: ClassVar[str] = "He et al., NeurIPS 2024 (MambaAD)"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "A frozen ResNet34 gives maps at strides 4, 8 and 16 of a 256-pixel picture. A "
            "half-FPN fuses them, and a decoder of locality-enhanced state-space modules gives "
            "them back: state-space blocks that scan along Hilbert's curve in eight directions, "
            "in parallel with depth-wise convolutions of kernels 5 and 7; depths 3, 4, 6, 3. Loss: "
            "squared differences summed over scales; AdamW, learning rate 0.005, weight decay "
            "0.0001."
        ),
        program=(
            "The loss is the sum weighted by 5. The map is 1 - cos of teacher and student at each "
            "position, summed over scales and blurred with sigma 4, and a picture's score is its "
            "maximum. The eight scans are the curve, its transpose, and both of these in the "
            "picture turned by a quarter, each there and back. As the curve is its own mirror "
            "image walked backwards, only six of the eight differ, by our count."
        ),
        ours=(
            "The eight scans are the four quarter turns of the curve, there and back, all "
            "different. A side that is no power of two leaves out cells of the next larger curve. "
            "The parallel scan is mambapy's. The teacher is EfficientNet-Lite0, also in the preset "
            "`paper`; its channels differ in scale far more than a ResNet's, so the loss is of "
            "channels standardised over training films, and the map is of them put back. By "
            "default the maps are at strides 8, 16 and 32, one state-space block a scale, of a "
            "narrower state, because a CPU scans slowly. There is no stochastic depth, and the "
            "learning rate stays level."
        ),
    )
    Config: ClassVar[type] = MambaADConfig
    PRESETS: ClassVar[Mapping[str, MambaADConfig]] = {
        "tiny": MambaADConfig(
            image_size=64,
            layers=(1, 3, 5),
            embedding=16,
            state=2,
            blur=1.0,
            train=_schedule(steps=15, batch_size=4),
        ),
        "small": MambaADConfig(),
        "paper": MambaADConfig(
            image_size=256,
            layers=(2, 4, 10),
            embedding=224,
            fusion_depth=3,
            depths=(3, 4, 6, 3),
            state=16,
            expand=2,
            blur=4.0,
            epochs=1000,
            train=_schedule(steps=1, lr=0.005, batch_size=16, weight_decay=1e-4),
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: MambaADConfig, stats: EhrStats) -> None:
        _check(config)
        self.config, self.stats = config, stats
        teacher = load_features(config.backbone, config.layers)
        self.shapes = halving_shapes(teacher, config.image_size, config.layers)
        if self.shapes[-1][1] < 4:  # instance normalisation has no variance of one cell
            raise UserError(
                f"image_size {config.image_size}: the last of layers "
                f"{config.layers} has a side of {self.shapes[-1][1]}, and 4 or more are needed"
            )
        self.net = nn.ModuleDict({"teacher": teacher, "student": self.new_student(0)})
        self.scale: list[tuple[Tensor, Tensor]] = []

    def new_student(self, seed: int) -> Student:
        """A student that has seen nothing."""
        c = self.config
        widths, side = [shape[0] for shape in self.shapes], self.shapes[-1][1] // 2
        lss = {"state": c.state, "expand": c.expand, "ways": c.directions, "kernels": c.kernels}
        with torch.random.fork_rng(devices=[]):  # torch draws first weights from a global state
            torch.manual_seed(seed)
            fusion = HalfFPN(widths, c.embedding, c.fusion_depth)
            return Student(fusion, MambaDecoder(widths, c.embedding, side, c.depths, **lss))

    @property
    def teacher(self) -> FeatureMaps:
        """The frozen network."""
        return cast(FeatureMaps, self.net["teacher"])

    @property
    def network_calls(self) -> int:
        """Two: teacher and student."""
        return 2

    def standardised(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps with each channel's mean and spread over training films taken out."""
        pairs = zip(maps, self.scale, strict=True)
        return [(m - mean.to(m)) / spread.to(m) for m, (mean, spread) in pairs]

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """Mean squared difference of teacher and student, summed over scales. Draws nothing."""
        teacher_maps = self.standardised(unpacked(batch.image, self.shapes))
        gaps = [
            (a - b).square().mean() for a, b in zip(teacher_maps, net(teacher_maps), strict=True)
        ]
        return {"loss": self.config.weight * torch.stack(gaps).sum()}

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains a new student on normal films. Raises UserError where the training loop does."""
        job = job or TrainingRun()
        config = with_epochs(self.config.train, self.config.epochs, len(normal))
        films = MapFilms(normal, self.teacher, job)
        self.scale = channel_statistics(films)
        self.net["student"] = self.new_student(seed).to(device_of(self.net))
        train(self.net["student"], self.loss, cast(Films, films), config, seed=seed, job=job)
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The map is 1 - cos summed over scales (0 to twice their number); the score its maximum.

        Parts: the largest 1 - cos of each scale, unblurred, finest first.
        """
        if not self.scale:
            raise UserError("mambaad: not fitted yet; fit it, or load a model")
        teacher_maps = self.teacher(batch.image.to(next(self.net.parameters()).device))
        given = self.net["student"].eval()(self.standardised(teacher_maps))
        maps = []
        for teacher, student, (mean, spread) in zip(teacher_maps, given, self.scale, strict=True):
            maps.append(cosine_map(teacher, student * spread.to(student) + mean.to(student)).cpu())
        size = (batch.image.shape[-2], batch.image.shape[-1])
        total = summed_map(maps, size, self.config.blur).clamp_min(0)
        parts = {
            f"layer{layer}": each.amax((1, 2, 3))
            for layer, each in zip(self.config.layers, maps, strict=True)
        }
        return Scores(score=total.amax((1, 2, 3)), anomaly_map=total, components=parts)

    def state(self) -> dict[str, Tensor]:
        """The student's weights and the channels' scale; the teacher's never change."""
        if not self.scale:
            return {}
        out = {f"student.{k}": v for k, v in self.net["student"].state_dict().items()}
        for level, (mean, spread) in enumerate(self.scale):
            out |= {f"scale.{level}.mean": mean, f"scale.{level}.spread": spread}
        return out

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.scale = []
        if state:
            learnt = {
                name.removeprefix("student."): value
                for name, value in state.items()
                if name.startswith("student.")
            }
            self.net["student"].load_state_dict(learnt)
            self.net["student"].eval()
            self.scale = [
                (state[f"scale.{level}.mean"], state[f"scale.{level}.spread"])
                for level in range(len(self.shapes))
            ]


def _check(config: MambaADConfig) -> None:
    if config.train.batch_size < 2:  # batch normalisation has no variance of one
        raise UserError("train.batch_size 1: give 2 or more")
    if len(config.depths) != len(config.layers) + 1 or min(config.depths) < 1:
        raise UserError(
            f"depths {config.depths}: give {len(config.layers) + 1} numbers, each "
            "1 or more: one for the embedding and one for each of layers"
        )
    if config.directions not in (2, 4, 8):
        raise UserError(f"directions {config.directions}: give 2, 4 or 8")
    if not config.kernels or any(kernel < 1 or kernel % 2 == 0 for kernel in config.kernels):
        raise UserError(f"kernels {config.kernels}: give odd numbers")
    if config.blur < 0:
        raise UserError(f"blur {config.blur}: give 0 or more")
