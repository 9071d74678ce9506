"""A classifier that knows how noisy its film is, for the gradient that steers a diffusion."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.nets.unet import Encoder, Middle, TimeEmbedding, UNetShape, groups_of

__all__ = ["NoisyClassifier"]


class NoisyClassifier(nn.Module):
    """The way down of guided diffusion's U-Net (Dhariwal and Nichol 2021, section 4), averaged
    over positions. One call: (x_t, t) -> logits."""

    def __init__(self, shape: UNetShape, classes: int = 2) -> None:
        super().__init__()
        channels = shape.width * shape.multipliers[-1]
        self.time = TimeEmbedding(shape.width, shape.embedding)
        self.encoder, self.middle = Encoder(shape), Middle(shape)
        self.norm = nn.GroupNorm(groups_of(channels, shape.groups), channels)
        self.head = nn.Linear(channels, classes)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b classes"]:
        """One row of `t` may serve all rows of `x`; `t` counts steps of the whole schedule."""
        embedding = self.time(t)
        h = self.middle(self.encoder(x, embedding)[-1], embedding)
        out: Tensor = self.head(F.silu(self.norm(h)).mean(dim=(2, 3)))
        return out
