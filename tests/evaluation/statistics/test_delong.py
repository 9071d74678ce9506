import numpy as np
import pytest
from MLstatkit import Delong_test
from sklearn.metrics import roc_auc_score

from nofinding.evaluation.statistics.delong import delong, delong_interval, delong_test


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


def test_patients_with_one_film_each_are_delong() -> None:
    first, second, abnormal = films(3, ties=True)
    scores = np.stack([first, second])
    np.testing.assert_allclose(
        delong(scores, abnormal, np.arange(len(abnormal)))[1],
        delong(scores, abnormal)[1],
        atol=1e-15,
    )


def test_films_of_a_patient_count_as_obuchowski_has_it() -> None:
    """Obuchowski 1997, section 3, patient by patient."""
    first, second, abnormal = films(5, ties=True, n=90)
    patient = np.random.default_rng(0).integers(0, 35, size=90)
    scores = np.stack([first, second])
    areas, covariance = delong(scores, abnormal, patient)
    v10, v01 = [], []
    for score in scores:
        x, y = score[abnormal][:, None], score[~abnormal][None]
        psi = (x > y) + 0.5 * (x == y)
        v10.append(psi.mean(axis=1))
        v01.append(psi.mean(axis=0))
    ill, well = patient[abnormal], patient[~abnormal]
    m, n = len(ill), len(well)
    expected = np.zeros((2, 2))
    for r in range(2):
        for s in range(2):
            tx = [[(v10[k] - areas[k])[ill == i].sum() for i in set(patient)] for k in (r, s)]
            ty = [[(v01[k] - areas[k])[well == i].sum() for i in set(patient)] for k in (r, s)]
            a, b, c = len(set(ill)), len(set(well)), len(set(patient))
            s10 = a / ((a - 1) * m) * np.dot(*tx)
            s01 = b / ((b - 1) * n) * np.dot(*ty)
            s11 = c / (c - 1) * (np.dot(tx[0], ty[1]) + np.dot(tx[1], ty[0]))
            expected[r, s] = s10 / m + s01 / n + s11 / (m * n)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)


@pytest.mark.parametrize("icc", [0.0, 0.3, 0.6, 0.9])
def test_keeps_five_per_cent_with_several_films_a_patient(icc: float) -> None:
    """Two scores that are equally good; as if films were independent, 8 to 37 % are rejected."""
    rng = np.random.default_rng(round(10 * icc))
    trials, patients = 600, 60
    rejected = naive = 0
    for _ in range(trials):
        patient = np.repeat(np.arange(patients), rng.integers(1, 8, patients))
        abnormal = rng.random(len(patient)) < rng.beta(1, 1, patients)[patient]
        own = rng.normal(size=(3, patients))[:, patient]
        noise = np.sqrt(icc) * own + np.sqrt(1 - icc) * rng.normal(size=(3, len(patient)))
        first, second = abnormal + noise[0] + noise[1:]
        rejected += delong_test(first, second, abnormal, patient).p_value <= 0.05
        naive += delong_test(first, second, abnormal).p_value <= 0.05
    error = np.sqrt(0.05 * 0.95 / trials)
    assert abs(rejected / trials - 0.05) <= 3 * error
    assert icc == 0 or naive / trials > 0.05 + error
