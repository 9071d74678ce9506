"""Autoencoders and U-Nets of latent diffusion, of films and of volumes: MONAI's, put to use here.

MONAI takes seconds to import, so that it is imported where a network is built and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.errors import UserError
from nofinding.extras import need

__all__ = ["Codec", "CodecShape", "LatentPair", "LatentShape", "spectral_gap"]

Image = Float[Tensor, "b 1 *s"]
Latent = Float[Tensor, "b c *i"]

LATENT = "latent diffusion"  # what needs MONAI
FLAT = 1e-6  # a latent channel that varies less is not stretched


@dataclass(frozen=True, kw_only=True)
class CodecShape:
    """What an autoencoder looks like."""

    kind: Literal["vq", "kl"]
    dimensions: int
    channels: tuple[int, ...]
    """Of each level; every level halves the sides."""
    res_blocks: int
    latent_channels: int
    codes: int
    decay: float
    norm_groups: int

    def require_fits(self, size: int) -> None:
        """Raises UserError where the network could not be built, or takes no such film."""
        if self.dimensions not in (2, 3):
            raise UserError(f"dimensions {self.dimensions}: give 2 or 3")
        if not self.channels or min(self.channels) < 1:
            raise UserError(f"codec.channels {self.channels}: give one or more, each 1 or more")
        least = 2 ** len(self.channels)
        if size < 8 or size % least:
            raise UserError(
                f"image_size {size}: give a multiple of {least}, 8 or more, for "
                f"{len(self.channels)} codec.channels"
            )
        for name in ("res_blocks", "latent_channels", "codes"):
            if getattr(self, name) < 1:
                raise UserError(f"codec.{name} {getattr(self, name)}: give 1")
        if not 0 < self.decay < 1:
            raise UserError(f"codec.decay {self.decay:g}: give a share below 1")
        if self.kind == "kl" and any(c % self.norm_groups for c in self.channels):
            raise UserError(f"codec.norm_groups: {self.norm_groups} must divide codec.channels")

    def latent_size(self, size: int) -> int:
        """Side of the latent of a film of that side."""
        return size // int(2 ** len(self.channels))


class Codec(nn.Module):
    """A film or volume to a small latent and back; by codes (VQ-VAE), or by a Gaussian (KL)."""

    def __init__(self, shape: CodecShape) -> None:
        super().__init__()
        self.shape = shape
        self.net: Any = _vq(shape) if shape.kind == "vq" else _kl(shape)

    def forward(self, x: Image, rows: Sequence[Generator]) -> tuple[Image, Float[Tensor, ""]]:
        """What comes back, and the price of the latent: commitment, or the mean KL divergence.

        While training, codes follow what is encoded, and a KL latent is drawn by `rows`.
        """
        if self.shape.kind == "vq":
            reconstruction, price = self.net(x)
            return reconstruction, price
        mean, std = self.net.encode(x)
        noise = torch.stack([torch.randn(mean.shape[1:], generator=row) for row in rows])
        variance = std.square()
        price = 0.5 * (mean.square() + variance - variance.log() - 1).mean()
        return self.net.decode(mean + std * noise.to(mean)), price

    def encode(self, x: Image) -> Latent:
        """The nearest codes, or the mean of the Gaussian. Nothing is drawn."""
        latent: Tensor
        if self.shape.kind == "vq":
            latent = self.net.encode_stage_2_inputs(x)
        else:
            latent = self.net.encode(x)[0]
        return latent

    def decode(self, z: Latent) -> Image:
        """The film of a latent; of codes, the nearest ones are taken first."""
        image: Tensor = self.net.decode_stage_2_outputs(z)
        return image

    @torch.no_grad()
    def begin_codes(self, x: Image, generator: Generator) -> None:
        """Places the codes where the untrained encoder puts some films, so that most are in use.

        MONAI begins with codes around 0 that count for nothing; the first averaging then throws
        those that no film came near to beyond reach.
        """
        if self.shape.kind != "vq":
            return
        quantizer = self.net.quantizer.quantizer
        z = self.net.encode(x).movedim(1, -1).flatten(0, -2)  # (n, c)
        indices = torch.randint(len(z), (self.shape.codes,), generator=generator)
        codes = z[indices.to(z.device)]
        quantizer.embedding.weight.copy_(codes)
        quantizer.ema_w.copy_(codes)
        quantizer.ema_cluster_size.fill_(1)


def _vq(shape: CodecShape) -> nn.Module:
    VQVAE = need("monai.networks.nets.vqvae", "methods", LATENT).VQVAE

    levels = len(shape.channels)
    codec: nn.Module = VQVAE(
        spatial_dims=shape.dimensions,
        in_channels=1,
        out_channels=1,
        channels=shape.channels,
        num_res_layers=shape.res_blocks,
        num_res_channels=shape.channels,
        downsample_parameters=((2, 4, 1, 1),) * levels,  # stride, kernel, dilation, padding
        upsample_parameters=((2, 4, 1, 1, 0),) * levels,
        num_embeddings=shape.codes,
        embedding_dim=shape.latent_channels,
        decay=shape.decay,
    )
    return codec


def _kl(shape: CodecShape) -> nn.Module:
    AutoencoderKL = need("monai.networks.nets.autoencoderkl", "methods", LATENT).AutoencoderKL

    channels = (shape.channels[0], *shape.channels)  # its last level does not halve
    codec: nn.Module = AutoencoderKL(
        spatial_dims=shape.dimensions,
        in_channels=1,
        out_channels=1,
        channels=channels,
        num_res_blocks=shape.res_blocks,
        attention_levels=(False,) * len(channels),
        latent_channels=shape.latent_channels,
        norm_num_groups=shape.norm_groups,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )
    return codec


@dataclass(frozen=True, kw_only=True)
class LatentShape:
    """What the U-Net on the latents looks like."""

    channels: tuple[int, ...]
    """Of each level; every level but the last halves the sides, and the last has attention."""
    res_blocks: int
    norm_groups: int

    def require_fits(self, side: int) -> None:
        """Raises UserError where it takes no latent of that side."""
        least = 2 ** (len(self.channels) - 1) if self.channels else 1
        if not self.channels or min(self.channels) < 1 or self.res_blocks < 1:
            raise UserError("unet.channels and unet.res_blocks: give 1 or more of each")
        if side % least:
            raise UserError(
                f"unet.channels: {len(self.channels)} levels do not fit a latent of side {side}"
            )
        if any(c % self.norm_groups for c in self.channels):
            raise UserError(f"unet.norm_groups: {self.norm_groups} must divide unet.channels")


class LatentPair(nn.Module):
    """The autoencoder, the U-Net, and the scale between them: what latent diffusion learns.

    The U-Net sees latents of mean 0 and spread 1 in every channel, among the training films.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, codec: CodecShape, unet: LatentShape) -> None:
        monai = need("monai.networks.nets.diffusion_model_unet", "methods", LATENT)

        super().__init__()
        self.codec = Codec(codec)
        self.unet: nn.Module = monai.DiffusionModelUNet(
            spatial_dims=codec.dimensions,
            in_channels=codec.latent_channels,
            out_channels=codec.latent_channels,
            num_res_blocks=unet.res_blocks,
            channels=unet.channels,
            attention_levels=(*(False,) * (len(unet.channels) - 1), True),
            norm_num_groups=unet.norm_groups,
            num_head_channels=unet.channels[-1],
        )
        wide = (1, codec.latent_channels, *(1,) * codec.dimensions)
        self.register_buffer("mean", torch.zeros(wide))
        self.register_buffer("std", torch.ones(wide))

    def encode(self, x: Image) -> Latent:
        """The standardised latent."""
        return (self.codec.encode(x) - self.mean) / self.std

    def decode(self, z: Latent) -> Image:
        """The film of a standardised latent, in [-1, 1]."""
        return self.codec.decode(z * self.std + self.mean).clamp(-1, 1)

    @torch.no_grad()
    def measure(self, latents: Sequence[Latent]) -> None:
        """Takes mean and spread of each channel from `codec.encode` of the training films."""
        every = torch.cat([z.movedim(1, 0).flatten(1) for z in latents], dim=1).double()
        std, mean = torch.std_mean(every, dim=1, correction=0)
        self.mean.copy_(mean.float().view_as(self.mean))
        self.std.copy_(std.float().clamp_min(FLAT).view_as(self.std))

    def forward(self, z: Latent, t: Float[Tensor, " k"]) -> Latent:
        """The noise in z; one level for all rows, or one each."""
        prediction: Tensor = self.unet(z, timesteps=t.expand(len(z)))
        return prediction


def spectral_gap(x: Image, y: Image) -> Float[Tensor, ""]:
    """The mean squared difference of the spectra's magnitudes (Dhariwal et al. 2020, eq. 6)."""
    axes = tuple(range(2, x.ndim))
    a, b = (torch.fft.fftn(image.float(), dim=axes, norm="ortho") for image in (x, y))
    # Not abs(): its slope at 0 is not a number for some backends.
    size_a, size_b = ((f.real.square() + f.imag.square() + 1e-12).sqrt() for f in (a, b))
    gap: Tensor = (size_a - size_b).square().mean()
    return gap
