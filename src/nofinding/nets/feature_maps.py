"""Feature maps of a frozen network, for the methods that look at a film through one."""

from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.errors import UserError
from nofinding.nets.backbone import BLOCKS, film_to_rgb, load_efficientnet_lite0, width

__all__ = ["EFFICIENTNET", "FeatureMaps"]

EFFICIENTNET = "efficientnet-lite0"


class FeatureMaps(nn.Module):
    """A frozen network as the methods see it: films in [-1, 1] to a list of maps, finest first."""

    widths: tuple[int, ...]
    """Channels of each map."""
    fingerprint: int = 0
    """Tells weights apart that are read from outside; 0 for those that come with the package."""

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: it is frozen, batch statistics too."""
        return super().train(False)

    def forward(self, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        """Maps (b, c, i, j) in the order of the layers asked for."""
        raise NotImplementedError


class EfficientNetMaps(FeatureMaps):
    """Outputs of blocks 0 to 15 of EfficientNet-Lite0: strides 2 4 4 8 8 16 x 6 32 x 5."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        if not layers or not set(layers) <= set(range(len(BLOCKS))):
            raise UserError(f"layers {tuple(layers)}: give some of 0 to 15")
        self.layers = tuple(layers)
        self.widths = tuple(width(block) for block in layers)
        self.net = load_efficientnet_lite0()

    def forward(self, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        rgb = film_to_rgb(image).contiguous(memory_format=torch.channels_last)
        features = self.net.features(rgb, self.layers)
        return [features[block] for block in self.layers]
