"""A Gaussian moved to local films: as far as they are sure, and as wide as they are."""

import pytest
import torch

from nofinding.functional.features.gaussian import Gaussian, distance, fit_gaussian
from nofinding.functional.features.recentre import recentred

D = 40


def rows(n: int, seed: int, shift: float = 0.0, wide: float = 1.0) -> torch.Tensor:
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    x[:, 0] *= wide
    x[:, 1] += shift
    return x


@pytest.fixture(scope="module")
def elsewhere() -> Gaussian:
    return fit_gaussian(rows(2000, 0))


def test_a_clear_shift_is_followed(elsewhere: Gaussian) -> None:
    moved = recentred(elsewhere, rows(100, 1, shift=5))
    assert float(moved.mean[1]) == pytest.approx(5, abs=0.6)
    new = rows(200, 2, shift=5)
    assert float(distance(new, elsewhere).mean()) > 1.2
    assert float(distance(new, moved).mean()) == pytest.approx(1, abs=0.1)


def test_no_shift_moves_next_to_nothing(elsewhere: Gaussian) -> None:
    local = rows(30, 3)
    moved = recentred(elsewhere, local)
    assert float((moved.mean - elsewhere.mean).norm()) < 0.4 * float(local.mean(0).norm())


def test_a_direction_that_is_wide_here_counts_less(elsewhere: Gaussian) -> None:
    local = rows(200, 4, wide=4)
    step = torch.zeros(1, D)
    step[0, 0] = 4
    moved, remaining = recentred(elsewhere, local), recentred(elsewhere, local, widths=False)
    assert float(distance(step + moved.mean, moved)) < 0.6 * float(
        distance(step + elsewhere.mean, elsewhere)
    )
    assert torch.equal(remaining.whiten, elsewhere.whiten)


def test_the_covariance_is_ledoit_and_wolfs_about_the_old_one(elsewhere: Gaussian) -> None:
    from nofinding.functional.features.gaussian import ledoit_wolf

    local = rows(60, 5, wide=3, shift=2)
    moved = recentred(elsewhere, local)
    z = (local - elsewhere.mean).double() @ elsewhere.whiten.double().T
    expected = ledoit_wolf(z.float())
    back = torch.linalg.inv(moved.whiten.double() @ torch.linalg.inv(elsewhere.whiten.double()))
    assert torch.allclose(back @ back.T, expected * 60 / 59, rtol=0.06, atol=0.06)


def test_films_that_are_all_alike_do_no_harm(elsewhere: Gaussian) -> None:
    moved = recentred(elsewhere, torch.ones(20, D))
    assert bool(moved.whiten.isfinite().all()) and bool(moved.mean.isfinite().all())


def test_one_film_is_refused(elsewhere: Gaussian) -> None:
    with pytest.raises(ValueError, match="two films"):
        recentred(elsewhere, rows(1, 0))
