"""The autoencoder of DDAD and MedIAnomaly: a film squeezed through a few numbers.

Cai et al. 2022, arXiv:2206.03935 (DDAD), and Cai et al. 2025, arXiv:2404.04518 (MedIAnomaly). With
the same way in and out: one whose numbers are a distribution, and one that can say only what
its memory holds.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.functional.features.memory import Similarity, address

__all__ = ["Autoencoder", "MemoryAutoencoder", "VariationalAutoencoder"]


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _bottleneck(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


class Autoencoder(nn.Module):
    """Each entry of `channels` halves the sides on the way in and doubles them on the way out."""

    def __init__(
        self,
        *,
        image_size: int = 64,
        channels: Sequence[int] = (16, 32, 64, 64),
        hidden: int = 2048,
        latent: int = 16,
        outputs: int = 1,
        code: int = 0,
    ) -> None:
        """`image_size`: a multiple of 2^len(channels), in pixels. `outputs`: channels of the
        result (2 for a mean and a log-variance). `code`: numbers that `encode` gives, where they
        are not those that `decode` takes; 0: `latent`. Raises ValueError for another size."""
        super().__init__()
        side, rest = divmod(image_size, 2 ** len(channels))
        if rest or not side:
            raise ValueError(f"image_size {image_size}: no multiple of {2 ** len(channels)}")
        self.grid = (channels[-1], side, side)
        flat = channels[-1] * side**2
        self.encoder = nn.Sequential(*(_down(a, b) for a, b in pairwise((1, *channels))))
        self.to_latent = _bottleneck(flat, hidden, code or latent)
        self.from_latent = _bottleneck(latent, hidden, flat)
        self.decoder = nn.Sequential(*(_up(a, b) for a, b in pairwise(channels[::-1])))
        # Without normalisation or activation: greys may take any value.
        self.head = nn.ConvTranspose2d(channels[0], outputs, 4, stride=2, padding=1, bias=False)

    def encode(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b code"]:
        """The film in a few numbers."""
        z: Tensor = self.to_latent(self.encoder(x).flatten(1))
        return z

    def decode(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b outputs h w"]:
        """The film that the numbers stand for."""
        x: Tensor = self.head(self.decoder(self.from_latent(z).unflatten(1, self.grid)))
        return x

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b outputs h w"]:
        """The film after the squeeze."""
        return self.decode(self.encode(x))


class VariationalAutoencoder(Autoencoder):
    """Encodes a film as a normal distribution (Kingma and Welling 2014); decodes its mean."""

    def __init__(self, *, latent: int = 16, **shape: Any) -> None:
        """`shape`: as of Autoencoder."""
        super().__init__(latent=latent, code=2 * latent, **shape)

    def spread(
        self, x: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b latent"], Float[Tensor, "b latent"]]:
        """Mean and log-variance of each of the numbers."""
        mean, logvar = self.encode(x).chunk(2, dim=1)
        return mean, logvar

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b outputs h w"]:
        """The film that the mean stands for. Draws nothing."""
        return self.decode(self.spread(x)[0])


class MemoryAutoencoder(Autoencoder):
    """Decodes a mixture of remembered codes, not the film's own (Gong et al. 2019, MemAE)."""

    def __init__(
        self,
        *,
        latent: int = 16,
        memory: int = 25,
        shrink: float = 0.04,
        similarity: Similarity = "cosine",
        **shape: Any,
    ) -> None:
        """`memory`: codes that are remembered. `shrink`: weights up to this become 0. `similarity`:
        how a code is compared with them. `shape`: as of Autoencoder."""
        super().__init__(latent=latent, **shape)
        self.memory = nn.Parameter(torch.empty(memory, latent).uniform_(-1, 1) * latent**-0.5)
        self.shrink, self.similarity = shrink, similarity

    def recall(
        self, x: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b outputs h w"], Float[Tensor, "b n"]]:
        """The film as the memory has it, and the weights of the remembered codes."""
        weights = address(self.encode(x), self.memory, self.shrink, self.similarity)
        return self.decode(weights @ self.memory), weights

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b outputs h w"]:
        """The film as the memory has it."""
        return self.recall(x)[0]
