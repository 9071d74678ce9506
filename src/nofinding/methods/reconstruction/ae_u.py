"""The autoencoder that also says how sure it is: a residual counts by its predicted variance.

Mao et al., MICCAI 2020, arXiv:2006.15396 (AE-U, "Abnormality detection in chest X-ray images using
uncertainty prediction autoencoders"), in the setting of DDAD (Cai et al. 2022, arXiv:2206.03935).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from nofinding.functional.image.residual import mse
from nofinding.methods.base.protocol import Notes
from nofinding.methods.reconstruction.autoencoder import (
    AE,
    OPTIMISER,
    TINY,
    AEConfig,
    Image,
    as_published,
)
from nofinding.nets.autoencoder import Autoencoder
from nofinding.types import Batch, Scores

__all__ = ["AEU", "FLOOR", "split"]

FLOOR = -12.0
"""The least log-variance: that of rounding greys of [-1, 1] to 8 bit, ln(step^2 / 12)."""


def split(output: Tensor) -> tuple[Image, Image]:
    """Mean and log-variance of the two channels, the latter softly held above FLOOR."""
    mean, logvar = output.chunk(2, dim=1)
    return mean, FLOOR + F.softplus(logvar - FLOOR)


class AEU(AE):
    """Scores a film by its mean squared residual in units of the predicted variance."""

    name: ClassVar[str] = "ae-u"
    summary: ClassVar[str] = "Autoencoder with predicted variance: normalised squared residual"
    paper: ClassVar[str] = "Mao et al., MICCAI 2020 (AE-U); Cai et al., MICCAI 2022 (DDAD)"
    notes: ClassVar[Notes] = Notes(
        paper="The decoder gives mean and log-variance of every grey; minimised is the squared "
        "residual over the variance plus the log-variance. The score is the mean of the residual "
        "so normalised: what is hard to predict in normal films (edges) counts less.",
        program="DDAD's program trains it as `ae`, and lets the log-variance fall without bound.",
        ours=f"{OPTIMISER} The log-variance is softly held above -12, the variance of rounding to "
        "8 bit: where all films are black it would fall for ever, and a trifle would be infinite.",
    )
    PRESETS: ClassVar[Mapping[str, AEConfig]] = {
        "tiny": AEConfig(**TINY),
        "small": AEConfig(),
        "paper": AEConfig(epochs=250, train=as_published(steps=1, lr=5e-4)),
    }

    def new_net(self) -> Autoencoder:
        """A network that has seen nothing, with two channels at its end."""
        return Autoencoder(outputs=2, **self.shape())

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """Mean of exp(-logvar) (x - mean)^2, plus the mean logvar. Draws nothing."""
        mean, logvar = split(net(batch.image))
        residual = (torch.exp(-logvar) * (batch.image - mean).square()).mean()
        return {"loss": residual + logvar.mean(), "residual": residual, "logvar": logvar.mean()}

    def predict(self, net: nn.Module, image: Image) -> tuple[Image, Image | None]:
        """The film after the squeeze, and the log-variance of its greys."""
        return split(net(image))

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The map is the squared residual over the predicted variance, the score its mean.

        Parts: `mse`, as of `ae`, and `sigma`, the mean predicted deviation, in grey levels of
        [0, 1]."""
        net = self.fitted()
        image = batch.image.to(net.head.weight.device)
        mean, logvar = split(net(image))
        weighted = torch.exp(-logvar) * (image - mean).square()
        parts = {
            "mse": mse((image + 1) / 2, (mean + 1) / 2).cpu(),
            "sigma": (logvar / 2).exp().mean(dim=(1, 2, 3)).cpu() / 2,
        }
        return Scores(
            score=weighted.mean(dim=(1, 2, 3)).cpu(),
            anomaly_map=weighted.cpu(),
            reconstruction=mean.clamp(-1, 1).cpu(),
            components=parts,
        )
