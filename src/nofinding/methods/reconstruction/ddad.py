"""Dual-distribution discrepancy: where networks that saw unlabelled films disagree with those that
saw normal ones, and where the latter disagree among themselves.

Cai et al., MICCAI 2022, arXiv:2206.03935 (DDAD). Module B is an ensemble that learns from normal
films, module A one that learns from normal and unlabelled films together; each network is one of
`ae`, `ae-u` or `memae`, with a seed of its own. Not the conditioned denoising of the same name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from nofinding.data.batch import Films, Joined
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.image.discrepancy import inter, intra, sigma
from nofinding.functional.noise import generators
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.methods.reconstruction.ae_u import AEU
from nofinding.methods.reconstruction.autoencoder import (
    AE,
    OPTIMISER,
    AEConfig,
    Image,
    as_published,
    require_autoencoder,
)
from nofinding.methods.reconstruction.memae import MemAE
from nofinding.ranges import Range
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["DDAD", "PAPER", "TINY", "DDADConfig", "DDADIntra", "Ensembles"]

BACKBONES: Mapping[str, type[AE]] = {"ae": AE, "ae-u": AEU, "memae": MemAE}
PROGRAM = (
    "The program takes 4,000 unlabelled films of RSNA, 60 % of them abnormal, and trains each "
    "of the six networks for 250 epochs as `ae`; its deviation is by 1 / (K - 1)."
)


@dataclass(frozen=True, kw_only=True)
class DDADConfig(AEConfig):
    """The networks, how many there are, and how each is trained."""

    hidden: int = 512
    """Width of the layer before and after the latent one, of each network; published: 2048."""
    train: TrainConfig = field(
        default_factory=lambda: as_published(steps=120, batch_size=32, lr=2e-3)
    )
    """How each network is trained; `epochs`, if given, replaces its steps. At least 2 films a
    batch."""
    backbone: Literal["ae", "ae-u", "memae"] = "ae"
    """What each network is: a plain autoencoder, one with a predicted variance, by whose root all
    differences are then divided, or one with a memory."""
    members: Annotated[int, Range(2)] = 3
    """K, the networks of a module."""


TINY: Mapping[str, Any] = {
    "image_size": 16,
    "channels": (8,),
    "hidden": 32,
    "latent": 4,
    "train": as_published(steps=60, batch_size=8, lr=5e-3),
    "members": 2,
}
"""Settings of an ensemble for tests."""
PAPER: Mapping[str, Any] = {
    "hidden": 2048,
    "epochs": 250,
    "train": as_published(steps=1, lr=5e-4),
}
"""Settings of an ensemble as published."""
PRESETS: Mapping[str, DDADConfig] = {
    "tiny": DDADConfig(**TINY),
    "tiny-ae-u": DDADConfig(**TINY, backbone="ae-u"),
    "small": DDADConfig(),
    "small-ae-u": DDADConfig(backbone="ae-u"),
    "paper": DDADConfig(**PAPER),
    "paper-ae-u": DDADConfig(**PAPER, backbone="ae-u"),
}


def _member(config: DDADConfig) -> tuple[type[AE], Any]:
    """The method that one network of the ensemble is of, and its configuration."""
    kind = BACKBONES[config.backbone]
    shared = ("image_size", "channels", "hidden", "latent", "epochs", "train")
    return kind, kind.Config(**{name: getattr(config, name) for name in shared})


class Ensembles(WithoutRecord):
    """What the methods of DDAD share: modules of K autoencoders, and their maps.

    A subclass names the `MAP` that decides, and `MODULES`, A only where it knows unlabelled films.
    """

    MODULES: ClassVar[tuple[str, ...]]
    MAP: ClassVar[str]

    config: Any

    def __init__(self, config: DDADConfig, stats: EhrStats) -> None:
        name: str = type(self).name  # type: ignore[attr-defined]
        require_autoencoder(name, config)
        self.config, self.stats = config, stats
        self.net: nn.ModuleDict | None = None
        self.others: Films | None = None
        self.borrowed_seconds = 0.0
        """Training time of networks that were taken over from `TrainingRun.shared`."""

    @property
    def network_calls(self) -> int:
        """One of every autoencoder."""
        return int(self.config.members) * len(self.MODULES)

    def backbone(self) -> AE:
        """A detector that knows how one network is built, trained and asked."""
        kind, config = _member(self.config)
        return kind(config, self.stats)

    @classmethod
    def trainings(cls, config: Any) -> tuple[str, ...]:
        """The descriptions of its networks, for whoever may share them: those of a module learn
        from the same films, each with a seed of its own."""
        return tuple(
            f"{module}{k} {description}"
            for description in _member(config)[0].trainings(_member(config)[1])
            for module in cls.MODULES
            for k in range(config.members)
        )

    def new_net(self) -> nn.ModuleDict:
        """All networks by module, in evaluation mode: `a0`, `a1`, ..., `b0`, ..."""
        make = self.backbone().new_net
        names = [f"{m}{k}" for m in self.MODULES for k in range(self.config.members)]
        return nn.ModuleDict({name: make() for name in names}).eval()

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains every network, each with its own seed. Raises UserError where the training loop
        does, or where unlabelled films are needed and were not met."""
        job = job or TrainingRun()
        films = {"a": self._with_others(normal), "b": normal}
        nets: dict[str, nn.Module] = {}
        self.borrowed_seconds = 0.0
        for module in self.MODULES:
            for k in range(self.config.members):
                name, member = f"{module}{k}", self.backbone()
                own = generators(seed, [f"ddad/{name}"])[0].initial_seed()
                member.fit(films[module], seed=own, job=job.part(name))
                nets[name] = member.fitted()
                self.borrowed_seconds += member.borrowed_seconds
        self.net = nn.ModuleDict(nets).eval()
        return self

    def _with_others(self, normal: Films) -> Films:
        """What module A learns from."""
        if "a" not in self.MODULES:
            return normal
        if self.others is None:
            name: str = type(self).name  # type: ignore[attr-defined]
            raise UserError(f"{name}: needs unlabelled films beside the normal ones; give some")
        return Joined(normal, self.others)

    def fitted(self) -> nn.ModuleDict:
        """The trained networks. Raises UserError where there are none."""
        if self.net is None:
            name: str = type(self).name  # type: ignore[attr-defined]
            raise UserError(f"{name}: not fitted yet; fit it, or load a model")
        return self.net

    @torch.no_grad()
    def maps(self, nets: nn.ModuleDict, image: Image) -> dict[str, Image]:
        """The map `rec`, the squared residual; `intra` and, with a module A, `inter`; and the
        film after the squeeze, `normal`, the mean of module B.

        In grey levels of [0, 1]; with ae-u, `inter` and `intra` in units of the predicted
        deviation of module B, and `rec` in units of its variance.
        """
        ask = self.backbone().predict
        outputs = {m: [ask(net, image) for net in self._module(nets, m)] for m in self.MODULES}
        b = torch.stack([mean for mean, _ in outputs["b"]])
        logvars = [logvar for _, logvar in outputs["b"] if logvar is not None]
        # Half the range of [-1, 1] is that of [0, 1]; in units of a deviation there is no range.
        unit = sigma(torch.stack(logvars)) if logvars else torch.tensor(2.0, device=image.device)
        maps: dict[str, Image] = {
            "rec": ((image - b.mean(dim=0)) / unit).square(),
            "intra": intra(b) / unit,
            "normal": b.mean(dim=0),
        }
        if "a" in outputs:
            maps["inter"] = inter(torch.stack([mean for mean, _ in outputs["a"]]), b) / unit
        return maps

    def _module(self, nets: nn.ModuleDict, module: str) -> Iterator[nn.Module]:
        for k in range(self.config.members):
            yield nets[f"{module}{k}"]

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The mean of the map over the pixels; the means of the other maps are parts."""
        nets = self.fitted()
        maps = self.maps(nets, batch.image.to(next(nets.parameters()).device))
        names: tuple[str, ...] = ("inter", "intra", "rec")
        parts = {n: maps[n].mean(dim=(1, 2, 3)).cpu() for n in names if n in maps}
        return Scores(
            score=parts[self.MAP],
            anomaly_map=maps[self.MAP].cpu(),
            reconstruction=maps["normal"].clamp(-1, 1).cpu(),
            components=parts,
        )

    def state(self) -> dict[str, Tensor]:
        """The weights of all networks."""
        return {} if self.net is None else dict(self.net.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights that `state` gave."""
        self.net = None
        if state:
            self.net = self.new_net()
            self.net.load_state_dict(dict(state))


class DDADIntra(Ensembles):
    """Scores a film by how much networks that know normal films disagree about it."""

    name: ClassVar[str] = "ddad-intra"
    summary: ClassVar[str] = "Disagreement among autoencoders that learnt from normal films"
    paper: ClassVar[str] = "Cai et al., MICCAI 2022 (DDAD)"
    notes: ClassVar[Notes] = Notes(
        paper="Three networks learn from normal films with different first weights. The intra-"
        "discrepancy is the standard deviation of their outputs at each pixel; with AE-U as "
        "backbone it is divided by the predicted deviation. The score is its mean.",
        program=PROGRAM,
        ours=f"{OPTIMISER} The deviation is by 1 / K, as in the paper. `small` has a narrower "
        "bottleneck (512) and trains each network for 120 batches of 32. The variance that all "
        "is divided by is the mean over module B, held above that of rounding to 8 bit.",
    )
    Config: ClassVar[type] = DDADConfig
    PRESETS: ClassVar[Mapping[str, DDADConfig]] = PRESETS
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY
    MODULES: ClassVar[tuple[str, ...]] = ("b",)
    MAP: ClassVar[str] = "intra"


class DDAD(Ensembles):
    """Scores a film by how differently it comes back from networks that saw unlabelled films."""

    name: ClassVar[str] = "ddad"
    summary: ClassVar[str] = "What autoencoders learn from unlabelled films and not from normal"
    paper: ClassVar[str] = "Cai et al., MICCAI 2022 (DDAD)"
    notes: ClassVar[Notes] = Notes(
        paper="Module A, three networks, learns from normal and unlabelled films; module B from "
        "normal films alone. The inter-discrepancy is the difference of the means of their "
        "outputs at each pixel, divided by the predicted deviation with AE-U as backbone. The "
        "score is its mean; `ddad-intra` has the paper's other score.",
        program=PROGRAM,
        ours=f"{OPTIMISER} `small` has a narrower bottleneck (512) and trains each network for 120 "
        "batches of 32. Module A gets as many updates as module B, unless `epochs` is given. The "
        "variance that all is divided by is the mean over module B, held above that of rounding "
        "to 8 bit.",
    )
    Config: ClassVar[type] = DDADConfig
    PRESETS: ClassVar[Mapping[str, DDADConfig]] = PRESETS
    supervision: ClassVar[Supervision] = Supervision.NORMAL_AND_UNLABELLED
    OTHERS: ClassVar[Literal["unlabelled", "diseased"]] = "unlabelled"
    MODULES: ClassVar[tuple[str, ...]] = ("a", "b")
    MAP: ClassVar[str] = "inter"

    def set_auxiliary(self, others: Films) -> None:
        """Takes unlabelled films, before `fit`."""
        self.others = others
