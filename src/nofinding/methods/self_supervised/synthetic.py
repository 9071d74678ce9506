"""A network that was taught, on normal films alone, to find what was painted on them.

Self-supervised detection by synthetic anomalies: FPI (Tan et al. 2020, arXiv:2011.04197), NSA
(Schlueter et al. 2022, arXiv:2109.15222), AnatPaste (Sato et al. 2023). Ours differs in three
ways: ten kinds of painted anomaly, not one; normal and painted film go through the same change of
exposure and position, so that these can say nothing; and histogram equalisation before all.
`diff3m-f` takes its features from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.image.equalise import equalise
from nofinding.functional.synthetic.acquisition import exposure, labels, place, placement
from nofinding.functional.synthetic.anomalies import ANOMALIES, changed, paint
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.nets.chest import STRIDE, ChestNet, Evidence
from nofinding.ranges import Checked, Names, Range
from nofinding.runtime import device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["Synthetic", "SyntheticConfig"]

FOUND = 2.0  # how much more a painted cell counts than a clean one


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(Checked):
    """The network, what is painted, and for how long it is trained."""

    image_size: Annotated[int, Range(32, multiple=32)] = 224
    """Side of the film, in pixels: a multiple of 32."""
    hidden: int = 64
    """Channels of the head."""
    kinds: Annotated[tuple[str, ...], Names(*ANOMALIES)] = tuple(ANOMALIES)
    """Which anomalies are painted (docs/diff3m-f.md lists them)."""
    film_weight: float = 0.5
    """Weight of "is there anything", against "where"."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=1200, batch_size=12, lr=3e-4, weight_decay=0.02, ema=0.998, checkpoint_every=100
        )
    )
    """How it is trained; each film of a batch goes in twice, clean and painted."""


class Synthetic(WithoutRecord):
    """The mean probability, over the film, of something that does not belong there."""

    name: ClassVar[str] = "synthetic"
    summary: ClassVar[str] = "Network taught by anomalies painted on normal films"
    paper: ClassVar[str] = "after Schlueter et al. 2022 (NSA) and Sato et al. 2023 (AnatPaste)"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "FPI, NSA and AnatPaste paste foreign or displaced patches into normal films and "
            "teach a network to find them."
        ),
        program=(
            "Networks trained from nothing or from ImageNet, one kind of patch, the pixel map "
            "averaged or its maximum as the score."
        ),
        ours=(
            "Ten kinds of painted anomaly; clean and painted film go through the same changes "
            "of exposure and position, so that these can say nothing; only the later blocks of "
            "EfficientNet-Lite0 learn."
        ),
    )
    Config: ClassVar[type] = SyntheticConfig
    PRESETS: ClassVar[Mapping[str, SyntheticConfig]] = {
        "tiny": SyntheticConfig(
            # At 64 pixels a cell is a quarter of the film; with all kinds 40 steps teach nothing.
            image_size=96,
            hidden=16,
            kinds=("opacity", "device"),
            train=TrainConfig(
                steps=40, batch_size=4, lr=1e-3, warmup=4, ema=0.5, checkpoint_every=20
            ),
        ),
        "small": SyntheticConfig(),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: SyntheticConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self.net = self.new_net(0)
        self.fitted = False

    def new_net(self, seed: int) -> ChestNet:
        """A network that has seen photographs only."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ChestNet(self.config.image_size, self.config.hidden)

    @property
    def network_calls(self) -> int:
        """One."""
        return 1

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """Cross-entropy of "painted here" over the cells, and of "painted anywhere"."""
        clean = labels((batch.image.cpu() + 1) / 2, rows)
        painted = paint(clean, rows, self.config.kinds)
        where = placement(rows)
        clean, painted = place(clean, where), place(painted, where)
        cells = changed(clean, painted, self.config.image_size // STRIDE).float()
        # Both films of a pair get the same exposure: it must not tell them apart.
        again = [Generator().manual_seed(row.initial_seed() ^ 1) for row in rows]
        twin = [Generator().manual_seed(row.initial_seed() ^ 1) for row in rows]
        both = equalise(torch.cat([exposure(clean, again), exposure(painted, twin)]))
        evidence = net(both.to(batch.image.device))
        assert isinstance(evidence, Evidence)
        cells = torch.cat([torch.zeros_like(cells), cells]).to(evidence.where)
        local = F.binary_cross_entropy_with_logits(
            evidence.where, cells, pos_weight=cells.new_tensor(FOUND)
        )
        film = F.binary_cross_entropy_with_logits(evidence.film, cells.amax(dim=(1, 2)))
        return {"loss": local + self.config.film_weight * film, "where": local, "film": film}

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains the later blocks and the head. Raises UserError where the training loop does."""
        self.net = self.new_net(seed).to(device_of(self.net))
        train(self.net, self.loss, normal, self.config.train, seed=seed, job=job or TrainingRun())
        self.fitted = True
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The map is the probability of an anomaly in [0, 1], averaged with the mirrored film's."""
        if not self.fitted:
            raise UserError("synthetic: not fitted yet; fit it, or load a model")
        net = self.net.eval()
        film = equalise((batch.image.to(net.position.device) + 1) / 2)
        here, mirrored = net(film), net(film.flip(-1))
        logits = torch.stack([here.where, mirrored.where.flip(-1)])
        where = logits.sigmoid().mean(0)
        parts = {
            "mean": where.mean(dim=(1, 2)),
            "film": (here.film + mirrored.film) / 2,
            "max": where.amax(dim=(1, 2)),
        }
        shown = F.interpolate(where[:, None], size=film.shape[-2:], mode="bilinear")
        return Scores(
            score=parts["mean"].cpu(),
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
            self.net.load_learnt(dict(state))
