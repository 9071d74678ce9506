"""The networks of SQUID: patches rebuilt from what was remembered around them, and a judge of that.

Xiang et al., CVPR 2023, arXiv:2111.13495.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.functional.diffusion.patches import cut, joined, surroundings
from nofinding.functional.features.memory import enqueue, recall
from nofinding.functional.noise import uniform

__all__ = ["Discriminator", "InpaintingGenerator", "InpaintingShape", "Rebuilt"]

Map = Float[Tensor, "n c i j"]  # n: patches of all films, film by film
WINDOWS = 2  # to each side of a patch: the places of a memory in the decoder
SQUEEZE = 4  # channels of the bottleneck to one channel of its memory


@dataclass(frozen=True, kw_only=True)
class InpaintingShape:
    """Sizes of the generators."""

    side: int
    """Of the film, in pixels."""
    grid: int
    """Patches to each side of the film."""
    width: int
    """Channels at the film's resolution; doubled by every level."""
    levels: int
    """Halvings between film and bottleneck."""
    memories: int
    """First levels of the decoder, which work on single patches, see the encoder's maps, and pass
    through a memory; the further ones work on the whole film."""
    slots: int
    """Newest patches that the queue of each place remembers."""
    decoder_slots: int
    """Codes that each memory of the decoder learns, for each place."""
    recalled: int
    """Codes that may stand for what is seen."""
    shortcut: float
    """Share of positions that are replaced in training; the others pass by as they are."""
    heads: int
    """Of the attention to the neighbours."""

    @property
    def deepest(self) -> int:
        """Side of a patch at the bottleneck."""
        return self.side // (self.grid << self.levels)


@dataclass(frozen=True)
class Rebuilt:
    """What a generator makes of a film, and its maps after each level, coarsest first."""

    film: Float[Tensor, "b 1 h w"]  # [0, 1]
    maps: list[Map]


def passed_by(
    new: Map, old: Map, share: float, rows: Sequence[Generator] | None
) -> Float[Tensor, "n c i j"]:
    """The new map at `share` of the positions, the old elsewhere (the masked shortcut); without
    `rows`, one a film, the new one everywhere."""
    if rows is None:
        return new
    patches = len(new) // len(rows)
    drawn = uniform((patches, 1, *new.shape[-2:]), rows).flatten(0, 1)
    return torch.where((drawn < share).to(new.device), new, old)


class Block(nn.Module):
    """A convolution, then two more whose result is added."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Map) -> Map:
        x = self.first(x)
        return F.relu(x + self.second(x))


class Queue(nn.Module):
    """For every place of the film, the codes of the newest normal patches that lay there."""

    codes: Tensor

    def __init__(self, places: int, slots: int, size: int) -> None:
        super().__init__()
        first = torch.empty(places, slots, size).uniform_(-1, 1) * size**-0.5
        self.register_buffer("codes", first)

    def remember(self, incoming: Float[Tensor, "b p c"]) -> None:
        """Puts these in front of the older ones. A new tensor: a gradient may still want those."""
        self.codes = enqueue(self.codes, incoming.detach().to(self.codes))


class Memory(nn.Module):
    """Codes that are learnt, of every window of a patch: a map can be put together from these."""

    def __init__(self, slots: int, size: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.empty(WINDOWS**2, slots, size).uniform_(-1, 1) * size**-0.5)

    def forward(self, x: Map, count: int) -> Map:
        windows = cut(x, WINDOWS)
        recalled = recall(windows.flatten(2), self.codes, count)
        return joined(recalled.reshape(windows.shape), WINDOWS)


class Inpainting(nn.Module):
    """A patch in the bottleneck, rebuilt from its own memory and, by attention, from those of its
    eight neighbours; the patch itself only asks."""

    place: Tensor

    def __init__(self, shape: InpaintingShape) -> None:
        super().__init__()
        self.shape = shape
        channels = shape.width * 2**shape.levels
        squeezed, places = channels // SQUEEZE, shape.grid**2
        size = squeezed * shape.deepest**2
        self.squeeze = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1, bias=False), nn.BatchNorm2d(squeezed), nn.ReLU()
        )
        self.queue = Queue(places, shape.slots, size)
        self.attention = nn.MultiheadAttention(size, shape.heads, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.forth = nn.Sequential(
            nn.Linear(size, size // SQUEEZE), nn.ReLU(), nn.Linear(size // SQUEEZE, size)
        )
        # Where a patch lies, as the binary digits of its number.
        bits = torch.arange(places.bit_length())
        place = (torch.arange(places)[:, None] >> bits) & 1
        self.register_buffer("place", place.float(), persistent=False)
        self.widen = nn.Sequential(
            nn.Conv2d(squeezed + len(bits), channels, 1), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, x: Map, rows: Sequence[Generator] | None) -> Map:
        """With `rows`, one a film, it also remembers, and lets some positions pass by."""
        shape, places = self.shape, self.shape.grid**2
        asked = self.squeeze(x).reshape(len(x) // places, places, -1)  # (b, p, size)
        own = recall(asked, self.queue.codes, shape.recalled)
        if rows is not None:
            self.queue.remember(asked)
        around = surroundings(own, shape.grid).flatten(0, 1)
        question, own = asked.flatten(0, 1)[:, None], own.flatten(0, 1)[:, None]
        attended = self.attention(question, around, around, need_weights=False)[0]
        filled = F.relu(self.norms[0](attended + own))
        filled = F.relu(self.norms[1](self.forth(filled) + filled))
        patches = filled.reshape(len(x), -1, *x.shape[-2:])
        place = self.place.repeat(len(x) // places, 1)[:, :, None, None]
        place = place.expand(-1, -1, *x.shape[-2:]).to(patches)
        new = self.widen(torch.cat([patches, place], dim=1))
        return passed_by(new, x, shape.shortcut, rows)


class Decoder(nn.Module):
    """From the bottleneck to the film; the student's has memories, the teacher's none."""

    def __init__(self, shape: InpaintingShape, *, remembers: bool) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape.width * 2**level for level in range(shape.levels, -1, -1)]
        skipped = [*widths[1 : shape.memories + 1], *[0] * (shape.levels - shape.memories)]
        self.levels = nn.ModuleList(
            Block(a + skip, b) for (a, b), skip in zip(pairwise(widths), skipped, strict=True)
        )
        sides = [shape.deepest * 2 ** (level + 1) // WINDOWS for level in range(shape.memories)]
        self.memories = nn.ModuleList(
            Memory(shape.decoder_slots, width * side**2)
            for width, side in zip(widths[1:], sides, strict=False)
            if remembers
        )
        self.head = nn.Conv2d(shape.width, 1, 1)

    def forward(
        self, x: Map, skips: Sequence[Map], rows: Sequence[Generator] | None = None
    ) -> Rebuilt:
        """`seen`: the encoder's maps, coarsest first. `rows`: as of `passed_by`."""
        maps = []
        for index, level in enumerate(self.levels):
            if index == self.shape.memories:
                x = joined(x.reshape(-1, self.shape.grid**2, *x.shape[1:]), self.shape.grid)
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            if index < self.shape.memories:
                x = torch.cat([skips[index], x], dim=1)
            x = level(x)
            if index < len(self.memories):
                recalled = self.memories[index](x, self.shape.recalled)
                x = passed_by(recalled, x, self.shape.shortcut, rows)
            maps.append(x)
        return Rebuilt(self.head(x).sigmoid(), maps)


class InpaintingGenerator(nn.Module):
    """Encoder, in-painting block, and two decoders: the student's sees in-painted patches, the
    teacher's the patches themselves."""

    def __init__(self, shape: InpaintingShape) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape.width * 2**level for level in range(shape.levels + 1)]
        self.entry = Block(1, shape.width)
        self.encoder = nn.ModuleList(Block(a, b, stride=2) for a, b in pairwise(widths))
        self.inpaint = Inpainting(shape)
        self.student = Decoder(shape, remembers=True)
        self.teacher = Decoder(shape, remembers=False)

    def encode(self, film: Float[Tensor, "b 1 h w"]) -> tuple[Map, list[Map]]:
        """The patches in the bottleneck, and on the way there, coarsest first."""
        x = self.entry(cut(film, self.shape.grid).flatten(0, 1))
        skips = []
        for level in self.encoder:
            skips.append(x)
            x = level(x)
        return x, skips[::-1]

    def forward(self, film: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """The student's film, from greys in [0, 1] to such."""
        x, skips = self.encode(film)
        rebuilt: Float[Tensor, "b 1 h w"] = self.student(self.inpaint(x, None), skips).film
        return rebuilt

    def both(
        self, film: Float[Tensor, "b 1 h w"], rows: Sequence[Generator]
    ) -> tuple[Rebuilt, Rebuilt]:
        """Student and teacher, in training. The teacher does not move the encoder."""
        x, skips = self.encode(film)
        student = self.student(self.inpaint(x, rows), skips, rows)
        return student, self.teacher(x.detach(), [each.detach() for each in skips])


class FilmNorm(nn.BatchNorm2d):
    """Batch normalisation that, out of training, takes each film by its own mean and variance."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)

    def forward(self, x: Float[Tensor, "b c i j"]) -> Float[Tensor, "b c i j"]:
        if self.training:
            return super().forward(x)
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


class Discriminator(nn.Module):
    """One number a film: the larger, the more it looks like a film and not like a rebuilt one."""

    def __init__(self, side: int, channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (a, b) in enumerate(pairwise((1, *channels))):
            norm = [FilmNorm(b)] if index else []
            layers += [nn.Conv2d(a, b, 5, 2, padding=2), *norm, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.judge = nn.Linear(channels[-1] * (side // 2 ** len(channels)) ** 2, 1)

    def forward(self, film: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
        """The logit of being real."""
        logit: Float[Tensor, " b"] = self.judge(self.layers(film).flatten(1))[:, 0]
        return logit
