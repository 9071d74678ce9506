"""How different two films look to a network that knows photographs.

LPIPS (Zhang et al. 2018, arXiv:1801.03924, eq. 1) with all channel weights 1 and the backbones of
`features.py`: the learned weights, and the networks that they belong to, are not in any package
that this one can stand on.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.nets.external_backbones import load_features
from nofinding.nets.feature_maps import EFFICIENTNET

__all__ = ["Perceptual"]

Image = Float[Tensor, "b 1 h w"]


class Perceptual(nn.Module):
    """The squared distance of unit-length feature vectors, averaged over positions and layers.

    Films in [-1, 1]. 0 for equal films; at most 4 a layer.
    """

    def __init__(
        self, layers: Sequence[int] = (0, 2, 4, 10, 14), backbone: str = EFFICIENTNET
    ) -> None:
        super().__init__()
        self.maps = load_features(backbone, layers)

    def layers(self, x: Image, y: Image) -> list[Tensor]:
        """The squared distance at every position of each layer, (b, 1, i, j), finest first."""
        pairs = zip(self.maps(x), self.maps(y), strict=True)
        return [
            (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1, keepdim=True)
            for a, b in pairs
        ]

    def forward(self, x: Image, y: Image) -> Float[Tensor, " b"]:
        """One number a film."""
        distances = [layer.flatten(1).mean(1) for layer in self.layers(x, y)]
        total: Tensor = sum(distances[1:], distances[0]) / len(distances)
        return total

    def map(self, x: Image, y: Image) -> Image:
        """The mean over the layers, each enlarged to the size of the film."""
        size = x.shape[-2:]
        grown = [
            F.interpolate(layer, size=size, mode="bilinear", align_corners=False)
            for layer in self.layers(x, y)
        ]
        total: Tensor = sum(grown[1:], grown[0]) / len(grown)
        return total
