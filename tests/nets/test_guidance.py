"""The semantic guidance: silent at the start, heard afterwards, and wired as it says."""

import copy

import pytest
import torch
from torch import Tensor

from nofinding.nets.denoiser import Denoiser
from nofinding.nets.guidance import Guided, SemanticGuidance, SpatialFusion
from nofinding.nets.unet import UNetShape

SHAPE = UNetShape(
    image_size=8,
    width=8,
    multipliers=(1, 2),
    res_blocks=2,
    attention_at=(),
    groups=2,
    in_channels=4,
)
THREE = UNetShape(
    image_size=8, width=8, multipliers=(1, 2, 4), res_blocks=1, attention_at=(), groups=2
)


def inputs(channels: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(5)
    z = torch.randn(2, channels, 8, 8, generator=chance)
    return z, torch.tensor([3.0, 700.0]), torch.randn(2, 1, 32, 32, generator=chance)


def stirred(net: torch.nn.Module) -> None:
    """Nothing stays at zero."""
    chance = torch.Generator().manual_seed(1)
    for weight in net.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=chance)


def built(shape: UNetShape = SHAPE) -> Guided:
    torch.manual_seed(0)
    denoiser = Denoiser(shape)
    stirred(denoiser)
    return Guided(denoiser, shape, 2)


@pytest.mark.parametrize("shape", [SHAPE, THREE])
def test_untrained_guidance_leaves_the_denoiser_exactly_as_it_was(shape: UNetShape) -> None:
    net = built(shape)
    z, t, film = inputs(shape.in_channels)
    expected = net.denoiser(z, t)
    assert expected.abs().max() > 0
    assert torch.equal(net(z, t, film), expected)
    assert torch.equal(net(z, t, None), expected)
    copied, own = net.guidance.encoder.state_dict(), net.denoiser.encoder.state_dict()
    assert all(torch.equal(copied[name], own[name]) for name in own)


def test_every_part_of_the_guidance_learns_and_the_locked_parts_do_not() -> None:
    net = built()
    z, t, film = inputs()
    before = copy.deepcopy(net.state_dict())
    open_ = [weight for weight in net.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(open_, lr=1.0)
    for _ in range(3):  # zero convolutions first, then what lies behind them
        optimiser.zero_grad()
        net(z, t, film).sub(z).square().mean().backward()
        optimiser.step()
    after = net.state_dict()
    for part in ("time", "encoder", "middle"):
        locked = getattr(net.denoiser, part)
        assert all(weight.grad is None for weight in locked.parameters())
        names = [name for name in before if name.startswith(f"denoiser.{part}.")]
        assert names and all(torch.equal(before[name], after[name]) for name in names)
    open_parts = ("time", "encoder", "middle", "hint", "fusion", "zeros", "zero_middle")
    for part in (*(f"guidance.{p}." for p in open_parts), "denoiser.decoder.", "denoiser.head."):
        names = [name for name in before if name.startswith(part)]
        moved = [name for name in names if not torch.equal(before[name], after[name])]
        assert moved, f"{part} learns nothing"
    paths = [n for n in before if n.startswith("guidance.fusion.")]
    assert all(not torch.equal(before[name], after[name]) for name in paths)
    assert not torch.equal(net(z, t, film), net(z, t, None))
    assert not torch.equal(net(z, t, film), net(z, t, film.flip(0)))


def test_fusion_carries_every_map_of_the_level_above_into_every_deepest_one() -> None:
    torch.manual_seed(0)
    fusion = SpatialFusion([8, 16], 16, 2)
    fine = [torch.randn(1, 8, 8, 8), torch.randn(1, 16, 8, 8)]
    deep = [torch.randn(1, 16, 4, 4), torch.randn(1, 16, 4, 4)]
    result = fusion(fine, deep)
    # By hand: a strided convolution, each channel with mean 0 and variance 1, SiLU; summed; SiLU.
    for j in range(2):
        total = deep[j]
        for i in range(2):
            x = torch.nn.functional.conv2d(
                fine[i], fusion.paths[j][i][0].weight, stride=2, padding=1
            )
            mean = x.mean((2, 3), keepdim=True)
            x = (x - mean) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
            total = total + x * x.sigmoid()
        torch.testing.assert_close(result[j], total * total.sigmoid())


def test_guidance_takes_its_maps_from_the_two_deepest_levels() -> None:
    net = built(THREE).guidance
    stirred(net)
    z, t, film = inputs(1)
    calls: list[list[tuple[int, ...]]] = []

    def note(module: torch.nn.Module, given: tuple[list[Tensor], list[Tensor]]) -> None:
        calls.extend([tuple(m.shape[1:]) for m in maps] for maps in given)

    net.fusion.register_forward_pre_hook(note)
    message, middle = net(z, t, film)
    assert calls == [[(8, 4, 4), (16, 4, 4)], [(32, 2, 2), (32, 2, 2)]]
    assert [tuple(m.shape[1:]) for m in message] == [(16, 2, 2), (32, 2, 2)]
    assert middle.shape[1:] == (32, 2, 2)


def test_too_small_a_net_is_refused() -> None:
    one = UNetShape(
        image_size=8, width=8, multipliers=(1,), res_blocks=1, attention_at=(), groups=2
    )
    with pytest.raises(ValueError, match="two levels"):
        SemanticGuidance(Denoiser(one), one, 2)
