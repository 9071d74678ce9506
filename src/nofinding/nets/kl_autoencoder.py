"""The autoencoder of latent diffusion: a film as a small map of a few channels, and back.

Rombach et al. 2022, arXiv:2112.10752, the form with a KL penalty ("kl-f8" and its like), put
together from the blocks of `unet.py`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.nets.unet import (
    Downsample,
    ResBlock,
    SelfAttention,
    Stem,
    UNetShape,
    Upsample,
    groups_of,
)

__all__ = ["AutoencoderKL", "kl_from_standard"]

Film = Float[Tensor, "b 1 h w"]  # [-1, 1]
Latent = Float[Tensor, "b c i j"]  # about unit variance, once `scale` is set


def kl_from_standard(mean: Latent, logvar: Latent) -> Float[Tensor, " b"]:
    """KL(N(mean, exp(logvar)) || N(0, I)) of each film, in nats (Kingma and Welling 2014)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


def _bottom(channels: int, shape: UNetShape) -> list[nn.Module]:
    """Residual block, self-attention, residual block."""
    return [
        ResBlock(channels, channels, shape),
        SelfAttention(channels, shape),
        ResBlock(channels, channels, shape),
    ]


class AutoencoderKL(nn.Module):
    """Sides shrink by `patch`, then by half for each entry of `multipliers` but the last.

    A film becomes a Gaussian at every position of the latent map. Latents are multiplied by
    `scale`, which whoever trains it sets to 1 over their standard deviation, so that a diffusion
    finds what it expects.
    """

    scale: Tensor

    def __init__(
        self,
        *,
        width: int = 16,
        multipliers: Sequence[int] = (1, 2),
        res_blocks: int = 1,
        latent: int = 4,
        groups: int = 4,
        patch: int = 2,
    ) -> None:
        """`width`: channels of the first level. `latent`: channels of the latent map. `patch`:
        side of the squares of pixels that the first and last convolution see as one position;
        1 in the published networks."""
        super().__init__()
        self.patch = patch
        shape = UNetShape(
            image_size=0,  # of no consequence: no level attends but the bottom
            width=width,
            multipliers=tuple(multipliers),
            res_blocks=res_blocks,
            attention_at=(),
            groups=groups,
        )
        widths = [width * multiplier for multiplier in multipliers]
        down: list[nn.Module] = [Stem(patch**2, widths[0], 3, padding=1)]
        channels = widths[0]
        for level, out in enumerate(widths):
            for _ in range(res_blocks):
                down.append(ResBlock(channels, out, shape))
                channels = out
            if level + 1 < len(widths):
                down.append(Downsample(channels))
        self.down = nn.ModuleList([*down, *_bottom(channels, shape)])
        self.norm_in = nn.GroupNorm(groups_of(channels, groups), channels)
        self.to_moments = nn.Conv2d(channels, 2 * latent, 3, padding=1)

        self.from_latent = nn.Conv2d(latent, channels, 3, padding=1)
        up = _bottom(channels, shape)
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(res_blocks + 1):
                up.append(ResBlock(channels, out, shape))
                channels = out
            if level:
                up.append(Upsample(channels))
        self.up = nn.ModuleList(up)
        self.norm_out = nn.GroupNorm(groups_of(channels, groups), channels)
        self.to_film = nn.Conv2d(channels, patch**2, 3, padding=1)
        self.register_buffer("scale", torch.ones(()))

    def moments(self, film: Film) -> tuple[Latent, Latent]:
        """Mean and log-variance of the film's latent, not yet scaled."""
        x = F.pixel_unshuffle(film, self.patch)
        for block in self.down:
            x = block(x, None)
        mean, logvar = self.to_moments(F.silu(self.norm_in(x))).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode_raw(self, z: Latent) -> Film:
        """The film that an unscaled latent stands for; greys may leave [-1, 1] a little."""
        x = self.from_latent(z)
        for block in self.up:
            x = block(x, None)
        return F.pixel_shuffle(self.to_film(F.silu(self.norm_out(x))), self.patch)

    def encode(self, film: Film) -> Latent:
        """The mean latent, scaled."""
        return self.moments(film)[0] * self.scale

    def decode(self, z: Latent) -> Film:
        """The film that a scaled latent stands for."""
        return self.decode_raw(z / self.scale)

    def forward(self, film: Film, noise: Latent) -> tuple[Film, Latent, Latent]:
        """The film from a latent drawn by `noise`, standard normal; and its mean and
        log-variance."""
        mean, logvar = self.moments(film)
        return self.decode_raw(mean + (0.5 * logvar).exp() * noise), mean, logvar
