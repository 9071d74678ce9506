"""The divergence of Gaussians against torch.distributions and against samples of the diffusion."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from nofinding.functional.diffusion.divergence import gaussian_kl, posterior, step_kl
from nofinding.functional.diffusion.sampler import add_noise, ddpm_step
from nofinding.functional.diffusion.schedule import scaled_linear_abar

ABAR = scaled_linear_abar()


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_divergence_of_torch() -> None:
    mean, other = some(4, 3, seed=1), some(4, 3, seed=2)
    variance, other_variance = some(4, 3, seed=3).exp(), some(4, 3, seed=4).exp()
    expected = kl_divergence(Normal(mean, variance.sqrt()), Normal(other, other_variance.sqrt()))
    torch.testing.assert_close(gaussian_kl(mean, variance, other, other_variance), expected)
    assert gaussian_kl(mean, variance, mean, variance).abs().max() < 1e-12


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_a_step_back_is_judged_by_both_gaussians(variance: str) -> None:
    a, b = float(ABAR[500]), float(ABAR[499])
    x0, result = some(2, 3, 4, seed=5), some(2, 3, 4, seed=6)
    x = add_noise(x0, some(2, 3, 4, seed=7), ABAR[500])
    mean, own = posterior(x, x0, a, b)
    other, _ = posterior(x, result, a, b)
    wide = own if variance == "posterior" else 1 - a / b
    expected = kl_divergence(Normal(mean, own**0.5), Normal(other, wide**0.5))
    torch.testing.assert_close(step_kl(x, x0, result, a, b, variance), expected)
    alone = step_kl(x, x0, x0, a, b, variance)
    assert alone.min() >= 0 and alone.max() < (1e-12 if variance == "posterior" else 1e-3)


def test_the_posterior_is_the_one_that_the_sampler_draws_from() -> None:
    x, x0 = some(1, 2, seed=8), some(1, 2, seed=9)
    mean, variance = posterior(x, x0, float(ABAR[300]), float(ABAR[200]))
    at_zero = ddpm_step(x, x0, torch.zeros_like(x), ABAR[300], ABAR[200])
    at_one = ddpm_step(x, x0, torch.ones_like(x), ABAR[300], ABAR[200])
    torch.testing.assert_close(mean, at_zero)
    torch.testing.assert_close(torch.full_like(x, variance**0.5), at_one - at_zero)
