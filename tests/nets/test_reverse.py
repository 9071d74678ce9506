"""The student of reverse distillation has the published shape."""

import pytest
import torch
from torch import nn

from nofinding.nets.reverse import Block, Fusion, ReverseDecoder, Student


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def bottleneck(inputs: int, inner: int, outputs: int, kernel: int, skip: int) -> int:
    """Parameters by hand: three convolutions, their norms, and a resampling skip if any."""
    body = inputs * inner + kernel**2 * inner**2 + inner * outputs + 2 * (2 * inner + outputs)
    return body + (skip**2 * inputs * outputs + 2 * outputs if skip else 0)


def test_of_a_wide_resnet_it_has_the_published_layers() -> None:
    """WideResNet50-2's layers 1 to 3 are 256, 512 and 1024 wide, and it is twice as wide inside."""
    widths = (256, 512, 1024)
    with torch.device("meta"):
        fusion = Fusion(widths, 2048, 3, "bottleneck")
        decoder = ReverseDecoder(widths, 2048, (3, 4, 6), "bottleneck")
    shrink = 9 * (256 * 512 + 512 * 1024) + 2 * (512 + 1024) + 9 * 512 * 1024 + 2 * 1024
    embed = bottleneck(3 * 1024, 1024, 2048, 3, 1) + 2 * bottleneck(2048, 1024, 2048, 3, 0)
    assert count(fusion) == shrink + embed
    expected = 0
    for a, b, depth in ((2048, 1024, 3), (1024, 512, 4), (512, 256, 6)):
        expected += bottleneck(a, b // 2, b, 2, 2) + (depth - 1) * bottleneck(b, b // 2, b, 3, 0)
    assert count(decoder) == expected
    ups = [m for m in decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(ups) == 6 and {(m.kernel_size, m.stride) for m in ups} == {((2, 2), (2, 2))}


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_maps_in_maps_out_through_an_embedding_at_half_the_coarsest_sides(block: Block) -> None:
    torch.manual_seed(0)
    widths = (4, 6, 8)
    fusion = Fusion(widths, 10, 2, block)
    net = Student(fusion, ReverseDecoder(widths, 10, (1, 2, 1), block)).eval()
    maps = [torch.randn(3, c, s, s) for c, s in zip(widths, (16, 8, 4), strict=True)]
    assert fusion(maps).shape == (3, 10, 2, 2)
    prediction = net(maps)
    assert [m.shape for m in prediction] == [m.shape for m in maps]
    for here, there in zip(net([m[:1] for m in maps]), prediction, strict=True):
        torch.testing.assert_close(here, there[:1], rtol=1e-5, atol=1e-6)


def test_every_scale_reaches_the_embedding_and_none_goes_around_it() -> None:
    torch.manual_seed(0)
    widths = (4, 6, 8)
    fusion, decoder = Fusion(widths, 10, 1, "basic"), ReverseDecoder(widths, 10, (1, 1, 1), "basic")
    net = Student(fusion, decoder).eval()
    maps = [torch.randn(1, c, s, s) for c, s in zip(widths, (16, 8, 4), strict=True)]
    code = fusion(maps)
    for level in range(3):
        other = [m + (i == level) for i, m in enumerate(maps)]
        assert (fusion(other) - code).abs().max() > 1e-3
    # The decoder sees nothing but the embedding: with that held still, no map changes.
    held = Student(nn.Identity(), decoder).eval()
    for here, there in zip(held(code), net(maps), strict=True):
        assert torch.equal(here, there)
