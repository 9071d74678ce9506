"""The memory autoencoder: a film may be put together from remembered normal codes alone.

Gong et al., ICCV 2019, arXiv:1904.02639 (MemAE), in the setting of DDAD (Cai et al. 2022,
arXiv:2206.03935): 25 codes of 16 numbers in the middle of the network of `ae`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Generator, Tensor, nn

from nofinding.functional.features.memory import Similarity, entropy
from nofinding.methods.base.protocol import Notes
from nofinding.methods.reconstruction.autoencoder import AE, OPTIMISER, TINY, AEConfig, as_published
from nofinding.nets.autoencoder import MemoryAutoencoder
from nofinding.ranges import Range
from nofinding.types import Batch

__all__ = ["MemAE", "MemAEConfig"]


@dataclass(frozen=True, kw_only=True)
class MemAEConfig(AEConfig):
    """The network of `ae`, its training, and the memory in its middle."""

    memory: Annotated[int, Range(1)] = 25
    """Codes that are remembered."""
    shrink: Annotated[float, Range(0, below=1)] = 0.04
    """Weights up to this become 0, so that few codes must do. The paper has 1 to 3 times
    1 / memory; 0: all codes may help."""
    addressing: Similarity = "cosine"
    """How a code is compared with the remembered ones: by cosine (the paper's eq. 5), or by inner
    product (the published programs)."""
    entropy: float = 2e-4
    """Weight of the entropy of the weights, against the mean squared residual."""


class MemAE(AE):
    """Scores a film by its mean squared difference from the film that the memory gives."""

    name: ClassVar[str] = "memae"
    summary: ClassVar[str] = "Autoencoder that decodes remembered normal codes only"
    paper: ClassVar[str] = "Gong et al., ICCV 2019 (MemAE); Cai et al., MICCAI 2022 (DDAD)"
    notes: ClassVar[Notes] = Notes(
        paper="The code of a film is replaced by a mixture of remembered codes: weights are the "
        "softmax of cosines, those below a threshold of 1 to 3 over the number of codes are cut "
        "off, the rest is normalised; the entropy of the weights is held down by 2e-4.",
        program="The authors' program and DDAD's address the memory by inner products, not by "
        "cosines. DDAD's remembers 25 codes of 16 numbers and sets the threshold to 0.",
        ours=f"{OPTIMISER} DDAD's memory with the paper's threshold, 1 / 25; the preset "
        "`paper-program` has none, and addresses by inner products.",
    )
    Config: ClassVar[type] = MemAEConfig
    PRESETS: ClassVar[Mapping[str, MemAEConfig]] = {
        "tiny": MemAEConfig(**TINY),
        "small": MemAEConfig(),
        "paper": MemAEConfig(epochs=250, train=as_published(steps=1, lr=5e-4)),
        "paper-program": MemAEConfig(
            epochs=250, shrink=0.0, addressing="dot", train=as_published(steps=1, lr=5e-4)
        ),
    }

    def new_net(self) -> MemoryAutoencoder:
        """A network that has seen nothing."""
        c = self.config
        return MemoryAutoencoder(
            memory=c.memory, shrink=c.shrink, similarity=c.addressing, **self.shape()
        )

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The mean squared residual, and the entropy of the memory's weights. Draws nothing."""
        assert isinstance(net, MemoryAutoencoder)
        reconstruction, weights = net.recall(batch.image)
        residual, spread = (reconstruction - batch.image).square().mean(), entropy(weights).mean()
        return {
            "loss": residual + self.config.entropy * spread,
            "residual": residual,
            "entropy": spread,
        }
