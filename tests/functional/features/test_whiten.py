"""Whitened maps: every place by itself, every kept channel of unit variance."""

import pytest
import torch
from torch import Tensor

from nofinding.functional.features import whiten
from nofinding.functional.features.whiten import fit_whitening, whitened


@pytest.fixture
def maps() -> Tensor:
    """200 maps of 5 mixed channels; mean and spread differ from place to place."""
    chance = torch.Generator().manual_seed(0)
    mix = torch.randn(5, 5, generator=chance)
    mean = 4 * torch.randn(5, 3, 3, generator=chance)
    wide = torch.linspace(0.5, 2, 9).reshape(3, 3)
    drawn = torch.randn(200, 5, 3, 3, generator=chance) * wide
    return mean + torch.einsum("bchw,dc->bdhw", drawn, mix)


def test_every_place_and_channel_has_zero_mean_and_unit_variance(maps: Tensor) -> None:
    result = whitened(maps, fit_whitening(maps, 3))
    assert result.shape == (200, 3, 3, 3)
    torch.testing.assert_close(result.mean(0), torch.zeros(3, 3, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(result.square().mean(0), torch.ones(3, 3, 3), rtol=1e-3, atol=0)


def test_the_strongest_directions_are_kept_and_uncorrelated(maps: Tensor) -> None:
    by = fit_whitening(maps, 2)
    torch.testing.assert_close(by.mean, maps.mean(0), rtol=1e-4, atol=1e-4)
    rows = (maps - maps.mean(0)).permute(0, 2, 3, 1).flatten(0, 2)
    expected = torch.linalg.svd(rows, full_matrices=False).Vh[:2]
    result = by.project / by.project.norm(dim=1, keepdim=True)
    along = (result * expected).sum(1).abs()
    torch.testing.assert_close(along, torch.ones(2), rtol=1e-4, atol=0)
    projected = torch.einsum("bchw,dc->bdhw", maps - by.mean, by.project)
    second = torch.cov(projected.permute(0, 2, 3, 1).flatten(0, 2).T)
    torch.testing.assert_close(second, torch.eye(2), rtol=0, atol=0.01)


def test_a_direction_that_hardly_moves_is_not_blown_up() -> None:
    chance = torch.Generator().manual_seed(0)
    maps = torch.randn(100, 2, 4, 4, generator=chance)
    maps[:, 1] *= 1e-4
    result = whitened(maps, fit_whitening(maps, 2))
    assert result[:, 0].var() == pytest.approx(1, abs=0.05)
    assert result[:, 1].var() < 0.01
    still = torch.ones(10, 2, 4, 4)
    assert whitened(still, fit_whitening(still, 2)).abs().max() == 0


def test_portions_and_half_precision_change_nothing(
    maps: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit_whitening(maps.half(), 3)
    monkeypatch.setattr(whiten, "PORTION", 7)
    for result, expected in zip(fit_whitening(maps.half(), 3), whole, strict=True):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [0, 6])
def test_more_channels_than_features_are_refused(maps: Tensor, channels: int) -> None:
    with pytest.raises(ValueError, match=f"{channels} channels of 5 features"):
        fit_whitening(maps, channels)
