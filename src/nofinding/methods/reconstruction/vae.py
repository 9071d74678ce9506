"""The variational autoencoder: the few numbers are a distribution, held near the standard normal.

Kingma and Welling 2014 (arXiv:1312.6114), as a baseline of MedIAnomaly (Cai et al. 2025,
arXiv:2404.04518), on the network of `ae`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.functional.noise import gaussian
from nofinding.methods.base.protocol import Notes
from nofinding.methods.reconstruction.autoencoder import AE, OPTIMISER, TINY, AEConfig, as_published
from nofinding.nets.autoencoder import VariationalAutoencoder
from nofinding.ranges import Range
from nofinding.types import Batch

__all__ = ["VAE", "VAEConfig", "kl_from_normal"]


def kl_from_normal(mean: Float[Tensor, "b d"], logvar: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """KL(N(mean, var) || N(0, 1)), summed over the numbers (Kingma and Welling, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class VAEConfig(AEConfig):
    """The network of `ae`, its training, and how firmly the distribution is held."""

    kl: Annotated[float, Range(0)] = 0.005
    """Weight of the KL divergence, summed over the numbers, against the mean squared residual,
    averaged over pixels, of greys in [-1, 1]."""


class VAE(AE):
    """Trained with a code drawn from the distribution; scores by the film of its mean."""

    name: ClassVar[str] = "vae"
    summary: ClassVar[str] = "Variational autoencoder, 64 x 64: mean squared residual"
    paper: ClassVar[str] = "Kingma and Welling, ICLR 2014; Cai et al., MedIA 2025 (MedIAnomaly)"
    notes: ClassVar[Notes] = Notes(
        paper="The encoder gives a normal distribution of codes; a drawn code is decoded, and the "
        "residual plus the divergence from the standard normal is minimised. The score is the "
        "mean squared residual.",
        program="MedIAnomaly weighs the divergence by 0.005; network and optimiser are those of "
        "`ae`.",
        ours=f"{OPTIMISER} When scoring nothing is drawn: the mean code is decoded, so that a film "
        "has one score.",
    )
    Config: ClassVar[type] = VAEConfig
    PRESETS: ClassVar[Mapping[str, VAEConfig]] = {
        "tiny": VAEConfig(**TINY),
        "small": VAEConfig(),
        "paper": VAEConfig(epochs=250, train=as_published(steps=1, lr=5e-4)),
    }

    def new_net(self) -> VariationalAutoencoder:
        """A network that has seen nothing."""
        return VariationalAutoencoder(**self.shape())

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The residual of the film of a drawn code, and the divergence of the distribution."""
        assert isinstance(net, VariationalAutoencoder)
        mean, logvar = net.spread(batch.image)
        noise = gaussian(mean.shape[1:], rows).to(mean)
        decoded = net.decode(mean + (logvar / 2).exp() * noise)
        residual = (decoded - batch.image).square().mean()
        kl = kl_from_normal(mean, logvar).mean()
        return {"loss": residual + self.config.kl * kl, "residual": residual, "kl": kl}
