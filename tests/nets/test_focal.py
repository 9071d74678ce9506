"""The network that finds lesions, and the one that outlines lungs."""

import pytest
import torch
from torch import nn

from nofinding.functional.noise import generators, uniform
from nofinding.methods.base.lung_network import load_lungs
from nofinding.nets.focal import FAMILIES, LUNGS, PRETRAINED, FocalNet, local_contrast

SIDE = 64


@pytest.fixture(scope="module")
def net() -> FocalNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FocalNet((8, 12, 16, 20))
    return net.eval()


@torch.no_grad()
def test_shapes_and_a_first_answer_that_all_is_normal(net: FocalNet) -> None:
    film = uniform((1, SIDE, SIDE), generators(0, range(2)))
    out = net(film)
    assert out.where.shape == (2, len(FAMILIES) + 1, SIDE // 2, SIDE // 2)
    assert out.film.shape == (2, len(FAMILIES))
    assert out.coarse.shape == (2, 20, SIDE // 16, SIDE // 16)
    assert out.where[:, :LUNGS].median() < -2


@torch.no_grad()
def test_what_was_seen_before_is_not_looked_at_again(net: FocalNet) -> None:
    film = uniform((1, SIDE, SIDE), generators(0, range(2)))
    rgb = ((film * 255 - 127) / 128).expand(-1, 3, -1, -1)
    features = net.lite.features(rgb, PRETRAINED)
    torch.testing.assert_close(net(film, features).where, net(film).where, rtol=1e-4, atol=1e-4)
    other = {block: 2 * maps for block, maps in features.items()}
    assert not torch.allclose(net(film, other).where, net(film).where, atol=1e-3)


def test_imagenets_blocks_are_never_taught() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FocalNet((8, 8, 8, 8)).train()
    assert not any(p.requires_grad for p in net.lite.parameters())
    assert not any(m.training for m in net.lite.modules())
    assert net.unet.training and not any(k.startswith("lite.") for k in net.learnt())
    other = FocalNet((8, 8, 8, 8))
    other.load_learnt(
        {k: v.bfloat16() if v.is_floating_point() else v for k, v in net.learnt().items()}
    )
    bias = other.unet.out.bias
    assert isinstance(bias, nn.Parameter) and bias[0] == -4


def test_what_stands_out_of_its_surroundings() -> None:
    film = torch.linspace(0, 1, SIDE).expand(1, 1, SIDE, SIDE).clone()
    film[..., 30, 30] += 0.3
    contrast = local_contrast(film, 7)
    inner = contrast[..., 6:-6, 6:-6]
    assert inner[0, 0, 24, 24] > 2
    assert inner.median().abs() < 1e-3  # a slope is no contrast
    assert contrast.abs().max() <= 3


@torch.no_grad()
def test_the_shipped_outline_finds_two_dark_lungs() -> None:
    y, x = torch.linspace(-1, 1, 224)[:, None], torch.linspace(-1, 1, 224)[None]
    lung = torch.zeros(224, 224)
    for at in (-0.42, 0.42):
        lung = lung + torch.sigmoid(15 * (1 - ((x - at) / 0.3) ** 2 - (y / 0.65) ** 2))
    body = torch.sigmoid(20 * (0.95 - x.abs())).expand(224, 224)
    film = (0.5 + 0.35 * torch.exp(-((x / 0.2) ** 2))) * body - 0.35 * lung * body
    film = film.clamp(0.02, 1) + 0.01 * torch.randn(224, 224, generator=generators(0, [0])[0])
    result = load_lungs()(film.clamp(0, 1)[None, None])[0, 0] > 0
    truth = lung[::2, ::2] > 0.5
    overlap = 2 * (result & truth).sum() / (result.sum() + truth.sum())
    assert overlap > 0.8
