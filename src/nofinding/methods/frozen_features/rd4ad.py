"""Reverse distillation: a decoder that learnt normal films only gives a frozen network's maps back
from a narrow embedding; where it cannot, something is abnormal.

Deng and Li, CVPR 2022, arXiv:2201.10703 (RD4AD).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.feature_maps import cosine_map, film_cosine, summed_map
from nofinding.methods.base.feature_maps import MapFilms, halving_shapes, unpacked, with_epochs
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.nets.external_backbones import load_features
from nofinding.nets.feature_maps import EFFICIENTNET, FeatureMaps
from nofinding.nets.reverse import Block, Fusion, ReverseDecoder, Student
from nofinding.ranges import Checked, Range
from nofinding.runtime import device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["RD4AD", "RD4ADConfig"]


def _schedule(*, steps: int, lr: float = 0.005, batch_size: int = 16) -> TrainConfig:
    """No averaging, because batch normalisation's statistics are of the newest weights."""
    return TrainConfig(
        steps=steps, batch_size=batch_size, lr=lr, warmup=0, ema=0.0, clip=1e6, precision="32"
    )


@dataclass(frozen=True, kw_only=True)
class RD4ADConfig(Checked):
    """Teacher, student and training. The defaults take less than a minute on one CPU core."""

    image_size: int = 128
    """Side of the film, in pixels: the student's embedding needs a multiple of 32 for layers at
    strides 4, 8 and 16."""
    backbone: str = EFFICIENTNET
    """The frozen teacher (see `load_features`)."""
    layers: tuple[int, ...] = (2, 4, 10)
    """Its layers, finest first; each map must have half the sides of the one before."""
    block: Block = "basic"
    """Residual blocks of the student: basic (ResNet18) or bottleneck (WideResNet50)."""
    embedding: Annotated[int, Range(1)] = 224
    """Channels of the one-class embedding; published: twice the deepest layer's."""
    fusion_depth: Annotated[int, Range(1)] = 1
    """Blocks that squeeze the joined maps into the embedding."""
    depths: tuple[int, ...] = (1, 1, 1)
    """Blocks of each of the decoder's stages, coarsest first."""
    compare: Literal["film", "position"] = "film"
    """Loss of a scale: 1 - cos of the whole map as one vector, as the authors' program has it, or
    the mean over positions, as the paper's equation has it."""
    blur: Annotated[float, Range(0)] = 2.0
    """Standard deviation of the blur of the map, in pixels; published: 4 at 256 pixels."""
    epochs: int = 0
    """Passes over the films; 0: as many steps as `train` says."""
    train: TrainConfig = field(default_factory=lambda: _schedule(steps=250))
    """How it is trained; `epochs`, if given, replaces its steps. At least 2 films a batch."""


class RD4AD(WithoutRecord):
    """Scores a film by the largest disagreement of teacher and student."""

    name: ClassVar[str] = "rd4ad"
    summary: ClassVar[str] = "Reverse distillation: what a decoder cannot give back of frozen maps"
    paper: ClassVar[str] = "Deng and Li, CVPR 2022"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "A frozen WideResNet50-2 gives maps at strides 4, 8 and 16 of a 256-pixel picture. "
            "They are fused at the coarsest scale, squeezed into a one-class embedding by "
            "residual blocks, and given back by a mirrored decoder. Loss: 1 - cos at each "
            "position, averaged over a scale and summed over scales. The map is the sum of the "
            "three maps of 1 - cos, blurred with sigma 4; the score is its maximum. Adam, "
            "learning rate 0.005, batch 16, 200 epochs."
        ),
        program=(
            "The loss takes each scale's whole map as one vector and 1 - cos of that, not of each "
            "position; the map is of positions. Upsampling is bilinear with aligned corners."
        ),
        ours=(
            "The loss is the program's; the option `compare` gives the paper's. The teacher is "
            "EfficientNet-Lite0, whose weights come with the package, also in the preset "
            "`paper`; the student's widths follow its maps. By default films have 128 pixels and "
            "half the blur, and the student has a ResNet18's blocks, one a stage. The teacher "
            "looks at each film once, and its maps are kept in 16 bit. The optimiser is our "
            "loop's AdamW without weight decay, with a first beta of 0.9, not 0.5."
        ),
    )
    Config: ClassVar[type] = RD4ADConfig
    PRESETS: ClassVar[Mapping[str, RD4ADConfig]] = {
        "tiny": RD4ADConfig(
            image_size=64,
            layers=(1, 3, 5),
            embedding=32,
            blur=1.0,
            train=_schedule(steps=60, batch_size=8),
        ),
        "small": RD4ADConfig(),
        "paper": RD4ADConfig(
            image_size=256,
            block="bottleneck",
            fusion_depth=3,
            depths=(3, 4, 6),
            blur=4.0,
            epochs=200,
            train=_schedule(steps=1),
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: RD4ADConfig, stats: EhrStats) -> None:
        if config.train.batch_size < 2:  # batch normalisation has no variance of one
            raise UserError("train.batch_size 1: give 2 or more")
        if len(config.depths) != len(config.layers) or min(config.depths) < 1:
            raise UserError(
                f"depths {config.depths}: give {len(config.layers)} numbers, each "
                "1 or more: one for each of layers"
            )
        self.config, self.stats = config, stats
        teacher = load_features(config.backbone, config.layers)
        self.shapes = halving_shapes(teacher, config.image_size, config.layers)
        self.net = nn.ModuleDict({"teacher": teacher, "student": self.new_student(0)})
        self.fitted = False

    def new_student(self, seed: int) -> Student:
        """A student that has seen nothing."""
        c = self.config
        widths = [shape[0] for shape in self.shapes]
        with torch.random.fork_rng(devices=[]):  # torch draws first weights from a global state
            torch.manual_seed(seed)
            fusion = Fusion(widths, c.embedding, c.fusion_depth, c.block)
            return Student(fusion, ReverseDecoder(widths, c.embedding, c.depths, c.block))

    @property
    def teacher(self) -> FeatureMaps:
        """The frozen network."""
        return cast(FeatureMaps, self.net["teacher"])

    @property
    def network_calls(self) -> int:
        """Two: teacher and student."""
        return 2

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """1 - cos of teacher and student, summed over scales. Draws nothing."""
        maps = unpacked(batch.image, self.shapes)
        total = torch.zeros((), device=batch.image.device)
        for teacher, student in zip(maps, net(maps), strict=True):
            if self.config.compare == "film":
                total = total + film_cosine(teacher, student).mean()
            else:
                cosine = torch.cosine_similarity(teacher, student, dim=1)
                total = total + (1 - cosine).mean()
        return {"loss": total}

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains a new student on normal films. Raises UserError where the training loop does."""
        job = job or TrainingRun()
        config = with_epochs(self.config.train, self.config.epochs, len(normal))
        films = cast(Films, MapFilms(normal, self.teacher, job))
        self.net["student"] = self.new_student(seed).to(device_of(self.net))
        train(self.net["student"], self.loss, films, config, seed=seed, job=job)
        self.fitted = True
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The map is 1 - cos summed over scales (0 to twice their number); the score its maximum.

        Parts: the largest 1 - cos of each scale, unblurred, finest first.
        """
        if not self.fitted:
            raise UserError("rd4ad: not fitted yet; fit it, or load a model")
        teacher_maps = self.teacher(batch.image.to(next(self.net.parameters()).device))
        given = self.net["student"].eval()(teacher_maps)
        maps = [cosine_map(a, b).cpu() for a, b in zip(teacher_maps, given, strict=True)]
        size = (batch.image.shape[-2], batch.image.shape[-1])
        total = summed_map(maps, size, self.config.blur).clamp_min(0)
        parts = {
            f"layer{layer}": each.amax((1, 2, 3))
            for layer, each in zip(self.config.layers, maps, strict=True)
        }
        return Scores(score=total.amax((1, 2, 3)), anomaly_map=total, components=parts)

    def state(self) -> dict[str, Tensor]:
        """The student's weights; the teacher's never change."""
        return dict(self.net["student"].state_dict()) if self.fitted else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights that `state` gave."""
        self.fitted = bool(state)
        if state:
            self.net["student"].load_state_dict(dict(state))
            self.net["student"].eval()
