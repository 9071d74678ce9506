"""What the latent diffusion methods share: a KL autoencoder that is trained first, and latents.

The published methods begin with an autoencoder that has seen millions of photographs. There is
none here: it learns from the normal films alone, and may be shared by the methods that train the
same one (`TrainingRun.shared`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.functional.noise import gaussian
from nofinding.methods.base.protocol import WithoutRecord
from nofinding.methods.base.training_identity import describe, trained_once
from nofinding.nets.kl_autoencoder import AutoencoderKL, kl_from_standard
from nofinding.nets.perceptual import Perceptual
from nofinding.nets.unet import UNetShape
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch

__all__ = ["LatentConfig", "LatentMethod", "LatentUNet", "Latents", "paper_autoencoder"]

PORTION = 32  # films encoded at once


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The autoencoder and its training."""

    width: int = 16
    """Channels of the first level."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level, in units of `width`; each level but the first halves the sides."""
    res_blocks: int = 1
    """Residual blocks a level."""
    channels: int = 4
    """Channels of the latent map."""
    norm_groups: int = 4
    """Groups of every GroupNorm."""
    patch: int = 2
    """Side of the squares of pixels that count as one position from the first convolution on."""
    kl: float = 1e-6
    """Weight of the KL divergence (a sum, nats) beside the error summed over the pixels."""
    perceptual: float = 0.0
    """Weight of the feature distance (nets/perceptual.py) beside the mean absolute error."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=200, batch_size=16, lr=2e-3, warmup=20, ema=0.98)
    )
    """How it is trained."""

    @property
    def stride(self) -> int:
        """Pixels of the film's side a position of the latent map."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))


def paper_autoencoder(steps: int) -> LatentConfig:
    """kl-f8 of latent diffusion, for films of 256 pixels."""
    return LatentConfig(
        width=128,
        multipliers=(1, 2, 4, 4),
        res_blocks=2,
        norm_groups=32,
        patch=1,
        perceptual=1.0,
        train=TrainConfig(steps=steps, batch_size=12, lr=4.5e-6 * 12, ema=0.0, warmup=0),
    )


@dataclass(frozen=True, kw_only=True)
class LatentUNet:
    """The U-Net that works on latents."""

    width: int = 16
    """Channels at full resolution of the latent map; the time embedding is four times as wide."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `width`; each level but the first halves the sides."""
    res_blocks: int = 1
    """Residual blocks a level."""
    attention_at: tuple[int, ...] = (8, 4)
    """Sides of the maps, in positions of the latent map, that get self-attention."""
    heads: int = 4
    """Heads of the self-attention."""
    norm_groups: int = 4
    """Groups of every GroupNorm."""

    def shape(self, side: int, channels: int) -> UNetShape:
        """For latent maps of this side. Raises UserError for an impossible one."""
        deepest = 2 ** (len(self.multipliers) - 1)
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(f"multipliers {self.multipliers}: give one or more, each 1 or more")
        if side % deepest:
            raise UserError(
                f"latent side {side}: must be a multiple of {deepest}, for "
                f"{len(self.multipliers)} levels of the U-Net"
            )
        if self.width < 1 or any((self.width * m) % self.heads for m in self.multipliers):
            raise UserError(f"heads {self.heads}: must divide the channels of each level")
        return UNetShape(
            image_size=side,
            width=self.width,
            multipliers=tuple(self.multipliers),
            res_blocks=self.res_blocks,
            attention_at=tuple(self.attention_at),
            heads=self.heads,
            groups=self.norm_groups,
            in_channels=channels,
        )


class Latents(NamedTuple):
    """The Gaussians that an autoencoder makes of all training films, scaled; looked up by id."""

    mean: Float[Tensor, "n c i j"]
    std: Float[Tensor, "n c i j"]
    place: dict[str, int]

    def draw(self, ids: Sequence[str], rows: Sequence[Generator]) -> Float[Tensor, "b c i j"]:
        """A latent of each film, drawn by its row."""
        index = [self.place[image_id] for image_id in ids]
        noise = gaussian(self.mean.shape[1:], rows)
        return self.mean[index] + self.std[index] * noise


class LatentMethod(WithoutRecord):
    """A detector in the latents of an autoencoder; its config has `image_size` and `autoencoder`,
    a LatentConfig."""

    config: Any
    autoencoder: AutoencoderKL
    borrowed_seconds: float = 0.0
    """Training time of an autoencoder that was taken over from `TrainingRun.shared`."""

    @property
    def side(self) -> int:
        """Of the latent map. Raises UserError where the film's side is no multiple."""
        stride = self.config.autoencoder.stride
        if self.config.image_size < stride or self.config.image_size % stride:
            raise UserError(f"image_size {self.config.image_size}: give a multiple of {stride}")
        return int(self.config.image_size // stride)

    def new_autoencoder(self) -> AutoencoderKL:
        """First weights from torch's global generator."""
        c: LatentConfig = self.config.autoencoder
        return AutoencoderKL(
            width=c.width,
            multipliers=c.multipliers,
            res_blocks=c.res_blocks,
            latent=c.channels,
            groups=c.norm_groups,
            patch=c.patch,
        )

    @classmethod
    def trainings(cls, config: Any) -> tuple[str, ...]:
        """The description of its autoencoder, for whoever may share it."""
        settings = {"autoencoder": asdict(config.autoencoder), "image_size": config.image_size}
        code = (cls.new_autoencoder, cls.fit_autoencoder, AutoencoderKL, _AutoencoderLoss)
        return (describe(settings, code),)

    def fit_autoencoder(self, normal: Films, *, seed: int, job: TrainingRun) -> None:
        """Trains the autoencoder and sets its scale, or takes over what lies in `job.shared`."""
        config: LatentConfig = self.config.autoencoder
        net = self.autoencoder

        def learn() -> float:
            done = train(net, _AutoencoderLoss(config), normal, config.train, seed=seed, job=job)
            with torch.no_grad():
                means = torch.cat([m.mean.double().flatten() for m in self._portions(normal, job)])
                net.scale.fill_(1 / float(means.std().clamp_min(1e-6)))
            return done.seconds

        (description,) = self.trainings(self.config)
        self.borrowed_seconds = trained_once(net, description, normal, seed, job.shared, learn)

    def _portions(self, normal: Films, job: TrainingRun) -> list[Latents]:
        """Latents of all films, in portions that depend on nothing but the films' order."""
        # What the training loop would take: encoding at the published size is slow on a CPU.
        fast = job.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
        net = self.autoencoder.to("cuda" if fast else "cpu").eval()
        portions = []
        for start in range(0, len(normal), PORTION):
            batch = normal.batch(range(start, min(start + PORTION, len(normal))))
            mean, logvar = net.moments(batch.image.to(net.scale.device))
            std = (0.5 * logvar).exp() * net.scale
            portions.append(Latents((mean * net.scale).cpu(), std.cpu(), {}))
        net.to("cpu")
        return portions

    @torch.no_grad()
    def latents(self, normal: Films, job: TrainingRun) -> Latents:
        """Of all training films, computed once: the stages that follow draw from them."""
        parts = self._portions(normal, job)
        mean, std = torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])
        return Latents(mean, std, {image_id: i for i, image_id in enumerate(normal.ids)})


class _AutoencoderLoss:
    """Mean absolute error, KL and feature distance, as weighted in the config."""

    def __init__(self, config: LatentConfig) -> None:
        self.config = config
        self.perceptual = Perceptual().requires_grad_(False) if config.perceptual else None

    def __call__(
        self, net: nn.Module, batch: Batch, rows: Sequence[Generator]
    ) -> dict[str, Tensor]:
        film = batch.image
        side = film.shape[-1] // self.config.stride
        noise = gaussian((self.config.channels, side, side), rows).to(film)
        reconstruction, mean, logvar = net(film, noise)
        error = (reconstruction - film).abs().mean()
        kl = kl_from_standard(mean, logvar).mean() / film[0].numel()
        parts = {"loss": error + self.config.kl * kl, "error": error, "kl": kl}
        if self.perceptual is not None:
            away = self.perceptual.to(film.device)(reconstruction, film).mean()
            parts["loss"] = parts["loss"] + self.config.perceptual * away
            parts["perceptual"] = away
        return parts
