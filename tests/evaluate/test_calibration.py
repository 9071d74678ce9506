import hashlib

import numpy as np
import pytest
from scipy.stats import binomtest

from nofinding.evaluate.calibration import called, clopper_pearson, hashed, p_values


def test_p_is_the_share_at_least_as_anomalous() -> None:
    calibration = np.array([1.0, 3.0, 2.0, 3.0])
    p = p_values(np.array([0.0, 1.0, 2.5, 3.0, 9.0]), calibration)
    assert p.tolist() == [1, 1, 3 / 5, 3 / 5, 1 / 5]  # a tie counts as at least as anomalous


def test_calibration_films_are_compared_with_the_others_only() -> None:
    calibration = np.array([1.0, 2.0, 3.0])
    names = ["a", "b", "c"]
    p = p_values(np.array([3.0, 1.0, 3.0]), calibration, ids=["c", "a", "x"], calibration_ids=names)
    assert p.tolist() == [1 / 3, 1, 2 / 4]
    # scored again, with another rounding than when it calibrated: still never against itself
    for again in (2.9, 3.1):
        p = p_values(np.array([again]), calibration, ids=["c"], calibration_ids=names)
        assert p[0] == 1 / 3


def test_normal_films_are_called_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(0)
    p = np.concatenate([p_values(rng.normal(size=50), rng.normal(size=99)) for _ in range(400)])
    for level in (0.01, 0.05, 0.1):
        assert (p <= level).mean() == pytest.approx(level, abs=0.006)


def test_without_calibration_films_nothing_is_called() -> None:
    assert p_values(np.array([5.0, -1.0]), np.array([])).tolist() == [1, 1]


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (7, 20), (20, 20), (3, 300)])
def test_interval_is_exact(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(method="exact")
    assert clopper_pearson(k, n) == pytest.approx((expected.low, expected.high))


def test_share_called_counts_the_level_itself() -> None:
    p = np.array([0.05, 0.050001, 0.01, 0.9, 0.001])
    share = called(p, np.array([True, True, True, True, False]), 0.05)
    assert (share.k, share.n, share.value) == (2, 4, 0.5)
    assert (share.low, share.high) == pytest.approx(clopper_pearson(2, 4))
    assert called(np.array([0.1]), np.array([True]), 1 - 0.9).k == 1  # 0.09999999999999998


def test_films_are_listed_by_a_hash() -> None:
    assert hashed("film") == hashlib.sha256(b"film").hexdigest()[:16]
