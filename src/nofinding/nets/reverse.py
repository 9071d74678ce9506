"""The trainable half of reverse distillation: a narrow embedding, and a decoder out of it.

Deng and Li, CVPR 2022, arXiv:2201.10703, section 3.2 and figure 3. Widths follow the teacher's,
so that a WideResNet50 gives the published layers and a smaller teacher smaller ones.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Block", "Fusion", "Resample", "ReverseDecoder", "Student", "first_weights", "stage"]

Block = Literal["basic", "bottleneck"]
Resample = Literal["down", "up", "same"]


def _resampling(inputs: int, outputs: int, resample: Resample) -> nn.Module:
    """The one convolution of a block that changes the sides, if any does."""
    if resample == "up":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)
    return nn.Conv2d(inputs, outputs, 3, 2 if resample == "down" else 1, padding=1, bias=False)


def _skip(inputs: int, outputs: int, resample: Resample) -> nn.Module:
    if resample == "up":
        change: nn.Module = nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)
    elif resample == "down" or inputs != outputs:
        change = nn.Conv2d(inputs, outputs, 1, 2 if resample == "down" else 1, bias=False)
    else:
        return nn.Identity()
    return nn.Sequential(change, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """A ResNet block, basic (two 3 x 3) or bottleneck (1 x 1, 3 x 3, 1 x 1, narrower inside).

    Going up, a transposed convolution of kernel and stride 2 stands where a ResNet has one of
    stride 2 (He et al. 2016, figure 5; Deng and Li, section 3.1).
    """

    def __init__(
        self, inputs: int, outputs: int, block: Block, resample: Resample, narrow: int = 2
    ) -> None:
        """`narrow`: how many times a bottleneck is narrower inside; 2 in WideResNet50-2, 4 in
        ResNet50."""
        super().__init__()
        if block == "basic":
            self.body = nn.Sequential(
                _resampling(inputs, outputs, resample),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
            )
        else:
            inner = max(1, outputs // narrow)
            self.body = nn.Sequential(
                nn.Conv2d(inputs, inner, 1, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU(),
                _resampling(inner, inner, resample),
                nn.BatchNorm2d(inner),
                nn.ReLU(),
                nn.Conv2d(inner, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
        self.skip = _skip(inputs, outputs, resample)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Adds the input back, then ReLU."""
        out: Tensor = torch.relu(self.body(x) + self.skip(x))
        return out


def stage(
    inputs: int, outputs: int, depth: int, block: Block, resample: Resample, narrow: int = 2
) -> nn.Sequential:
    """`depth` blocks, the first of which resamples."""
    first = Residual(inputs, outputs, block, resample, narrow)
    more = (Residual(outputs, outputs, block, "same", narrow) for _ in range(depth - 1))
    return nn.Sequential(first, *more)


def first_weights(net: nn.Module) -> None:
    """Draws the convolutions' weights as He et al. 2015 have it for ReLU, by what goes out."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Fusion(nn.Module):
    """Maps of all scales brought to the coarsest and joined, then squeezed by residual blocks.

    Multi-scale feature fusion and one-class bottleneck embedding of the paper: what is not needed
    for normal films finds no room in the embedding.
    """

    def __init__(self, widths: Sequence[int], embedding: int, depth: int, block: Block) -> None:
        """`widths`: channels of the maps, finest first, each half the sides of the one before."""
        super().__init__()
        self.align = nn.ModuleList(
            nn.Sequential(*(_halve(a, b) for a, b in pairwise(widths[level:])))
            for level in range(len(widths))
        )
        self.embed = stage(len(widths) * widths[-1], embedding, depth, block, "down")
        first_weights(self)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b e i j"]:
        """The embedding, at half the sides of the coarsest map."""
        aligned = [align(m) for align, m in zip(self.align, maps, strict=True)]
        out: Tensor = self.embed(torch.cat(aligned, dim=1))
        return out


class ReverseDecoder(nn.Module):
    """From the embedding to maps like the teacher's, the coarsest first made."""

    def __init__(
        self, widths: Sequence[int], embedding: int, depths: Sequence[int], block: Block
    ) -> None:
        """`depths`: blocks of each stage, coarsest first."""
        super().__init__()
        channels = (embedding, *reversed(widths))
        self.stages = nn.ModuleList(
            stage(a, b, depth, block, "up")
            for (a, b), depth in zip(pairwise(channels), depths, strict=True)
        )
        first_weights(self)

    def forward(self, x: Float[Tensor, "b e i j"]) -> list[Tensor]:
        """Maps of the teacher's shapes, finest first."""
        maps: list[Tensor] = []
        for each in self.stages:
            x = each(x)
            maps.insert(0, x)
        return maps


class Student(nn.Module):
    """Fusion and decoder: the teacher's maps in, as many of the same shapes out."""

    def __init__(self, fusion: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.fusion, self.decoder = fusion, decoder

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """What a student that only knows normal films makes of them."""
        out: list[Tensor] = self.decoder(self.fusion(maps))
        return out
