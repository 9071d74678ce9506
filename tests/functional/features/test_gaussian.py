"""Covariance, distance and folds, against scikit-learn and SciPy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf, ShrunkCovariance
from torch import Tensor

from nofinding.functional.features.gaussian import (
    distance,
    fit_gaussian,
    ledoit_wolf,
    out_of_fold,
    shrunk,
)


def samples(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated rows around a centre that is not zero."""
    chance = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=chance) * torch.linspace(0.1, 2, d)
    return torch.randn(n, d, generator=chance) @ mix + 3


@pytest.mark.parametrize(("n", "d"), [(200, 5), (30, 12), (8, 20), (2, 3)])
def test_shrinkage_is_scikit_learns(n: int, d: int) -> None:
    x = samples(n, d)
    expected = LedoitWolf().fit(x.double().numpy()).covariance_
    torch.testing.assert_close(ledoit_wolf(x), torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_given_shrinkage_is_scikit_learns(share: float) -> None:
    x = samples(30, 5)
    expected = torch.from_numpy(
        ShrunkCovariance(shrinkage=share).fit(x.double().numpy()).covariance_
    )
    torch.testing.assert_close(shrunk(x, share), expected, rtol=1e-10, atol=1e-10)
    of = fit_gaussian(x, shrinkage=share)
    inverse = (of.whiten.T @ of.whiten).double()
    torch.testing.assert_close(inverse, torch.linalg.inv(expected), rtol=1e-3, atol=1e-4)


def test_few_samples_still_give_every_direction_a_spread() -> None:
    assert torch.linalg.eigvalsh(ledoit_wolf(samples(8, 20))).min() > 1e-3
    assert (ledoit_wolf(torch.ones(5, 3)) == 0).all()  # nothing to learn from rows alike
    assert distance(torch.ones(2, 3), fit_gaussian(torch.ones(5, 3))).isfinite().all()


def test_distance_is_mahalanobis_over_root_d() -> None:
    x, others = samples(100, 6), samples(7, 6, seed=1)
    inverse = np.linalg.inv(ledoit_wolf(x).numpy())
    centre = x.double().mean(0).numpy()
    expected = [mahalanobis(row, centre, inverse) / 6**0.5 for row in others.double().numpy()]
    distances = distance(others, fit_gaussian(x))
    torch.testing.assert_close(distances, torch.tensor(expected).float(), rtol=1e-4, atol=1e-5)


def test_distance_is_about_one_for_new_rows_of_the_same_kind() -> None:
    x = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)) * 3 + 5
    distances = distance(x[:2000], fit_gaussian(x[2000:]))
    assert distances.square().mean() == pytest.approx(1, abs=0.05)
    assert float(distance(x.mean(0)[None], fit_gaussian(x))) == pytest.approx(0, abs=1e-4)


def test_a_row_alone_is_as_far_as_in_company() -> None:
    x = samples(300, 40)
    of = fit_gaussian(x)
    together = distance(x, of)
    for row in (0, 7, 299):
        torch.testing.assert_close(
            distance(x[row : row + 1], of)[0], together[row], rtol=1e-6, atol=0
        )


def test_a_step_that_only_the_acquisition_takes_counts_little() -> None:
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    # An exposure that always adds to feature 0: the mean change counts as its spread does.
    changes = torch.zeros(50, 4)
    changes[:, 0] = 3
    steps = x.mean(0) + 5 * torch.eye(4)
    plain, message = distance(steps, fit_gaussian(x)), distance(steps, fit_gaussian(x, changes))
    torch.testing.assert_close(message[1:], plain[1:], rtol=1e-3, atol=0)
    # Variance about 1 becomes about 1 + 9.
    assert float(message[0] / plain[0]) == pytest.approx(10**-0.5, rel=0.1)
    nothing = fit_gaussian(x, torch.empty(0, 4))
    torch.testing.assert_close(distance(steps, nothing), plain)


def test_a_feature_that_never_moves_is_not_infinitely_telling() -> None:
    x = torch.cat([samples(50, 3), torch.full((50, 1), 0.5)], dim=1)
    moved = torch.cat([x[:1, :3], x[:1, 3:] + 1e-3], dim=1)
    assert distance(moved, fit_gaussian(x)).isfinite().all()


def test_no_row_is_judged_by_its_own_fold() -> None:
    x = samples(20, 4)
    x[6] = 100
    fold = torch.arange(20) % 5
    result = out_of_fold(x, None, fold)
    inside = [row for row in range(20) if row % 5 != 1]  # row 6 is in fold 1
    own = fit_gaussian(x[inside])
    expected = distance(x[[1, 6, 11, 16]], own)
    torch.testing.assert_close(result[[1, 6, 11, 16]], expected)
    assert result[6] > 5 * distance(x, fit_gaussian(x))[6]
    # The outlier is in the others' Gaussian, and makes it wide.
    assert result[1] > result[[0, 2, 3, 4]].max()


def test_out_of_fold_knows_the_nuisance() -> None:
    x, changes = samples(20, 4), 10 * samples(9, 4, seed=2)
    fold = torch.arange(20) % 5
    assert (out_of_fold(x, changes, fold) < out_of_fold(x, None, fold)).all()
