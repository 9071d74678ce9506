"""The KL autoencoder: sizes, the KL divergence, the scale."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from nofinding.nets.kl_autoencoder import AutoencoderKL, kl_from_standard


@pytest.mark.parametrize(
    ("multipliers", "patch", "side"), [((1, 2), 2, 4), ((1, 2, 2), 1, 4), ((1,), 4, 4)]
)
def test_sides_shrink_by_patch_and_levels_and_come_back(
    multipliers: tuple[int, ...], patch: int, side: int
) -> None:
    net = AutoencoderKL(width=8, multipliers=multipliers, latent=3, groups=2, patch=patch)
    film = torch.rand(2, 1, 16, 16)
    z = net.encode(film)
    assert z.shape == (2, 3, side, side)
    assert net.decode(z).shape == film.shape


def test_kl_is_that_of_torch_distributions() -> None:
    mean, logvar = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_from_standard(mean, logvar), expected.flatten(1).sum(1))


def test_scale_makes_latents_of_unit_size_and_cancels_on_the_way_back() -> None:
    torch.manual_seed(0)
    net = AutoencoderKL(width=8, groups=2)
    film = torch.rand(2, 1, 16, 16)
    z, back = net.encode(film), net.decode(net.encode(film))
    net.scale.fill_(7.0)
    torch.testing.assert_close(net.encode(film), 7 * z)
    torch.testing.assert_close(net.decode(net.encode(film)), back)


def test_noise_moves_the_latent_by_its_standard_deviation() -> None:
    torch.manual_seed(0)
    net = AutoencoderKL(width=8, groups=2)
    film, noise = torch.rand(2, 1, 16, 16), torch.randn(2, 4, 4, 4)
    prediction, mean, logvar = net(film, noise)
    expected = net.decode_raw(mean + (0.5 * logvar).exp() * noise)
    torch.testing.assert_close(prediction, expected)
    assert not torch.allclose(prediction, net.decode_raw(mean))
