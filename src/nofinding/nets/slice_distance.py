"""How different two films or two volumes are to a network that knows photographs."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.nets.perceptual import Perceptual

__all__ = ["PerceptualGap"]

Image = Float[Tensor, "b 1 *d h w"]


class PerceptualGap(nn.Module):
    """`Perceptual` of films, and of volumes its mean over the slices along all three axes.

    One original against several versions of it costs one look at the original.
    """

    def __init__(self, dimensions: int, stride: int = 1) -> None:
        """`stride`: of a volume every so manyth slice is looked at."""
        super().__init__()
        self.dimensions, self.stride = dimensions, stride
        self.distance = Perceptual()

    def forward(self, original: Image, versions: list[Image]) -> Float[Tensor, "b v"]:
        """One number for each version of each row; 0 for equal ones."""
        total: Tensor | None = None
        axes = (None,) if self.dimensions == 2 else (2, 3, 4)
        for axis in axes:
            features = self._unit(original, axis)
            gaps = torch.stack([self._gap(features, self._unit(v, axis)) for v in versions])
            rows = gaps.reshape(len(versions), len(original), -1).mean(2).T  # (b, v)
            total = rows if total is None else total + rows
        assert total is not None
        return total / len(axes)

    def _slices(self, image: Image, axis: int | None) -> Float[Tensor, "n 1 h w"]:
        """The slices of all rows, those of the first row first."""
        if axis is None:
            return image
        along = image.movedim(axis, 1).flatten(0, 1)  # the depth is the first batch axis now
        depth = image.shape[axis]
        indices = torch.arange(len(along), device=image.device) % depth % self.stride
        return along[indices == self.stride // 2]

    def _unit(self, image: Image, axis: int | None) -> list[Tensor]:
        maps = self.distance.maps(self._slices(image, axis))
        return [F.normalize(m, dim=1) for m in maps]

    @staticmethod
    def _gap(features: list[Tensor], others: list[Tensor]) -> Float[Tensor, " n"]:
        layers = [
            (a - b).square().sum(1).flatten(1).mean(1)
            for a, b in zip(features, others, strict=True)
        ]
        return torch.stack(layers).mean(0)
