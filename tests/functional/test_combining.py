"""Surprise among normal films, and several surprises as one."""

import math

import pytest
import torch

from nofinding.functional.image.combining import LEVELS, combined, quantiles, surprise


def test_a_surprise_is_the_share_of_normal_films_above() -> None:
    normal = torch.linspace(0, 1, 1001)
    of = quantiles(normal)
    assert len(of) == len(LEVELS)
    values = torch.tensor([-5.0, 0.0, 0.5, 0.9, 0.98])
    share = torch.exp(-surprise(values, of))
    torch.testing.assert_close(share, torch.tensor([1.0, 1.0, 0.5, 0.1, 0.02]), atol=1e-3, rtol=0)


def test_beyond_all_normal_films_it_goes_on_rising_as_an_exponential_tail_does() -> None:
    normal = torch.distributions.Exponential(2.0).icdf(torch.linspace(0, 0.9999, 20_001))
    of = quantiles(normal)
    far = torch.tensor([2.5, 4.0, 10.0])
    torch.testing.assert_close(surprise(far, of), 2 * far, rtol=0.01, atol=0)


def test_any_rising_change_of_a_component_leaves_the_surprise_among_its_normals() -> None:
    chance = torch.Generator().manual_seed(0)
    normal = torch.randn(5000, generator=chance)
    values = torch.linspace(-2, 1.9, 20)
    plain = surprise(values, quantiles(normal))
    bent = surprise(values.exp(), quantiles(normal.exp()))
    torch.testing.assert_close(plain, bent, atol=0.02, rtol=0.02)


def test_one_clear_sign_among_quiet_ones() -> None:
    quiet, clear = [1.0, 1.0, 1.0, 1.0], [6.0, 0.5, 0.5, 0.5]
    films = torch.tensor([quiet, clear]).T
    fisher, tippett = combined(films, "fisher"), combined(films, "tippett")
    harmonic = combined(films, "harmonic")
    assert fisher.tolist() == pytest.approx([1.0, 1.875])
    assert tippett.tolist() == pytest.approx([1.0, 6.0])
    expected = math.log((math.exp(6) + 3 * math.exp(0.5)) / 4)
    assert harmonic.tolist() == pytest.approx([1.0, expected])
    assert fisher[1] < harmonic[1] < tippett[1]


def test_all_alike_normal_films_are_no_division_by_nothing() -> None:
    assert surprise(torch.tensor([0.0, 1.0, 2.0]), quantiles(torch.ones(30))).isfinite().all()
