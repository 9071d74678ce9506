"""Disagreement of networks, by hand on outputs of two values."""

import math

import torch

from nofinding.functional.image.discrepancy import inter, intra, sigma


def outputs(*values: float) -> torch.Tensor:
    """A network each, all of one grey, on two films."""
    return torch.tensor(values)[:, None, None, None, None].expand(-1, 2, 1, 3, 3)


def test_inter_is_the_distance_of_the_means() -> None:
    result = inter(outputs(0.1, 0.3, 0.8), outputs(0.5, 0.7, 1.2))
    assert result.shape == (2, 1, 3, 3)
    torch.testing.assert_close(result, torch.full((2, 1, 3, 3), 0.4))
    torch.testing.assert_close(inter(outputs(1.0, 2.0), outputs(0.0, 1.0)), torch.ones(2, 1, 3, 3))


def test_intra_is_the_deviation_by_one_over_k() -> None:
    result = intra(outputs(0.0, 0.0, 3.0))
    torch.testing.assert_close(result, torch.full((2, 1, 3, 3), math.sqrt((1 + 1 + 4) / 3)))
    assert intra(outputs(0.4, 0.4)).abs().max() == 0


def test_sigma_is_the_root_of_the_mean_variance() -> None:
    result = sigma(outputs(math.log(1.0), math.log(7.0)))
    torch.testing.assert_close(result, torch.full((2, 1, 3, 3), 2.0))
