"""DDAD with anomaly score refinement: a small network reads the discrepancies of `ddad`.

Cai et al., Medical Image Analysis 2023, arXiv:2210.04227 (DDAD-ASR). It is taught on discrepancies
of normal films into which a square of another normal film was blended; no abnormal film is
looked at, and nothing is chosen on films that are judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.noise import generators, integers, uniform
from nofinding.methods.base.protocol import Notes
from nofinding.methods.reconstruction.autoencoder import OPTIMISER, Image
from nofinding.methods.reconstruction.ddad import (
    DDAD,
    PAPER,
    TINY,
    DDADConfig,
    DDADIntra,
    Ensembles,
)
from nofinding.ranges import Range
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["DDADASR", "DDADASRConfig", "DDADASRIntra", "blend_squares", "focal"]

GAMMA = 2.0  # of the focal loss
HALF_WIDTH = (0.05, 0.2)  # of the square, in shares of the film's side
CENTRE = (0.1, 0.9)  # of the square: in the middle 80 % of the film


def _refining(*, steps: int, lr: float, batch_size: int = 8) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        weight_decay=1e-4,
        warmup=0,
        ema=0.0,
        clip=1e6,
        precision="32",
    )


@dataclass(frozen=True, kw_only=True)
class DDADASRConfig(DDADConfig):
    """The networks of `ddad`, and the one that reads their discrepancies."""

    refine_width: Annotated[int, Range(1)] = 32
    """Channels of the refinement network; published: 128."""
    refine_epochs: int = 0
    """Passes of the refinement over the films; 0: as many steps as `refine` says."""
    refine: TrainConfig = field(default_factory=lambda: _refining(steps=300, lr=1e-3))
    """How the refinement is trained; `refine_epochs`, if given, replaces its steps."""


PRESETS: Mapping[str, DDADASRConfig] = {
    "tiny": DDADASRConfig(
        **TINY, refine_width=8, refine=_refining(steps=60, batch_size=8, lr=1e-2)
    ),
    "small": DDADASRConfig(),
    "small-ae-u": DDADASRConfig(backbone="ae-u"),
    "paper": DDADASRConfig(
        **PAPER, refine_width=128, refine_epochs=100, refine=_refining(steps=1, lr=1e-4)
    ),
    "paper-ae-u": DDADASRConfig(
        **PAPER,
        backbone="ae-u",
        refine_width=128,
        refine_epochs=100,
        refine=_refining(steps=1, lr=1e-4),
    ),
}


def blend_squares(
    film: Image, other: Image, rows: Sequence[Generator], share: float = 0.5
) -> tuple[Image, Float[Tensor, "b 1 h w"]]:
    """Each film, in `share` of them with a square of the other blended in, and where that is (1).

    Half-width, centre and weight of the other film (0 to 1) are uniform.
    """
    drawn = uniform((5,), rows).to(film)[:, :, None, None, None]
    there, half, y0, x0, alpha = drawn.unbind(1)
    half = HALF_WIDTH[0] + (HALF_WIDTH[1] - HALF_WIDTH[0]) * half
    y0, x0 = (CENTRE[0] + (CENTRE[1] - CENTRE[0]) * centre for centre in (y0, x0))
    high, wide = film.shape[-2:]
    y = ((torch.arange(high, device=film.device) + 0.5) / high)[:, None]
    x = ((torch.arange(wide, device=film.device) + 0.5) / wide)[None]
    inside = ((y - y0).abs() <= half) & ((x - x0).abs() <= half) & (there < share)
    mask = inside.to(film)
    return film + alpha * mask * (other - film), mask


def focal(logits: Float[Tensor, "b 2 h w"], mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Mean of -(1 - p)^2 log p, p the probability of what is there (Lin et al. 2017, eq. 4)."""
    log_p = logits.log_softmax(dim=1).gather(1, mask.long())
    return -((1 - log_p.exp()) ** GAMMA * log_p).mean()


class Refiner(nn.Sequential):
    """Three convolutions from the discrepancies to logits of "normal" and "abnormal"."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2, 3, padding=1),
        )


class Refined(Ensembles):
    """Ensembles whose discrepancies are read by a network. A subclass says which: `READS`."""

    READS: ClassVar[tuple[str, ...]]

    def __init__(self, config: DDADASRConfig, stats: EhrStats) -> None:
        if config.refine.batch_size < 2:  # as of the autoencoders
            raise UserError("refine.batch_size 1: give 2 or more")
        super().__init__(config, stats)

    @property
    def network_calls(self) -> int:
        """One of every autoencoder, and one of the refinement."""
        return super().network_calls + 1

    def new_net(self) -> nn.ModuleDict:
        """All networks: those of the modules, and `refine`."""
        nets = super().new_net()
        nets["refine"] = Refiner(len(self.READS), self.config.refine_width)
        return nets.eval()

    def read(self, nets: nn.ModuleDict, image: Image) -> Float[Tensor, "b n h w"]:
        """What the refinement sees of a film."""
        return self._stacked(self.maps(nets, image))

    def _stacked(self, maps: Mapping[str, Image]) -> Float[Tensor, "b n h w"]:
        return torch.cat([maps[name] for name in self.READS], dim=1)

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains the modules, then the refinement on films with blended squares. Raises UserError
        where the training loop does, or where unlabelled films are needed and were not met."""
        job = job or TrainingRun()
        super().fit(normal, seed=seed, job=job)
        nets, home = self.fitted(), next(self.fitted().parameters()).device
        own = generators(seed, ["ddad/refine"])[0].initial_seed()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(own)
            refiner = Refiner(len(self.READS), self.config.refine_width)

        def loss(net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
            """Focal loss of the square; the other film is any normal one, by its number."""
            other = normal.batch(integers(0, len(normal), rows).tolist()).image
            image, mask = blend_squares(batch.image, other.to(batch.image), rows)
            maps = self.read(nets.to(image.device), image)
            return {"loss": focal(net(maps), mask)}

        config: TrainConfig = self.config.refine
        if self.config.refine_epochs:
            epoch = -(-len(normal) // (config.batch_size * config.accumulate))
            config = replace(config, steps=max(1, self.config.refine_epochs * epoch))
        train(refiner, loss, normal, config, seed=own, job=job.part("refine"))
        nets["refine"] = refiner
        self.net = nets.to(home).eval()
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The map is the probability of an anomaly, the score its mean; the means of the
        discrepancies are parts."""
        nets = self.fitted()
        image = batch.image.to(next(nets.parameters()).device)
        maps = self.maps(nets, image)
        refined = nets["refine"](self._stacked(maps)).softmax(dim=1)[:, 1:]
        return Scores(
            score=refined.mean(dim=(1, 2, 3)).cpu(),
            anomaly_map=refined.cpu(),
            reconstruction=maps["normal"].clamp(-1, 1).cpu(),
            components={name: maps[name].mean(dim=(1, 2, 3)).cpu() for name in self.READS},
        )


def _notes(reads: str) -> Notes:
    return Notes(
        paper=f"A network of three convolutions (128 channels) reads {reads} and gives the "
        "probability of an anomaly at each pixel. It learns from normal films, half of them with a "
        "square of another film blended in, by a focal loss; the score is the mean probability.",
        program="Adam, learning rate 1e-4, weight decay 1e-4, batches of 8, 100 epochs, on the "
        "trained networks of `ddad`; it measures every epoch on the test set, prints the final and "
        "the best of these, and stores the final weights.",
        ours=f"{OPTIMISER} The final weights are kept, and no other film is looked at: no epoch is "
        "chosen. `small` has 32 channels and 300 batches. Squares come from normal training films "
        "alone. The weight decay is decoupled, as AdamW's is. It needs modules that were trained "
        "for long: on Kermany's films those of `small` (4 epochs) do not show the squares (pixel "
        "AUROC 0.46 to 0.51), so that the refinement has nothing to learn from and its score may "
        "point either way. `paper` was not run.",
    )


class DDADASR(Refined, DDAD):
    """Mean probability of an anomaly, read from inter- and intra-discrepancy."""

    name: ClassVar[str] = "ddad-asr"
    summary: ClassVar[str] = "ddad, its discrepancies read by a network taught on blended squares"
    paper: ClassVar[str] = "Cai et al., MedIA 2023 (DDAD-ASR)"
    notes: ClassVar[Notes] = _notes("the inter- and the intra-discrepancy")
    Config: ClassVar[type] = DDADASRConfig
    PRESETS: ClassVar[Mapping[str, Any]] = PRESETS
    supervision: ClassVar[Supervision] = Supervision.NORMAL_AND_UNLABELLED
    READS: ClassVar[tuple[str, ...]] = ("inter", "intra")


class DDADASRIntra(Refined, DDADIntra):
    """Mean probability of an anomaly, read from the intra-discrepancy of module B."""

    name: ClassVar[str] = "ddad-asr-intra"
    summary: ClassVar[str] = "ddad-intra, its map read by a network taught on blended squares"
    paper: ClassVar[str] = "Cai et al., MedIA 2023 (DDAD-ASR)"
    notes: ClassVar[Notes] = _notes("the intra-discrepancy, of networks that saw normal films,")
    Config: ClassVar[type] = DDADASRConfig
    PRESETS: ClassVar[Mapping[str, Any]] = PRESETS
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY
    READS: ClassVar[tuple[str, ...]] = ("intra",)
