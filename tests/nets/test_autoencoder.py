"""The autoencoder has the published shape."""

import pytest
import torch
from torch import nn

from nofinding.nets.autoencoder import Autoencoder


def test_it_has_the_published_layers() -> None:
    """Parameters counted by hand from the published layers, batch normalisation with two each."""
    convolutions = 16 * (1 * 16 + 16 * 32 + 32 * 64 + 64 * 64)
    norms = 2 * (16 + 32 + 64 + 64)
    into = 1024 * 2048 + 2048 + 2 * 2048 + 2048 * 16 + 16
    out = 16 * 2048 + 2048 + 2 * 2048 + 2048 * 1024 + 1024
    back = 16 * (64 * 64 + 64 * 32 + 32 * 16 + 16 * 1) + 2 * (64 + 32 + 16)
    net = Autoencoder()
    assert sum(p.numel() for p in net.parameters()) == convolutions + norms + into + out + back
    assert isinstance(net.head, nn.ConvTranspose2d)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert {(c.kernel_size, c.stride, c.padding, c.bias) for c in convs} == {
        ((4, 4), (2, 2), (1, 1), None)
    }


def test_film_to_latent_to_film() -> None:
    torch.manual_seed(0)
    net = Autoencoder(image_size=32, channels=(4, 8), hidden=16, latent=3, outputs=2).eval()
    x = torch.randn(5, 1, 32, 32)
    assert net.encode(x).shape == (5, 3)
    assert net(x).shape == (5, 2, 32, 32)
    torch.testing.assert_close(net(x), net.decode(net.encode(x)))
    torch.testing.assert_close(net(x[:1]), net(x)[:1], rtol=1e-5, atol=1e-6)
    assert (net(x) < 0).any() and (net(x) > 0).any()  # no activation at the end


@pytest.mark.parametrize("size", [0, 8, 40])
def test_it_refuses_a_size_that_does_not_halve(size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size {size}: no multiple of 16"):
        Autoencoder(image_size=size)
