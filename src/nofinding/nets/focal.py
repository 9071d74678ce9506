"""A small U-Net of dense convolutions that says, every second pixel, which kind of lesion is there.

Dense, because processors multiply dense bfloat16 matrices several times faster than they filter
channel by channel; at stride 2, because a nodule of 5 mm is three pixels wide on a film of 224.
The network sees the equalised film, what stands out of its surroundings at two scales, and where
on the film it looks. One output is the lung field, also where a lesion hides it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.nets.backbone import (
    EfficientNetLite0,
    film_to_rgb,
    load_efficientnet_lite0,
    width,
)

__all__ = [
    "FAMILIES",
    "LUNGS",
    "PRETRAINED",
    "WIDTHS",
    "DenseUNet",
    "Focal",
    "FocalNet",
    "LungNet",
    "local_contrast",
]

FAMILIES = ("nodule", "opacity", "effusion", "pneumothorax", "interstitial", "heart", "device")
"""Kinds of lesion, in the order of the outputs. The last output is the lung field."""
LUNGS = len(FAMILIES)
STRIDE = 2
WIDTHS = (24, 48, 96, 160)  # channels at 1/2, 1/4, 1/8 and 1/16 of the side
PRETRAINED = (2, 4, 10)  # blocks of EfficientNet-Lite0 with maps of 1/4, 1/8 and 1/16 of the side
SIDE = 32  # channels of each that are looked at
SCALES = (7, 25)  # pixels of the square that a place is compared with, for a film of 224
RARE = -4.0  # first bias of the lesion outputs: a place is normal


class Focal(NamedTuple):
    """What the network sees in films."""

    where: Float[Tensor, "b f i j"]  # logits of the families, then of the lung; every second pixel
    film: Float[Tensor, "b f"]  # logit of each family anywhere on the film
    coarse: Float[Tensor, "b d k l"]  # features at 1/16 of the side, before the answers


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class DenseUNet(nn.Module):
    """Maps at the input's resolution, and those of its coarsest level.

    `beside` are channels that each level gets from elsewhere, joined to what it is given.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], outputs: int, beside: Sequence[int] = ()
    ) -> None:
        super().__init__()
        extra = (*beside, *[0] * (len(widths) - len(beside)))
        before = [i + more for i, more in zip((inputs, *widths[:-1]), extra, strict=True)]
        self.down = nn.ModuleList(Block(i, o) for i, o in zip(before, widths, strict=True))
        self.up = nn.ModuleList(
            Block(widths[k] + widths[k + 1], widths[k]) for k in range(len(widths) - 1)
        )
        # What the whole film is like, added to every place of the coarsest level.
        self.everywhere = nn.Linear(widths[-1], widths[-1])
        self.out = nn.Conv2d(widths[0], outputs, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], beside: Mapping[int, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(b, outputs, h, w), and (b, widths[-1], h / 2 ** (levels - 1), ...)."""
        levels = []
        for number, block in enumerate(self.down):
            x = F.max_pool2d(x, 2) if number else x
            x = block(torch.cat([x, beside[number]], dim=1) if beside and number in beside else x)
            levels.append(x)
        coarse = x = x + F.relu(self.everywhere(x.mean(dim=(2, 3))))[:, :, None, None]
        for number in reversed(range(len(self.up))):
            x = F.interpolate(x, size=levels[number].shape[-2:], mode="nearest")
            x = self.up[number](torch.cat([levels[number], x], dim=1))
        return self.out(x), coarse


class FocalNet(nn.Module):
    """Equalised films in [0, 1] to `Focal`; the side a multiple of 32.

    Beside the film it is given what EfficientNet-Lite0 with its ImageNet weights, frozen, sees at
    1/4, 1/8 and 1/16 of the side: from thousands of normal films and painted lesions alone, one
    does not learn to see in an hour.
    """

    def __init__(
        self, widths: Sequence[int] = WIDTHS, lite: EfficientNetLite0 | None = None
    ) -> None:
        """First weights from torch's global generator; `lite`, if it is in memory already.

        Raises UserError where the ImageNet weights are not installed.
        """
        super().__init__()
        self.lite = lite or load_efficientnet_lite0()
        self.beside = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width(block), SIDE, 1, bias=False), nn.BatchNorm2d(SIDE))
            for block in PRETRAINED
        )
        inputs = STRIDE**2 * (1 + len(SCALES)) + 2
        self.unet = DenseUNet(inputs, widths, len(FAMILIES) + 1, (0, *[SIDE] * len(PRETRAINED)))
        self.film = nn.Linear(2 * widths[-1], len(FAMILIES))
        bias = self.unet.out.bias
        assert bias is not None
        nn.init.constant_(bias[:LUNGS], RARE)

    def train(self, mode: bool = True) -> Self:
        """The ImageNet network stays as it is, its batch statistics too."""
        super().train(mode)
        self.lite.eval()
        return self

    def forward(
        self, film: Float[Tensor, "b 1 h w"], features: Mapping[int, Tensor] | None = None
    ) -> Focal:
        """Where and whether there is a lesion of each family.

        `seen`: what the blocks PRETRAINED gave for these films, if that is known already.
        """
        if features is None:
            with torch.no_grad():
                rgb = film_to_rgb(film * 2 - 1).contiguous(memory_format=torch.channels_last)
                features = self.lite.features(rgb, PRETRAINED)
        beside = {
            level: F.relu(join(features[block]))
            for level, (block, join) in enumerate(zip(PRETRAINED, self.beside, strict=True), 1)
        }
        scales = [local_contrast(film, side) for side in SCALES]
        x = F.pixel_unshuffle(torch.cat([film * 2 - 1, *scales], dim=1), STRIDE)
        x = torch.cat([x, _places(x)], dim=1).contiguous(memory_format=torch.channels_last)
        where, coarse = self.unet(x, beside)
        flat = coarse.flatten(2)
        pooled = torch.cat([flat.mean(2), flat.amax(2)], dim=1)
        return Focal(where.float(), self.film(pooled).float(), coarse.float())

    def learnt(self) -> dict[str, Tensor]:
        """All weights but ImageNet's, by name."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("lite.")}

    def load_learnt(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `learnt` gave, in any floating precision. Raises RuntimeError for a misfit."""
        lite = {f"lite.{k}": v for k, v in self.lite.state_dict().items()}
        self.load_state_dict(lite | dict(state))


class LungNet(nn.Module):
    """The lung field of a film, at half its resolution: a logit a place."""

    def __init__(self, widths: Sequence[int] = (16, 32, 48, 64)) -> None:
        super().__init__()
        self.unet = DenseUNet(2 + 2, widths, 1)

    def forward(self, film: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 i j"]:
        """From the equalised film in [0, 1], its side a multiple of 16."""
        film = F.avg_pool2d(film, STRIDE)
        x = torch.cat([film * 2 - 1, local_contrast(film, SCALES[1]), _places(film)], dim=1)
        out: Tensor = self.unet(x.contiguous(memory_format=torch.channels_last))[0]
        return out.float()


def local_contrast(film: Float[Tensor, "b 1 h w"], side: int) -> Float[Tensor, "b 1 h w"]:
    """How far each place stands out of the square of `side` pixels around it, about in [-3, 3]."""
    mean, power = _around(film, side), _around(film.square(), side)
    spread = (power - mean.square()).clamp_min(0).sqrt()
    return ((film - mean) / (spread + 0.04)).clamp(-3, 3)


def _around(film: Float[Tensor, "b 1 h w"], side: int) -> Float[Tensor, "b 1 h w"]:
    """The mean of the square of `side` (odd) pixels around each place: rows, then columns."""
    pad = side // 2
    rows = F.avg_pool2d(film, (side, 1), 1, (pad, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, pad), count_include_pad=False)


def _places(like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 h w"]:
    """Row and column of every place, in [-1, 1]."""
    high, wide = like.shape[-2:]
    y = torch.linspace(-1, 1, high, device=like.device, dtype=like.dtype)[:, None].expand(
        high, wide
    )
    x = torch.linspace(-1, 1, wide, device=like.device, dtype=like.dtype)[None].expand(high, wide)
    return torch.stack([y, x]).expand(len(like), 2, high, wide)
