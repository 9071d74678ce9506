"""Neighbourhoods, joined grids and blur, against the plain definition and against SciPy."""

import pytest
import torch
from torch import Generator, Tensor

from nofinding.functional.features.neighbourhoods import (
    enlarge,
    join,
    neighbourhoods,
    pool_channels,
    rows,
)


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def test_a_neighbourhood_is_averaged_and_nothing_is_beyond_the_border() -> None:
    x = maps(2, 3, 5, 6)
    result = neighbourhoods(x)
    torch.testing.assert_close(result[1, 2, 2, 3], x[1, 2, 1:4, 2:5].mean())
    torch.testing.assert_close(result[0, 1, 0, 0], x[0, 1, :2, :2].sum() / 9)
    torch.testing.assert_close(neighbourhoods(x, 1), x)


def test_a_given_dimension_averages_runs_of_the_whole_neighbourhood() -> None:
    x = maps(1, 4, 5, 5)
    result = neighbourhoods(x, 3, dimension=6)  # 36 numbers in runs of 6
    around = x[0, :, 1:4, 2:5].reshape(-1)
    torch.testing.assert_close(result[0, :, 2, 3], around.reshape(6, 6).mean(1))
    assert pool_channels(x, 2).shape == (1, 2, 5, 5)
    torch.testing.assert_close(pool_channels(x, 2)[0, :, 1, 4], x[0, :, 1, 4].reshape(2, 2).mean(1))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_join_brings_all_maps_on_the_first_grid(mode: str) -> None:
    fine, coarse = maps(2, 3, 8, 8), maps(2, 5, 4, 4, seed=1)
    result = join([fine, coarse], mode)
    assert result.shape == (2, 8, 8, 8)
    assert torch.equal(result[:, :3], fine)
    repeated = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(result[:, 3:], repeated) == (mode == "nearest")
    assert torch.equal(rows(result)[1, 11], result[1, :, 1, 3])


def test_an_enlarged_map_keeps_its_level_and_sign() -> None:
    x = torch.full((1, 1, 6, 6), 3.0)
    torch.testing.assert_close(enlarge(x, (6, 6), 4.0), x)
    assert enlarge(torch.rand(1, 1, 3, 3), (12, 12), 4.0).min() >= 0
    assert enlarge(x, (12, 9), 1.0).shape == (1, 1, 12, 9)
