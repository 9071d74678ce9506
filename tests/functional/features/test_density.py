import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

from nofinding.functional.features.density import fit_kernels, log_density


@pytest.mark.parametrize("d", [1, 6])
def test_density_is_scipys(d: int) -> None:
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((d, d)) * 10.0 ** np.arange(d)  # of very different units
    x, other = rng.standard_normal((90, d)) @ mix, 2 * rng.standard_normal((20, d)) @ mix
    density = log_density(torch.from_numpy(other), fit_kernels(torch.from_numpy(x)))
    expected = torch.from_numpy(gaussian_kde(x.T).logpdf(other.T))
    torch.testing.assert_close(density, expected, rtol=1e-8, atol=1e-8)


def test_density_is_finite_far_away_and_falls() -> None:
    kernels = fit_kernels(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    far = log_density(torch.tensor([[1e3, 0, 0], [1e5, 0, 0]]), kernels)
    assert far.isfinite().all() and far[0] > far[1]


def test_samples_that_are_alike_have_a_finite_density() -> None:
    kernels = fit_kernels(torch.ones(5, 2))
    density = log_density(torch.tensor([[1.0, 1.0], [1.0, 2.0]]), kernels)
    assert density.isfinite().all() and density[0] > density[1]
    with pytest.raises(ValueError, match="2 or more"):
        fit_kernels(torch.ones(1, 2))
