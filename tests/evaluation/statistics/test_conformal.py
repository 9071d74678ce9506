import hashlib

import numpy as np
import pytest
from scipy.stats import binomtest

from nofinding.evaluation.statistics.conformal import (
    called,
    clopper_pearson,
    effective_n,
    hashed,
    least_n,
    p_values,
    weighted_p_values,
)


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


@pytest.mark.parametrize(("level", "n"), [(0.05, 19), (0.01, 99), (0.1, 9), (0.5, 1)])
def test_a_level_takes_so_many_calibration_films(level: float, n: int) -> None:
    assert least_n(level) == n
    top = np.array([99.0])
    assert p_values(top, np.zeros(n))[0] <= level + 1e-12 < p_values(top, np.zeros(n - 1))[0]


def test_weights_count_films_by_hand() -> None:
    calibration, weights = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0])
    p = weighted_p_values(
        np.array([2.0, 9.0, 2.5]), np.array([3.0, 0.5, 1.0]), calibration, weights,
        ids=["x", "y", "c"], calibration_ids=["a", "b", "c"],
    )  # fmt: skip
    # (own + weights at least as anomalous) / (own + all); c is left out of its own
    assert p.tolist() == pytest.approx([(3 + 6) / 10, 0.5 / 7.5, 1 / 4])


def test_equal_weights_are_plain_calibration() -> None:
    rng = np.random.default_rng(1)
    scores, calibration = rng.normal(size=30), rng.normal(size=40)
    names = [f"c{i}" for i in range(40)]
    ids = ["c3", *(f"x{i}" for i in range(29))]
    weighted = weighted_p_values(
        scores, np.full(30, 0.7), calibration, np.full(40, 0.7), ids=ids, calibration_ids=names
    )
    plain = p_values(scores, calibration, ids=ids, calibration_ids=names)
    assert weighted == pytest.approx(plain)


def test_effective_number_of_films() -> None:
    assert effective_n(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_n(np.array([1.0, 0, 0])) == 1
    assert effective_n(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
