"""The network of Diff3M: noise prediction (NP), masked pixel generation (MPG) behind two
checkerboards, and image-EHR cross-attention (IECA)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nofinding.functional.diffusion.masking import checkerboards, combine, fade
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detection import Image
from nofinding.nets.ehr import CrossAttention, FeatureTokenizer, OneHotTokenizer
from nofinding.nets.unet import Decoder, Encoder, Head, Middle, TimeEmbedding

__all__ = ["Answer", "Diff3MNet"]


class Diff3MNet(nn.Module):
    """NP, MPG and IECA. One call: (x_t, t, what the record says) -> (eps, regenerated x_t)."""

    def __init__(
        self,
        config: Diff3MConfig,
        groups: Sequence[Sequence[int]],
        categories: Sequence[int],
        *,
        channels: int = 1,
    ) -> None:
        """`groups`: the columns of the record under one softmax each; none: unconditioned.
        `channels` of the image: 1, or as many features as `diff3m-f` has."""
        super().__init__()
        shape = replace(config.shape, in_channels=channels)
        self.as_program = config.variant == "program"
        # The program divides by 1000 whatever its number of steps.
        self.fade_steps = 1000 if self.as_program else config.diffusion_steps
        first, second = checkerboards(config.image_size, config.image_size)
        self.register_buffer("boards", torch.stack([first, second]), persistent=False)
        self.time = TimeEmbedding(shape.width, shape.embedding)
        self.encoder, self.middle = Encoder(shape), Middle(shape)
        self.decoder, self.head = Decoder(shape), Head(shape)
        if config.regenerate:
            self.mask_encoders = nn.ModuleList([Encoder(shape), Encoder(shape)])
            self.mask_middle, self.mask_decoder = Middle(shape), Decoder(shape)
            self.mask_head = Head(shape)
        if groups:
            tokenizer = OneHotTokenizer if self.as_program else FeatureTokenizer
            self.ieca = CrossAttention(shape, groups, categories, tokenizer)
            self.norm = nn.LayerNorm(shape.embedding)
        self.conditioned = bool(groups)
        self.regenerates = config.regenerate

    def attend(
        self, x0: Image, values: Float[Tensor, "b f"], known: Bool[Tensor, "b f"]
    ) -> tuple[Float[Tensor, "b d"] | None, Float[Tensor, "b f"]]:
        """What the record says to this film (eq. 2), and the weight of each field.

        Depends on the clean film alone, so it is worked out once a film and not once a step.
        """
        if not self.conditioned:
            return None, values.new_zeros(values.shape)
        context, weights = self.ieca(x0, values, known)
        return context, weights

    def embed(
        self, t: Float[Tensor, " b"], context: Float[Tensor, "b d"] | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """The embedding for the encoders, and the one for everything after them.

        The paper conditions the whole of NP and MPG; the program's encoders see only time.
        """
        time = self.time(t)
        if context is None:
            return time, time
        both = self.norm(time + context)
        return (time if self.as_program else both), both

    def masks(self, t: Float[Tensor, " b"]) -> tuple[Image, Image]:
        """The two checkerboards, faded for the noise level of each row (eq. 3)."""
        first, second = self.get_buffer("boards")
        level = t / self.fade_steps
        return fade(first, level), fade(second, level)

    def predict_noise(self, x: Image, before: Tensor, after: Tensor) -> Image:
        """NP: the noise in x_t."""
        skips = self.encoder(x, before)
        h = self.middle(skips[-1], after)
        eps: Tensor = self.head(self.decoder(h, skips, after))
        return eps

    def regenerate(self, x: Image, t: Tensor, before: Tensor, after: Tensor) -> Image:
        """MPG: x_t with every pixel made from the pixels that its mask left (eq. 3)."""
        masks = self.masks(t)
        images = [
            encoder(x * mask, before)
            for encoder, mask in zip(self.mask_encoders, masks, strict=True)
        ]
        # Middle and decoder are shared, so both masks go through them as one batch.
        skips = [torch.cat(pair) for pair in zip(*images, strict=True)]
        twice = after.repeat(2, 1) if len(after) > 1 else after
        h = self.mask_middle(skips[-1], twice)
        first, second = self.mask_head(self.mask_decoder(h, skips, twice)).chunk(2)
        return combine(first, second, *masks)

    def forward(
        self,
        x: Image,
        t: Float[Tensor, " b"],
        context: Float[Tensor, "b d"] | None,
        *,
        regenerate: bool = True,
    ) -> tuple[Image, Image]:
        """The noise in x_t and the regenerated x_t (x_t itself without that branch).

        One row of `t`, or of `context`, serves all rows of `x`.
        """
        before, after = self.embed(t, context)
        eps = self.predict_noise(x, before, after)
        if not (regenerate and self.regenerates):
            return eps, x
        return eps, self.regenerate(x, t, before, after)

    @property
    def masked_branch(self) -> list[nn.Module]:
        """MPG's modules; none without it."""
        if not self.regenerates:
            return []
        return [self.mask_encoders, self.mask_middle, self.mask_decoder, self.mask_head]

    def start_base(self) -> None:
        """Stage 1 leaves MPG alone."""
        for module in self.masked_branch:
            module.requires_grad_(False)

    def start_fine_tuning(self) -> None:
        """Stage 2: both mask encoders start as the trained encoder, and what stage 1 learnt of
        the film, of time and of the image query is kept as it is."""
        for module in self.masked_branch:
            module.requires_grad_(True)
        for encoder in self.mask_encoders:
            encoder.load_state_dict(self.encoder.state_dict())
        self.encoder.requires_grad_(False)
        self.time.requires_grad_(False)
        if self.conditioned:
            self.ieca.query.requires_grad_(False)


class Answer(nn.Module):
    """Diff3MNet as detection calls it: with MPG, or by NP alone. Tensors only, so that it can be
    run by something other than torch."""

    def __init__(self, net: Diff3MNet, regenerate: bool) -> None:
        super().__init__()
        self.net, self.whole = net, regenerate and net.regenerates

    def forward(
        self, x: Image, t: Float[Tensor, " b"], context: Float[Tensor, "b d"] | None = None
    ) -> tuple[Tensor, ...]:
        """eps, and with MPG the regenerated x_t."""
        eps, regenerated = self.net(x, t, context, regenerate=self.whole)
        return (eps, regenerated) if self.whole else (eps,)
