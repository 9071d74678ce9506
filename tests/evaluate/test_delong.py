import numpy as np
import pytest
from MLstatkit import Delong_test
from sklearn.metrics import roc_auc_score

from nofinding.evaluate.delong import delong, delong_interval, delong_test


def films(seed: int, *, ties: bool, n: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    abnormal = rng.random(n) < 0.4
    common = rng.normal(size=n)
    first, second = (abnormal * lift + common + rng.normal(size=n) for lift in (1.5, 0.8))
    return (first.round(0), second.round(0), abnormal) if ties else (first, second, abnormal)


def by_definition(scores: np.ndarray, abnormal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong et al. 1988, eq. 3 to 6, comparing every abnormal film with every normal one."""
    v10, v01 = [], []
    for score in scores:
        x, y = score[abnormal][:, None], score[~abnormal][None]
        psi = (x > y) + 0.5 * (x == y)
        v10.append(psi.mean(axis=1))
        v01.append(psi.mean(axis=0))
    s10, s01 = np.cov(v10), np.cov(v01)
    return np.mean(v10, axis=1), s10 / abnormal.sum() + s01 / (~abnormal).sum()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_midranks_give_what_the_definition_gives(seed: int, ties: bool) -> None:
    first, second, abnormal = films(seed, ties=ties)
    scores = np.stack([first, second])
    areas, covariance = delong(scores, abnormal)
    expected_areas, expected = by_definition(scores, abnormal)
    np.testing.assert_allclose(areas, expected_areas, atol=1e-12)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    assert areas[0] == pytest.approx(roc_auc_score(abnormal, first))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_mlstatkit(seed: int, ties: bool) -> None:
    first, second, abnormal = films(seed, ties=ties)
    z, p, ci_first, ci_second, area_first, area_second, info = Delong_test(
        abnormal.astype(int), first, second
    )
    assert info["method"] == "delong"
    test = delong_test(first, second, abnormal)
    assert test.first == pytest.approx(area_first)
    assert test.second == pytest.approx(area_second)
    assert test.z == pytest.approx(-z)  # theirs is second - first
    assert test.p_value == pytest.approx(p)
    interval = delong_interval(first, abnormal)
    assert (interval.low, interval.high) == pytest.approx(ci_first)
    assert tuple(delong_interval(second, abnormal)[1:3]) == pytest.approx(ci_second)


def test_interval_of_the_difference_agrees_with_z() -> None:
    test = delong_test(*films(0, ties=False))
    assert test.difference == pytest.approx(test.first - test.second)
    assert (test.low > 0) == (test.p_value < 0.05)
    half = (test.high - test.low) / 2
    assert test.difference / half * 1.959964 == pytest.approx(test.z)


def test_scores_in_the_same_order_do_not_differ() -> None:
    first, _, abnormal = films(1, ties=False)
    test = delong_test(first, np.exp(first), abnormal)
    assert (test.difference, test.z, test.p_value) == (0, 0, 1)


def test_perfect_against_perfectly_wrong_is_certain() -> None:
    abnormal = np.arange(20) >= 10
    test = delong_test(np.arange(20.0), -np.arange(20.0), abnormal)
    assert test.difference == 1
    assert test.p_value == 0


def test_a_single_abnormal_film_has_no_variance() -> None:
    abnormal = np.arange(10) == 9
    interval = delong_interval(np.arange(10.0), abnormal)
    assert interval.value == 1
    assert np.isnan(interval.low)
    assert np.isnan(delong_test(np.arange(10.0), -np.arange(10.0), abnormal).p_value)
