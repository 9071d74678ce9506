"""The plain autoencoder: what does not fit through a few numbers is abnormal.

The baseline of DDAD (Cai et al. 2022, arXiv:2206.03935) and of MedIAnomaly (Cai et al. 2025,
arXiv:2404.04518), with their network and settings. The other autoencoders (`vae`, `memae`, `ae-u`)
are this one with another middle, loss or end, and `ddad` is many of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.image.residual import max_abs, mse, residual_map
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.methods.base.training_identity import describe, trained_once
from nofinding.nets.autoencoder import Autoencoder
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["AE", "OPTIMISER", "TINY", "AEConfig", "Image", "as_published", "require_autoencoder"]

Image = Float[Tensor, "b 1 h w"]  # [-1, 1]

OPTIMISER = (
    "The published optimiser is Adam with betas 0.5 and 0.999; our loop is AdamW with 0.9 and "
    "0.999 (without weight decay, that is Adam)."
)
"""For the notes of all methods that are trained so."""


def as_published(*, steps: int, lr: float, batch_size: int = 64) -> TrainConfig:
    """As published: no warm-up, averaging or clipping to speak of, 32 bit.

    No averaging also because batch normalisation's statistics are of the newest weights.
    """
    return TrainConfig(
        steps=steps, batch_size=batch_size, lr=lr, warmup=0, ema=0.0, clip=1e6, precision="32"
    )


@dataclass(frozen=True, kw_only=True)
class AEConfig(Checked):
    """The network and its training. The defaults take about a minute on two CPU cores; "paper"
    trains for as long as published, at half the learning rate."""

    image_size: Annotated[int, Range(1)] = 64
    """Side of the film, in pixels: a multiple of 2^len(channels)."""
    channels: Annotated[tuple[int, ...], Range(1)] = (16, 32, 64, 64)
    """Of each level of the encoder; the decoder mirrors them."""
    hidden: int = 2048
    """Width of the layer before and after the latent one."""
    latent: int = 16
    """Numbers that a film is squeezed into. MedIAnomaly finds 4 better on RSNA."""
    epochs: int = 0
    """Passes over the films; 0: as many steps as `train` says."""
    train: TrainConfig = field(default_factory=lambda: as_published(steps=400, lr=1e-3))
    """How it is trained; `epochs`, if given, replaces its steps. At least 2 films a batch."""


TINY: Mapping[str, Any] = {
    "image_size": 32,
    "channels": (8, 16),
    "hidden": 64,
    "latent": 8,
    "train": as_published(steps=60, batch_size=8, lr=2e-3),
}
"""Settings of an autoencoder for tests."""


def require_autoencoder(name: str, config: AEConfig) -> None:
    """Raises UserError where there is no such autoencoder."""
    if config.image_size % 2 ** len(config.channels):
        raise UserError(
            f"image_size {config.image_size}: give a multiple of "
            f"{2 ** len(config.channels)}, for {len(config.channels)} channels"
        )
    if config.train.batch_size < 2:  # batch normalisation has no variance of one
        raise UserError(f"train.batch_size 1: give 2 or more, for {name}")


class AE(WithoutRecord):
    """Scores a film by its mean squared difference from the film after the squeeze.

    A subclass says what `new_net` is, what its `loss` is, and what it predicts.
    """

    name: ClassVar[str] = "ae"
    summary: ClassVar[str] = "Plain autoencoder, 64 x 64: mean squared residual"
    paper: ClassVar[str] = "Cai et al., MICCAI 2022 (DDAD); MedIA 2025 (MedIAnomaly)"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "The film through a bottleneck of a few numbers and back, trained on normal films "
            "by mean squared error; the residual is the score."
        ),
        program=(
            "MedIAnomaly and DDAD ship this network; Adam with betas 0.5 and 0.999, 250 epochs, "
            "64 x 64, last or best epoch."
        ),
        ours=(
            "The same network. AdamW without weight decay and betas 0.9 and 0.999 in our one "
            "training loop; the number of steps is fixed by the preset, never chosen on "
            "labelled films."
        ),
    )
    Config: ClassVar[type] = AEConfig
    PRESETS: ClassVar[Mapping[str, AEConfig]] = {
        "tiny": AEConfig(**TINY),
        "small": AEConfig(),
        "paper": AEConfig(epochs=250, train=as_published(steps=1, lr=5e-4)),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    config: Any
    """An AEConfig, or one that a subclass derives from it."""

    def __init__(self, config: AEConfig, stats: EhrStats) -> None:
        require_autoencoder(type(self).name, config)
        self.config, self.stats = config, stats
        self.net: Autoencoder | None = None
        self.borrowed_seconds = 0.0
        """Training time of a network that was taken over from `TrainingRun.shared`."""

    @property
    def network_calls(self) -> int:
        """One: there and back."""
        return 1

    def new_net(self) -> Autoencoder:
        """A network that has seen nothing."""
        return Autoencoder(**self.shape())

    def shape(self) -> dict[str, Any]:
        """What every autoencoder is told of its size."""
        c = self.config
        return {
            "image_size": c.image_size,
            "channels": c.channels,
            "hidden": c.hidden,
            "latent": c.latent,
        }

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The mean squared residual, greys in [-1, 1]. Draws nothing."""
        return {"loss": (net(batch.image) - batch.image).square().mean()}

    def predict(self, net: nn.Module, image: Image) -> tuple[Image, Image | None]:
        """The film after the squeeze, and the log-variance of its greys where one is predicted."""
        return net(image), None

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains a new network on normal films. Raises UserError where the training loop does."""
        job = job or TrainingRun()
        with torch.random.fork_rng(devices=[]):  # torch draws first weights from a global state
            torch.manual_seed(seed)
            self.net = net = self.new_net()

        def learn() -> float:
            steps = self._steps(len(normal))
            return train(net, self.loss, normal, steps, seed=seed, job=job).seconds

        (description,) = self.trainings(self.config)
        self.borrowed_seconds = trained_once(net, description, normal, seed, job.shared, learn)
        return self

    def _steps(self, films: int) -> TrainConfig:
        """The training, with the epochs counted in steps."""
        config: TrainConfig = self.config.train
        if not self.config.epochs:
            return config
        steps = self.config.epochs * -(-films // (config.batch_size * config.accumulate))
        return replace(config, steps=max(1, steps))

    @classmethod
    def trainings(cls, config: Any) -> tuple[str, ...]:
        """The description of its one network, for whoever may share it."""
        code = (cls.new_net, cls.shape, cls.loss, cls.fit)
        return (describe({"method": cls.name, "config": asdict(config)}, code),)

    def fitted(self) -> Autoencoder:
        """The trained network. Raises UserError where there is none."""
        if self.net is None:
            raise UserError(f"{type(self).name}: not fitted yet; fit it, or load a model")
        net: Autoencoder = self.net.eval()
        return net

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Score and parts are in grey levels of [0, 1], as is the map |x - x'|."""
        net = self.fitted()
        image = batch.image.to(net.head.weight.device)
        decoded, _ = self.predict(net, image)
        x, normal = (image + 1) / 2, (decoded + 1) / 2
        parts = {"mse": mse(x, normal).cpu(), "max_abs": max_abs(x, normal).cpu()}
        return Scores(
            score=parts["mse"],
            anomaly_map=residual_map(x, normal).cpu(),
            reconstruction=decoded.clamp(-1, 1).cpu(),
            components=parts,
        )

    def state(self) -> dict[str, Tensor]:
        """The trained weights."""
        return {} if self.net is None else dict(self.net.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights that `state` gave."""
        self.net = None
        if state:
            self.net = self.new_net()
            self.net.load_state_dict(dict(state))
            self.net.eval()
