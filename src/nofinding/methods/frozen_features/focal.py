"""A network that was taught, on normal films alone, to find lesions painted into the lungs.

`synthetic` learns that something does not belong; here the lesions are attenuation added along
the beam, of seven families and of all sizes from three pixels on, and the network also sees what
looks like them and must not count. `diff3m-f` takes its evidence and features from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.image.equalise import equalise
from nofinding.functional.image.lesions import LESIONS, paint_lesions
from nofinding.functional.image.lookalikes import paint_lookalikes, reprocessed
from nofinding.functional.synthetic.acquisition import exposure, labels, place, placement
from nofinding.methods.base.lung_network import load_lungs
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.methods.base.taught_weights import IMAGENET, focal_weights
from nofinding.nets.focal import FAMILIES, LUNGS, Focal, FocalNet, LungNet
from nofinding.ranges import Checked, Names, Range
from nofinding.runtime import device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["FocalConfig", "FocalLesions"]

ALARM = 50.0  # false alarms, in clean places a film, that weigh as much as one missed lesion
MASKED = 0.45  # share of black from which on a film shows the lungs alone


@dataclass(frozen=True, kw_only=True)
class FocalConfig(Checked):
    """The network, what is painted, and for how long it is trained."""

    begin: str = "imagenet"
    """What training begins with: imagenet, early blocks from photographs and all else at random;
    shipped, the network in the package; else the folder of a fitted `focal` model."""
    image_size: Annotated[int, Range(64, multiple=32)] = 224
    """Side of the film, in pixels: a multiple of 32."""
    widths: Annotated[tuple[int, ...], Range(1, count=4)] = (24, 48, 96, 160)
    """Channels at 1/2, 1/4, 1/8 and 1/16 of the side."""
    families: Annotated[tuple[str, ...], Names(*LESIONS)] = FAMILIES
    """Which lesions are painted (docs/diff3m-f.md lists them)."""
    lookalikes: Annotated[float, Range(0, 1)] = 0.2
    """Share of films that show each kind of harmless look-alike; 0: none."""
    film_weight: float = 0.3
    """Weight of "is there one on this film", against "where"."""
    lung_weight: float = 0.3
    """Weight of the lung field, which is learnt along the way."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=3000, batch_size=16, lr=2e-3, weight_decay=0.02, ema=0.995, checkpoint_every=50
        )
    )
    """How it is trained."""


class FocalLesions(WithoutRecord):
    """The highest probability, anywhere on the film, of a lesion of any family."""

    name: ClassVar[str] = "focal"
    summary: ClassVar[str] = "Network taught by lesions painted into lungs, with look-alikes"
    paper: ClassVar[str] = "after Sato et al. 2023 (AnatPaste) and Baugh et al. 2023; ours"
    notes: ClassVar[Notes] = Notes(
        paper="AnatPaste pastes patches within a lung mask; Baugh et al. validate synthetic tasks "
        "by leaving one out.",
        program="Networks from ImageNet, one kind of patch, one score a film.",
        ours=(
            "Lesions are attenuation, of seven families, each with an output of its own at half "
            "the film's resolution; harmless look-alikes are painted and must not count; the "
            "lung field comes from a network taught on real films whose lungs were outlined."
        ),
    )
    Config: ClassVar[type] = FocalConfig
    PRESETS: ClassVar[Mapping[str, FocalConfig]] = {
        "tiny": FocalConfig(
            image_size=96,
            widths=(8, 12, 16, 16),
            families=("opacity", "device"),
            lookalikes=0.0,
            train=TrainConfig(
                steps=40, batch_size=6, lr=4e-3, warmup=4, ema=0.5, checkpoint_every=20
            ),
        ),
        "small": FocalConfig(),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: FocalConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self.net = self.new_net(0)
        self.lungs: LungNet | None = None
        self.fitted = False

    def new_net(self, seed: int) -> FocalNet:
        """A network that has seen photographs only."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return FocalNet(self.config.widths)

    def first_net(self, seed: int) -> FocalNet:
        """What training begins with. Raises UserError where `begin` names no network that fits."""
        net, begin = self.new_net(seed), self.config.begin
        if begin != IMAGENET:
            try:
                net.load_learnt(focal_weights(begin)[0])
            except RuntimeError as error:
                raise UserError(f"begin {begin}: holds a network of other widths") from error
        return net

    @property
    def network_calls(self) -> int:
        """One, and one of the mirrored film."""
        return 2

    @torch.no_grad()
    def prepare(self, image: Tensor, rows: Sequence[Generator]) -> tuple[Tensor, Tensor]:
        """Painted, placed, exposed and equalised films, and what is where at half their side."""
        film = labels((image.cpu() + 1) / 2, rows)
        self.lungs = self.lungs or load_lungs()
        lung = lung_field(film, self.lungs)
        film = paint_lookalikes(film, lung, rows, self.config.lookalikes)
        film, masks = paint_lesions(film, lung, rows, self.config.families)
        moved = place(torch.cat([film, masks, lung], dim=1), placement(rows))
        film, masks, lung = moved[:, :1], moved[:, 1:-1], moved[:, -1:]
        film = equalise(exposure(reprocessed(film, lung, rows), rows))
        # A small lesion counts in every place that it touches; a place is half lung or none.
        masks = F.max_pool2d((masks > 0.5).float(), 2)
        return film, torch.cat([masks, F.avg_pool2d(lung, 2)], dim=1)

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """Missed lesions, false alarms, overlap, lesions anywhere on the film, and the lung."""
        device = batch.image.device
        film, target = (x.to(device) for x in self.prepare(batch.image, rows))
        out = net(film)
        assert isinstance(out, Focal)
        lesion = target[:, :LUNGS]
        missed, alarm, overlap = local_losses(out.where[:, :LUNGS], lesion)
        anywhere = F.binary_cross_entropy_with_logits(out.film, lesion.amax(dim=(2, 3)))
        lung = F.binary_cross_entropy_with_logits(out.where[:, LUNGS], target[:, LUNGS])
        c = self.config
        total = missed + alarm + overlap + c.film_weight * anywhere + c.lung_weight * lung
        return {
            "loss": total,
            "missed": missed,
            "alarm": alarm,
            "overlap": overlap,
            "film": anywhere,
            "lung": lung,
        }

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains the network. Raises UserError where the training loop does."""
        self.net = self.first_net(seed).to(device_of(self.net))
        self.lungs = load_lungs()
        train(self.net, self.loss, normal, self.config.train, seed=seed, job=job or TrainingRun())
        self.fitted = True
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The map is the probability of a lesion of any family, the mirrored film averaged in."""
        if not self.fitted:
            raise UserError("focal: not fitted yet; fit it, or load a model")
        net = self.net.eval()
        film = equalise((batch.image.to(device_of(net)) + 1) / 2)
        here, mirrored = net(film), net(film.flip(-1))
        logits = (here.where + mirrored.where.flip(-1))[:, :LUNGS] / 2
        anywhere = (here.film + mirrored.film) / 2
        where = logits.sigmoid().amax(1, keepdim=True)
        parts = {name: logits[:, i].amax(dim=(1, 2)) for i, name in enumerate(FAMILIES)}
        parts |= {f"film.{name}": anywhere[:, i] for i, name in enumerate(FAMILIES)}
        shown = F.interpolate(where, size=film.shape[-2:], mode="bilinear")
        score = logits.amax(dim=(1, 2, 3))
        return Scores(
            score=score.cpu(),
            anomaly_map=shown.cpu(),
            components={name: part.cpu() for name, part in parts.items()},
        )

    def state(self) -> dict[str, Tensor]:
        """All weights but ImageNet's."""
        return self.net.learnt() if self.fitted else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights that `state` gave."""
        self.fitted = bool(state)
        if state:
            self.net.load_learnt(state)


def lung_field(film: Float[Tensor, "b 1 h w"], net: LungNet) -> Float[Tensor, "b 1 h w"]:
    """Where the lungs are, 0 to 1; of a film with all else blacked out, what it shows."""
    share = net(equalise(film)).sigmoid()
    share = F.interpolate(share, size=film.shape[-2:], mode="bilinear", align_corners=False)
    shown = F.avg_pool2d((film > 0.03).float(), 5, 1, 2)
    masked = (film <= 0.03).float().mean(dim=(1, 2, 3), keepdim=True) > MASKED
    return torch.where(masked, shown, share)


def local_losses(
    logits: Float[Tensor, "b f h w"], target: Float[Tensor, "b f h w"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Lesions missed, false alarms, and one minus the overlap, each a mean over the films.

    Every lesion weighs the same, whatever its size; clean places weigh by how sure the network
    is of a lesion there, so that the few hard ones count (focal loss, Lin et al. 2017).
    """
    share = logits.sigmoid()
    size = target.sum(dim=(2, 3))
    shows = (size > 0).float()
    films = len(logits)
    hit = ((1 - share) * F.softplus(-logits) * target).sum(dim=(2, 3)) / size.clamp_min(1)
    alarm = (share.square() * F.softplus(logits) * (1 - target)).sum() / ALARM / films
    both = (share * target).sum(dim=(2, 3))
    overlap = 1 - (2 * both + 1) / (share.sum(dim=(2, 3)) + size + 1)
    return hit.sum() / films, alarm, (overlap * shows).sum() / films
