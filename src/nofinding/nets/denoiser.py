"""A U-Net that is told the noise level: what nearly every pixel diffusion method trains.

Guided diffusion's blocks (`unet.py`), put together without Diff3M's masked branch.
"""

from jaxtyping import Float
from torch import Tensor, nn

from nofinding.nets.unet import Decoder, Encoder, Head, Middle, TimeEmbedding, UNetShape

__all__ = ["Denoiser"]


class Denoiser(nn.Module):
    """One call: (x_t, t[, code]) -> the noise in x_t, or the clean film, as it was trained."""

    def __init__(self, shape: UNetShape, *, code: int = 0) -> None:
        """`code`: width of a vector that conditions every block beside t; 0: none."""
        super().__init__()
        self.time = TimeEmbedding(shape.width, shape.embedding)
        self.code = nn.Linear(code, shape.embedding) if code else None
        self.encoder, self.middle = Encoder(shape), Middle(shape)
        self.decoder, self.head = Decoder(shape), Head(shape)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        code: Float[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """One row of `t` may serve all rows of `x`; `t` counts steps of the whole schedule."""
        embedding = self.time(t)
        if self.code is not None and code is not None:
            embedding = embedding + self.code(code)
        skips = self.encoder(x, embedding)
        h = self.middle(skips[-1], embedding)
        out: Tensor = self.head(self.decoder(h, skips, embedding))
        return out
