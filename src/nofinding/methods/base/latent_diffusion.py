"""What the latent diffusion methods share: two networks, how they are trained, films and volumes.

An autoencoder makes a film or a volume small; a U-Net learns to denoise what is small. The methods
differ in what they ask of the U-Net afterwards. Networks that two of them train alike are trained
once where the run names a folder for such (`TrainingRun.shared`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.diffusion.schedule import scaled_linear_abar
from nofinding.functional.noise import gaussian, generators, integers
from nofinding.methods.base.protocol import WithoutRecord
from nofinding.methods.base.restarts import held_out
from nofinding.methods.base.training_identity import describe, trained_once
from nofinding.nets.monai_networks import CodecShape, LatentPair, LatentShape, spectral_gap
from nofinding.nets.slice_distance import PerceptualGap
from nofinding.ranges import Checked
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch

__all__ = ["CodecConfig", "LatentConfig", "LatentDiffusion", "UNetConfig", "tiny_latent"]

Latent = Float[Tensor, "b c *i"]

BATCH = 16  # films at once outside training
FIRST = 64  # films whose encodings the codes begin from


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """The autoencoder and its training."""

    kind: Literal["vq", "kl"] = "vq"
    """vq: a latent is one of some codes at every position; kl: a Gaussian, of which the mean is
    used."""
    channels: tuple[int, ...] = (16, 32)
    """Of each level; every level halves the sides."""
    res_blocks: int = 1
    """Residual blocks a level."""
    latent_channels: int = 4
    """Numbers at every position of the latent."""
    codes: int = 128
    """Codes of a vq autoencoder."""
    decay: float = 0.9
    """Of the moving average that the codes follow."""
    norm_groups: int = 8
    """Groups of every GroupNorm of a kl autoencoder."""
    kl_weight: float = 1e-6
    """Of the divergence of a kl latent from a standard normal one, averaged over its numbers."""
    perceptual_weight: float = 0.0
    """Of the perceptual distance in the loss; 0.001 in the paper, at several times the cost."""
    spectral_weight: float = 1.0
    """Of the difference of the spectra in the loss."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=180, batch_size=16, lr=2e-3, warmup=20, ema=0.0, precision="32"
        )
    )
    """How it is trained. An average of older weights (ema) would not go with the newest codes."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The U-Net on the latents, the diffusion and its training."""

    channels: tuple[int, ...] = (32, 64, 64)
    """Of each level; every level but the last halves the sides, and the last has attention."""
    res_blocks: int = 1
    """Residual blocks a level."""
    norm_groups: int = 8
    """Groups of every GroupNorm."""
    diffusion_steps: int = 1000
    """T, the number of noise levels; the root of beta rises evenly."""
    low: float = 0.0015
    """The first beta, for 1000 levels."""
    high: float = 0.0195
    """The last beta, for 1000 levels."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=240, batch_size=16, lr=2e-3, warmup=20, ema=0.99)
    )
    """How it is trained."""


@dataclass(frozen=True, kw_only=True)
class LatentConfig(Checked):
    """The two networks, and films or volumes."""

    dimensions: Literal[2, 3] = 2
    """2: films. 3: volumes, as cubes of `image_size` voxels a side."""
    image_size: int = 64
    """Side of the film or the cube, in pixels."""
    held_out: float = 0.08
    """Share of the training films that the networks do not see, for statistics of normal films."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    """The autoencoder and its training."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    """The U-Net on the latents and its training."""

    @property
    def codec_shape(self) -> CodecShape:
        """The autoencoder for these films."""
        c = self.codec
        return CodecShape(
            kind=c.kind,
            dimensions=self.dimensions,
            channels=tuple(c.channels),
            res_blocks=c.res_blocks,
            latent_channels=c.latent_channels,
            codes=c.codes,
            decay=c.decay,
            norm_groups=c.norm_groups,
        )

    @property
    def unet_shape(self) -> LatentShape:
        """The U-Net for these latents."""
        u = self.unet
        return LatentShape(
            channels=tuple(u.channels), res_blocks=u.res_blocks, norm_groups=u.norm_groups
        )

    @property
    def abar(self) -> Float64[Tensor, " T"]:
        """How much of the latent is left at each step."""
        return scaled_linear_abar(self.unet.diffusion_steps, self.unet.low, self.unet.high)


def tiny_latent() -> dict[str, Any]:
    """Options for tests, at 32 pixels."""
    quick = TrainConfig(steps=40, batch_size=8, lr=3e-3, warmup=5, ema=0.0, precision="32")
    return {
        "image_size": 32,
        "held_out": 0.25,
        "codec": CodecConfig(channels=(8, 16), codes=32, train=quick),
        "unet": UNetConfig(
            channels=(8, 16), norm_groups=4, train=replace(quick, steps=140, ema=0.9)
        ),
    }


class LatentDiffusion(WithoutRecord):
    """A detector around an autoencoder and a U-Net on its latents. Its config is a LatentConfig.

    A subclass says what it notes of held-out normal films (`calibrated`), and how it scores.
    """

    config: Any

    def __init__(self, config: Any, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self.codec_shape, self.unet_shape = config.codec_shape, config.unet_shape
        self.codec_shape.require_fits(config.image_size)
        self.unet_shape.require_fits(self.codec_shape.latent_size(config.image_size))
        if config.codec.train.ema:
            raise UserError("codec.train.ema: must be 0; its codes are of the newest weights")
        self.abar = config.abar
        self.net: LatentPair | None = None  # built when needed: MONAI takes seconds to import
        self.learnt: dict[str, Tensor] = {}
        self.borrowed_seconds = 0.0
        """Training time of networks that were taken over from `TrainingRun.shared`."""

    @property
    def title(self) -> str:
        """The method's name, for errors."""
        return str(type(self).name)  # type: ignore[attr-defined]

    def new_net(self) -> LatentPair:
        """Networks that have seen nothing, with first weights from torch's global generator."""
        return LatentPair(self.codec_shape, self.unet_shape)

    def fitted(self) -> LatentPair:
        """The networks. Raises UserError where nothing was fitted or loaded."""
        if self.net is None or not self.learnt:
            raise UserError(f"{self.title}: not fitted yet; fit it, or load a model")
        return self.net

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        assert self.net is not None
        return self.net.mean.device

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains both networks on most of the films and takes statistics from the others.

        Raises UserError for too few films, or where the training loop does.
        """
        job = job or TrainingRun()
        learn, judge = held_out(len(normal), self.config.held_out, seed, self.title)
        films = normal.part(learn)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = self.new_net()
        net = self.net
        (description,) = self.trainings(self.config)
        self.borrowed_seconds = trained_once(
            net, description, films, seed, job.shared, lambda: self._train(net, films, seed, job)
        )
        self.learnt = self.calibrated(batches(normal.part(judge)), seed)
        return self

    def calibrated(self, held: Iterator[Batch], seed: int) -> dict[str, Tensor]:
        """What the method notes of normal films that the networks have not seen."""
        raise NotImplementedError

    def _train(self, net: LatentPair, films: Films, seed: int, job: TrainingRun) -> float:
        """Both networks in turn; gives the seconds that they took."""
        codec = net.codec
        codec.begin_codes(films.batch(range(min(FIRST, len(films)))).image, seeded(seed))
        c = self.config.codec
        first = train(codec, self.codec_loss, films, c.train, seed=seed, job=job.part("codec"))
        with torch.no_grad():
            net.measure([codec.encode(batch.image) for batch in batches(films)])
        # The loop optimises the U-Net alone; the autoencoder goes along where it lies.
        second = train(
            net.unet,
            lambda unet, batch, rows: self.unet_loss(net, unet, batch, rows),
            films,
            self.config.unet.train,
            seed=seed,
            job=job.part("unet"),
        )
        net.to(next(net.unet.parameters()).device).eval()
        return first.seconds + second.seconds

    @classmethod
    def trainings(cls, config: Any) -> tuple[str, ...]:
        """The description of its two networks, which are trained and shared together."""
        settings = {
            "networks": [asdict(config.codec), asdict(config.unet)],
            "sizes": [config.dimensions, config.image_size],
            "slice_stride": getattr(config, "slice_stride", 1),
        }
        code = (cls.new_net, cls._train, cls.codec_loss, cls.unet_loss, LatentPair)
        return (describe(settings, code),)

    def codec_loss(
        self, net: nn.Module, batch: Batch, rows: Sequence[Generator]
    ) -> dict[str, Tensor]:
        """Mean absolute error, price of the latent, spectrum and perceptual distance."""
        c, x = self.config.codec, batch.image
        reconstruction, price = net(x, rows)
        parts = {"l1": (reconstruction - x).abs().mean(), "price": price}
        loss = parts["l1"] + (1.0 if c.kind == "vq" else c.kl_weight) * price
        if c.spectral_weight:
            parts["spectral"] = spectral_gap(reconstruction, x)
            loss = loss + c.spectral_weight * parts["spectral"]
        if c.perceptual_weight:
            parts["perceptual"] = self.gap.to(x.device)(x, [reconstruction]).mean()
            loss = loss + c.perceptual_weight * parts["perceptual"]
        return {"loss": loss, **parts}

    @property
    def gap(self) -> PerceptualGap:
        """The perceptual distance, frozen; made when it is first asked for."""
        if not hasattr(self, "_gap"):
            stride = getattr(self.config, "slice_stride", 1)
            with torch.random.fork_rng(devices=[]):  # weights are drawn, then read from a file
                self._gap = PerceptualGap(self.config.dimensions, stride).requires_grad_(False)
        return self._gap

    def unet_loss(
        self, net: LatentPair, unet: nn.Module, batch: Batch, rows: Sequence[Generator]
    ) -> dict[str, Tensor]:
        """The mean squared error of the noise at a random level of the latent."""
        with torch.no_grad():
            net.codec.to(batch.image.device).eval()
            mean, std = net.mean.to(batch.image.device), net.std.to(batch.image.device)
            z0 = (net.codec.encode(batch.image) - mean) / std
        t = integers(0, self.config.unet.diffusion_steps, rows)
        noise = gaussian(z0.shape[1:], rows).to(z0)
        z = add_noise(z0, noise, self.abar[t])
        prediction = unet(z, timesteps=t.float().to(z.device))
        return {"loss": (prediction - noise).square().mean()}

    def look(self, z: Latent, k: int) -> Latent:
        """The noise that the U-Net sees in z at step k of the whole schedule."""
        net = self.fitted_or_fitting()
        prediction: Tensor = net(z, torch.full((1,), float(k), device=z.device))
        return prediction

    def fitted_or_fitting(self) -> LatentPair:
        """The networks, also while statistics are being taken."""
        if self.net is None:
            raise UserError(f"{self.title}: not fitted yet; fit it, or load a model")
        return self.net

    def state(self) -> dict[str, Tensor]:
        """The trained weights, the scale of the latents, and the statistics."""
        if self.net is None:
            return {}
        net = {f"net.{k}": v.contiguous() for k, v in self.net.state_dict().items()}
        return {**net, **{f"learnt.{k}": v for k, v in self.learnt.items()}}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.net, self.learnt = None, {}
        if state:
            with torch.random.fork_rng(devices=[]):
                self.net = self.new_net()
            self.net.load_state_dict(_under("net.", state))
            self.net.eval()
            self.learnt = _under("learnt.", state)


def batches(films: Films) -> Iterator[Batch]:
    """All films, a few at a time."""
    for start in range(0, len(films), BATCH):
        yield films.batch(range(start, min(start + BATCH, len(films))))


def seeded(seed: int) -> Generator:
    """A generator of its own for what is drawn once."""
    return generators(seed, ["codes"])[0]


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
