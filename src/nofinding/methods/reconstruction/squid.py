"""SQUID: a film rebuilt from what was remembered of normal patches at each place, and a judge that
says whether the result still looks like a film.

Xiang et al., CVPR 2023, arXiv:2111.13495.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.func import functional_call

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.image.residual import max_abs, mse, residual_map
from nofinding.functional.noise import uniform
from nofinding.methods.base.feature_maps import with_epochs
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.nets.inpainting import Discriminator, InpaintingGenerator, InpaintingShape
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["SQUID", "SQUIDConfig", "moved"]

Film = Float[Tensor, "b 1 h w"]  # [0, 1]

LEAST = 1e-6  # below this the training films' logits have no spread
CHUNK = 32  # training films that are judged together, after the training


def _schedule(
    *, steps: int, lr: float = 1e-3, batch_size: int = 16, weight_decay: float = 0.0
) -> TrainConfig:
    """No averaging, because batch normalisation's statistics and the queues are the newest."""
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        warmup=0,
        ema=0.0,
        clip=1e6,
        precision="32",
    )


@dataclass(frozen=True, kw_only=True)
class SQUIDConfig(Checked):
    """Generators, discriminator and training. The defaults take two to three minutes on one CPU
    core."""

    image_size: Annotated[int, Range(1)] = 64
    """Side of the film, in pixels: a multiple of grid times 2^levels; published: 128."""
    grid: Annotated[int, Range(1)] = 2
    """Patches to each side of the film, each with a memory of its own."""
    width: Annotated[int, Range(1)] = 8
    """Channels at the film's resolution, doubled by every level; published: 32."""
    levels: Annotated[int, Range(1)] = 4
    """Halvings between a patch and its code."""
    memories: Annotated[int, Range(0)] = 2
    """Levels of the student's decoder with a memory, from the coarsest; the encoder's maps are
    shown to these levels alone."""
    slots: Annotated[int, Range(1)] = 200
    """Newest normal patches that are remembered of each place."""
    decoder_slots: Annotated[int, Range(1)] = 100
    """Codes that each memory of the decoder learns; published: 200."""
    recalled: Annotated[int, Range(1)] = 5
    """Remembered codes that may stand for what is seen."""
    shortcut: Annotated[float, Range(0, 1)] = 0.95
    """Share of positions that are rebuilt from memory in training; the others pass by."""
    heads: Annotated[int, Range(1)] = 8
    """Of the attention to the eight neighbours."""
    discriminator: Annotated[tuple[int, ...], Range(1)] = (16, 32, 64, 128)
    """Channels of its layers, each of which halves the sides; published: one more of 128."""
    student_weight: float = 10.0
    """Of the student's mean squared residual in the loss, greys in [0, 1]."""
    teacher_weight: float = 0.01
    """Of the teacher's."""
    distil_weight: float = 0.001
    """Of the squared difference of the two at all levels."""
    generator_weight: float = 0.005
    """Of how well the student is taken for real."""
    discriminator_weight: float = 0.005
    """Of how badly the discriminator tells real from rebuilt."""
    shift: Annotated[float, Range(0, below=1)] = 0.05
    """Training films are moved by up to this share of their side, each way."""
    zoom: Annotated[float, Range(0, below=1)] = 0.05
    """And enlarged or shrunk by up to this share."""
    epochs: int = 0
    """Passes over the films; 0: as many steps as `train` says."""
    train: TrainConfig = field(default_factory=lambda: _schedule(steps=500))
    """How it is trained; `epochs`, if given, replaces its steps. At least 2 films a batch."""


def moved(film: Film, rows: Sequence[Generator], shift: float, zoom: float) -> Film:
    """Each film moved and enlarged by chance; black comes in at the edges."""
    drawn = 2 * uniform((3,), rows).to(film) - 1
    scale = 1 + zoom * drawn[:, 2]
    matrix = film.new_zeros(len(film), 2, 3)  # from places of the new film to places of the old
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scale
    matrix[:, :, 2] = 2 * shift * drawn[:, :2] / scale[:, None]  # the film is 2 wide
    places = F.affine_grid(matrix, list(film.shape), align_corners=False)
    return F.grid_sample(film, places, align_corners=False)


class SQUID(WithoutRecord):
    """Scores a film by how little its reconstruction from remembered patches looks like a film."""

    name: ClassVar[str] = "squid"
    summary: ClassVar[str] = "Patches in-painted from memory; a discriminator judges the result"
    paper: ClassVar[str] = "Xiang et al., CVPR 2023 (SQUID)"
    notes: ClassVar[Notes] = Notes(
        paper="A film of 128 pixels is cut into non-overlapping patches. In the bottleneck a "
        "patch is replaced by codes of its own place's queue, which holds the newest normal "
        "patches that lay there; Gumbel shrinkage keeps the five most alike, with the gradient of "
        "all. A transformer layer then in-paints the patch from the remembered codes of its eight "
        "neighbours, and a masked shortcut lets 5 % of the positions pass by in training, none "
        "later. The student generator decodes that, a teacher the patches themselves; the "
        "teacher's features are distilled into the student and the teacher is dropped after "
        "training. A discriminator judges the student's film; the score is the sigmoid of its "
        "logit, set on the scale of normal training films. Weights of the losses: 10 student, "
        "0.01 teacher, 0.001 distillation, 0.005 generator, 0.005 discriminator.",
        program="2 x 2 patches, queues of 200, four levels; the student has learnt memories of "
        "200 codes after the first two levels of its decoder, one for each quarter of a patch and "
        "shared by the patches. The cut of the shrinkage is the fifth weight itself, so that four "
        "codes remain. The discriminator takes two steps to one of the generators; Adam, learning "
        "rate 1e-4 with cosine decay, betas 0.5 and 0.999, 200 epochs of batches of 16, films "
        "moved and enlarged by up to 5 %. Mean and standard deviation of the logit are of the "
        "first 201 training films, and of the films' own random movements. The discriminator is "
        "never put out of its training mode: since films are judged one by one, its batch "
        "normalisation takes each by its own statistics. The epoch is chosen on the films that "
        "are judged.",
        ours="Networks, losses and weights are the program's. Five codes remain, as the paper "
        "says. The discriminator takes a film by its own statistics, in any batch. Generators"
        " and discriminator learn in one step of our one loop: the former from a "
        "discriminator that is held fixed, the latter from a reconstruction that is; AdamW, "
        "betas 0.9 and 0.999, level learning rate. The score is the standardised logit, "
        "turned round, without the sigmoid, which orders films alike but makes extreme ones "
        "equal; with it, it is the part `unreal`. Mean and standard deviation are of all "
        "training films, unmoved. No epoch is chosen. The paper has no map: ours is the "
        "student's residual, which is not what is scored, and may point elsewhere. `small` "
        "has 64 pixels, a quarter of the channels and 500 batches, where the program takes "
        "some 17,000: too few for the adversarial game to settle. `paper` was not run.",
    )
    Config: ClassVar[type] = SQUIDConfig
    PRESETS: ClassVar[Mapping[str, SQUIDConfig]] = {
        "tiny": SQUIDConfig(
            image_size=32,
            width=4,
            levels=3,
            memories=1,
            slots=24,
            decoder_slots=16,
            heads=2,
            discriminator=(8, 16, 16),
            train=_schedule(steps=60, batch_size=8, lr=3e-3),
        ),
        "small": SQUIDConfig(),
        "paper": SQUIDConfig(
            image_size=128,
            width=32,
            decoder_slots=200,
            discriminator=(16, 32, 64, 128, 128),
            epochs=200,
            train=_schedule(steps=1, lr=1e-4, weight_decay=1e-5),
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: SQUIDConfig, stats: EhrStats) -> None:
        _require(config)
        self.config, self.stats = config, stats
        self.net: nn.ModuleDict | None = None
        self.usual = torch.zeros(2)
        """Mean and standard deviation of the logit of the training films."""

    @property
    def network_calls(self) -> int:
        """Two: the student, and the discriminator."""
        return 2

    def new_net(self) -> nn.ModuleDict:
        """Networks that have seen nothing."""
        c = self.config
        shape = InpaintingShape(
            side=c.image_size,
            grid=c.grid,
            width=c.width,
            levels=c.levels,
            memories=c.memories,
            slots=c.slots,
            decoder_slots=c.decoder_slots,
            recalled=c.recalled,
            shortcut=c.shortcut,
            heads=c.heads,
        )
        judge = Discriminator(c.image_size, c.discriminator)
        net = nn.ModuleDict({"generator": InpaintingGenerator(shape), "discriminator": judge})
        # Half as fast again on a CPU.
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """All five losses. Generators get no gradient of the discriminator's, nor it of theirs."""
        c, nets = self.config, cast(nn.ModuleDict, net)
        film = moved((batch.image + 1) / 2, rows, c.shift, c.zoom)
        generator = cast(InpaintingGenerator, nets["generator"])
        judge = cast(Discriminator, nets["discriminator"])
        student, teacher = generator.both(film, rows)
        fixed = {name: weight.detach() for name, weight in judge.named_parameters()}
        taken = functional_call(judge, fixed, (student.film,))
        real, rebuilt = judge(film), judge(student.film.detach())
        apart = [F.mse_loss(a, b) for a, b in zip(student.maps, teacher.maps, strict=True)]
        parts = {
            "student": F.mse_loss(student.film, film),
            "teacher": F.mse_loss(teacher.film, film),
            "distil": torch.stack(apart).sum(),
            "generator": F.softplus(-taken).mean(),  # -log of the probability of being real
            "discriminator": F.softplus(-real).mean() + F.softplus(rebuilt).mean(),
        }
        total = sum(getattr(c, f"{name}_weight") * part for name, part in parts.items())
        return {"loss": cast(Tensor, total), **parts}

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains all networks together, then sees what is usual. Raises UserError where the
        training loop does."""
        with torch.random.fork_rng(devices=[]):  # torch draws first weights from a global state
            torch.manual_seed(seed)
            self.net = self.new_net()
        config = with_epochs(self.config.train, self.config.epochs, len(normal))
        train(self.net, self.loss, normal, config, seed=seed, job=job or TrainingRun())
        chunks = [range(at, min(at + CHUNK, len(normal))) for at in range(0, len(normal), CHUNK)]
        logits = torch.cat([self.rebuild(normal.batch(chunk))[2] for chunk in chunks]).double()
        spread = logits.std(correction=0).clamp_min(LEAST)
        self.usual = torch.stack([logits.mean(), spread]).float()
        return self

    @torch.no_grad()
    def rebuild(self, batch: Batch) -> tuple[Film, Film, Float[Tensor, " b"]]:
        """The film, the student's film, and the discriminator's logit of the latter."""
        if self.net is None:
            raise UserError("squid: not fitted yet; fit it, or load a model")
        net = self.net.eval()
        film = ((batch.image + 1) / 2).to(next(net.parameters()).device)
        rebuilt = net["generator"](film)
        return film.cpu(), rebuilt.cpu(), net["discriminator"](rebuilt).cpu()

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """How many standard deviations the logit is below that of the training films. The map is
        |x - x'|, in grey levels of [0, 1]; part `unreal` is the sigmoid of the score."""
        film, rebuilt, logit = self.rebuild(batch)
        score = (self.usual[0] - logit) / self.usual[1]
        return Scores(
            score=score,
            anomaly_map=residual_map(film, rebuilt),
            reconstruction=(2 * rebuilt - 1).clamp(-1, 1),
            components={
                "unreal": score.sigmoid(),
                "mse": mse(film, rebuilt),
                "max_abs": max_abs(film, rebuilt),
            },
        )

    def state(self) -> dict[str, Tensor]:
        """The trained weights, the queues, and what is usual."""
        return {} if self.net is None else {**self.net.state_dict(), "usual": self.usual}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.net = None
        if state:
            weights = dict(state)
            self.usual = weights.pop("usual").cpu()
            self.net = self.new_net().eval()
            self.net.load_state_dict(weights)


def _require(config: SQUIDConfig) -> None:
    """Raises UserError where there are no such networks."""
    c = config
    if c.memories >= c.levels:
        raise UserError(f"memories {c.memories}: give 0 to {c.levels - 1}")
    for multiple, why in (
        (c.grid * 2**c.levels, f"{c.grid} patches a side, each halved {c.levels} times"),
        (2 ** (len(c.discriminator) + 1), f"{len(c.discriminator)} layers of discriminator"),
    ):
        if c.image_size % multiple:
            raise UserError(f"image_size {c.image_size}: give a multiple of {multiple}, for {why}")
    size = c.width * 2**c.levels // 4 * (c.image_size // c.grid // 2**c.levels) ** 2
    if size % c.heads or c.width * 2**c.levels % 4:
        raise UserError(f"heads {c.heads}: give a divisor of {size}, the numbers of a patch's code")
    if c.train.batch_size < 2:  # batch normalisation has no variance of one
        raise UserError("train.batch_size 1: give 2 or more, for squid")
