"""The U-Net of guided diffusion (Dhariwal and Nichol 2021), in three parts that can be shared.

Diff3M needs one encoder a masked image but a single decoder for both, so encoder, middle and
decoder are modules of their own. Blocks are indexed as in the published programs, which makes
their checkpoints importable by renaming alone.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Decoder", "Encoder", "Head", "Middle", "TimeEmbedding", "UNetShape", "groups_of"]

Maps = Float[Tensor, "b c h w"]
Embedding = Float[Tensor, "b d"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetShape:
    """The size of a U-Net: what encoder, middle and decoder must agree on."""

    image_size: int
    width: int
    multipliers: tuple[int, ...]
    res_blocks: int
    attention_at: tuple[int, ...]  # side lengths of the maps that get self-attention, pixels
    heads: int = 1
    head_channels: int = 0  # channels a head; 0: `heads` of them whatever the width
    scale_shift: bool = False
    in_channels: int = 1
    groups: int = 32  # of every GroupNorm; must leave two or more channels in each, see below

    @property
    def embedding(self) -> int:
        """Width d of the time and record embedding."""
        return 4 * self.width

    def attends(self, level: int) -> bool:
        """Whether the maps of this level (0 = full size) get self-attention."""
        # The published program compares strides, image_size // side: a side that does not
        # divide the image's is rounded the same way here.
        return 2**level in {self.image_size // side for side in self.attention_at}


def groups_of(channels: int, groups: int) -> int:
    """GroupNorm groups: as many as asked for where they divide the channels, else fewer.

    With one channel a group the norm takes away whatever is constant over a map, and an
    embedding that is added before it (time, record) has no effect at all. The published
    network has 4 channels a group or more; a narrow one needs fewer groups.
    """
    return next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0)


def _silu(x: Maps) -> Maps:
    """SiLU of maps that nobody else holds: without gradients they are overwritten, which saves
    a tenth of the time of a call on a CPU."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _plus(x: Maps, more: Tensor) -> Maps:
    """The sum, likewise in the place of `x` where no gradient asks for the old one."""
    return x + more if torch.is_grad_enabled() else x.add_(more)


class TimeEmbedding(nn.Module):
    """The step t as a vector: sinusoids (cosines first, base 10000), Linear, SiLU, Linear."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(width, out)
        self.second = nn.Linear(out, out)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        half = self.width // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.float()[:, None] * torch.exp(-math.log(10000) * index / half)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        waves = F.pad(waves, (0, self.width % 2))
        out: Tensor = self.second(F.silu(self.first(waves)))
        return out


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, around which the input is added back.

    The embedding enters between the two: added, or as scale and shift after the second norm.
    A block built with `embedding=None` has no such entry.
    """

    def __init__(
        self, channels: int, out: int, shape: UNetShape, embedding: int | None = None
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift = shape.scale_shift
        self.norm1 = nn.GroupNorm(groups_of(channels, shape.groups), channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.embed = nn.Linear(embedding, out * (1 + scale_shift)) if embedding else None
        self.norm2 = nn.GroupNorm(groups_of(out, shape.groups), out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Maps, embedding: Embedding) -> Maps:
        h = self.conv1(_silu(self.norm1(x)))
        if self.embed is None or embedding is None:
            h = self.norm2(h)
        elif self.scale_shift:
            scale, shift = self.embed(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(_plus(h, self.embed(F.silu(embedding))[:, :, None, None]))
        return _plus(self.conv2(_silu(h)), self.skip(x))


class SelfAttention(nn.Module):
    """Self-attention over all positions of a map, added to its input.

    Channels are split into heads first, then into q, k, v inside each head.
    """

    def __init__(self, channels: int, shape: UNetShape) -> None:
        super().__init__()
        self.heads = channels // shape.head_channels if shape.head_channels else shape.heads
        self.norm = nn.GroupNorm(groups_of(channels, shape.groups), channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Maps, embedding: Embedding = None) -> Maps:
        b, c, h, w = x.shape
        # A row a position, so that channels lie side by side: the fused attention wants that.
        rows = self.norm(x).flatten(2).transpose(1, 2)  # (b, hw, c)
        qkv = F.linear(rows, self.qkv.weight[:, :, 0], self.qkv.bias)
        qkv = qkv.reshape(b, h * w, self.heads, 3, c // self.heads).permute(3, 0, 2, 1, 4)
        q, k, v = qkv.unbind(0)  # each (b, heads, hw, c / heads)
        a = F.scaled_dot_product_attention(q, k, v)
        a = a.transpose(1, 2).reshape(b, h * w, c)
        a = F.linear(a, self.out.weight[:, :, 0], self.out.bias)
        return x + a.transpose(1, 2).reshape(b, c, h, w)


class Downsample(nn.Module):
    """Halves the map's sides by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Maps, embedding: Embedding = None) -> Maps:
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Doubles the map's sides: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Maps, embedding: Embedding = None) -> Maps:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Stem(nn.Conv2d):
    """The first convolution, which like every block takes an embedding and may ignore it."""

    def forward(self, x: Maps, embedding: Embedding = None) -> Maps:
        return super().forward(x)


def _run(stage: nn.Module, x: Maps, embedding: Embedding) -> Maps:
    assert isinstance(stage, nn.ModuleList)
    for block in stage:
        x = block(x, embedding)
    return x


def _skip_channels(shape: UNetShape) -> list[int]:
    """Channels of every stage's output, on the way down."""
    channels = [shape.width * shape.multipliers[0]]
    for level, multiplier in enumerate(shape.multipliers):
        last = level + 1 == len(shape.multipliers)
        channels += [shape.width * multiplier] * (shape.res_blocks + (not last))
    return channels


class Encoder(nn.Module):
    """The way down. Gives the maps of every stage; the last is the deepest."""

    def __init__(self, shape: UNetShape, *, embedded: bool = True) -> None:
        super().__init__()
        d = shape.embedding if embedded else None
        channels = shape.width * shape.multipliers[0]
        self.stages = nn.ModuleList(
            [nn.ModuleList([Stem(shape.in_channels, channels, 3, padding=1)])]
        )
        for level, multiplier in enumerate(shape.multipliers):
            for _ in range(shape.res_blocks):
                out = shape.width * multiplier
                stage = nn.ModuleList([ResBlock(channels, out, shape, d)])
                if shape.attends(level):
                    stage.append(SelfAttention(out, shape))
                self.stages.append(stage)
                channels = out
            if level + 1 < len(shape.multipliers):
                self.stages.append(nn.ModuleList([Downsample(channels)]))

    def forward(self, x: Maps, embedding: Embedding = None) -> list[Tensor]:
        skips = []
        for stage in self.stages:
            x = _run(stage, x, embedding)
            skips.append(x)
        return skips


class Middle(nn.Module):
    """The bottom: residual block, self-attention, residual block."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        channels = shape.width * shape.multipliers[-1]
        self.blocks = nn.ModuleList(
            [
                ResBlock(channels, channels, shape, shape.embedding),
                SelfAttention(channels, shape),
                ResBlock(channels, channels, shape, shape.embedding),
            ]
        )

    def forward(self, x: Maps, embedding: Embedding) -> Maps:
        return _run(self.blocks, x, embedding)


class Decoder(nn.Module):
    """The way up, taking in the encoder's maps stage by stage."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        skips = _skip_channels(shape)
        channels = skips[-1]
        self.stages = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(shape.multipliers))):
            for i in range(shape.res_blocks + 1):
                out = shape.width * multiplier
                stage = nn.ModuleList(
                    [ResBlock(channels + skips.pop(), out, shape, shape.embedding)]
                )
                if shape.attends(level):
                    stage.append(SelfAttention(out, shape))
                if level and i == shape.res_blocks:
                    stage.append(Upsample(out))
                self.stages.append(stage)
                channels = out

    def forward(self, x: Maps, skips: list[Tensor], embedding: Embedding) -> Maps:
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = _run(stage, torch.cat([x, skip], dim=1), embedding)
        return x


class Head(nn.Module):
    """GroupNorm, SiLU, and a convolution that starts at zero: back to the channels that went in."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        channels = shape.width * shape.multipliers[0]
        self.norm = nn.GroupNorm(groups_of(channels, shape.groups), channels)
        self.conv = nn.Conv2d(channels, shape.in_channels, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Maps) -> Maps:
        out: Tensor = self.conv(_silu(self.norm(x)))
        return out
