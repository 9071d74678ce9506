"""The autoencoder of DDAD and MedIAnomaly: a film squeezed through a few numbers.

Cai et al. 2022, arXiv:2206.03935 (DDAD), and Cai et al. 2025, arXiv:2404.04518 (MedIAnomaly).
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Autoencoder"]


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
    ) -> None:
        """`image_size`: a multiple of 2^len(channels), in pixels. `outputs`: channels of the
        result (2 for a mean and a log-variance). Raises ValueError for another size."""
        super().__init__()
        side, rest = divmod(image_size, 2 ** len(channels))
        if rest or not side:
            raise ValueError(f"image_size {image_size}: no multiple of {2 ** len(channels)}")
        self.grid = (channels[-1], side, side)
        flat = channels[-1] * side**2
        self.encoder = nn.Sequential(*(_down(a, b) for a, b in pairwise((1, *channels))))
        self.to_latent = _bottleneck(flat, hidden, latent)
        self.from_latent = _bottleneck(latent, hidden, flat)
        self.decoder = nn.Sequential(*(_up(a, b) for a, b in pairwise(channels[::-1])))
        # Without normalisation or activation: greys may take any value.
        self.head = nn.ConvTranspose2d(channels[0], outputs, 4, stride=2, padding=1, bias=False)

    def encode(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b latent"]:
        """The film in `latent` numbers."""
        z: Tensor = self.to_latent(self.encoder(x).flatten(1))
        return z

    def decode(self, z: Float[Tensor, "b latent"]) -> Float[Tensor, "b outputs h w"]:
        """The film that the numbers stand for."""
        x: Tensor = self.head(self.decoder(self.from_latent(z).unflatten(1, self.grid)))
        return x

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b outputs h w"]:
        """The film after the squeeze."""
        return self.decode(self.encode(x))
