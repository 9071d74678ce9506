import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from nofinding.evaluation.statistics.metrics import (
    METRICS,
    area_under_roc,
    average_precision,
    balanced_average_precision,
    count,
    precision_recall,
    rates,
    sensitivity_at,
    threshold_at,
)


def films(seed: int, *, ties: bool, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    abnormal = rng.random(n) < 0.3
    score = rng.normal(abnormal * 0.8)
    return (np.round(score, 0) if ties else score), abnormal


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_areas_are_those_of_scikit_learn(seed: int, ties: bool) -> None:
    score, abnormal = films(seed, ties=ties)
    counts = count(score, abnormal)
    assert area_under_roc(counts) == pytest.approx(roc_auc_score(abnormal, score), abs=1e-12)
    assert average_precision(counts) == pytest.approx(
        average_precision_score(abnormal, score), abs=1e-12
    )
    balance = np.where(abnormal, 1 / abnormal.sum(), 1 / (~abnormal).sum())
    assert balanced_average_precision(counts) == pytest.approx(
        average_precision_score(abnormal, score, sample_weight=balance), abs=1e-12
    )


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_learn(ties: bool) -> None:
    score, abnormal = films(1, ties=ties)
    false_positive, sensitivity, threshold = roc_curve(abnormal, score, drop_intermediate=False)
    counts = count(score, abnormal)
    np.testing.assert_allclose(rates(counts)[0], false_positive)
    np.testing.assert_allclose(rates(counts)[1], sensitivity)
    np.testing.assert_allclose(counts.threshold, threshold)
    precision, recall = precision_recall(counts)
    assert precision[0] == 1
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(abnormal.mean())


def test_weights_count_films_several_times() -> None:
    score, abnormal = films(2, ties=True)
    times = np.random.default_rng(0).integers(0, 4, size=(3, len(score)))
    counts = count(score, abnormal, times.astype(float))
    for draw, weight in enumerate(times):
        repeated = count(np.repeat(score, weight), np.repeat(abnormal, weight))
        for name, metric in METRICS.items():
            assert metric(counts)[draw] == pytest.approx(float(metric(repeated))), name


def test_sensitivity_is_at_a_real_threshold_of_enough_specificity() -> None:
    abnormal = np.array([False] * 10 + [True] * 4)
    score = np.array([*range(10), 8.5, 9.0, 9.5, 0.5])
    counts = count(score, abnormal)
    # exactly one of ten normal films (9) may be called at 90 %, none at 95 %
    assert sensitivity_at(counts, 0.90) == 0.75
    assert threshold_at(counts, 0.90) == 8.5
    assert sensitivity_at(counts, 0.95) == 0.25
    assert threshold_at(counts, 0.95) == 9.5


def test_a_tie_is_called_whole_or_not_at_all() -> None:
    counts = count(np.ones(4), np.array([True, False, True, False]))
    assert area_under_roc(counts) == 0.5
    assert average_precision(counts) == 0.5
    assert sensitivity_at(counts, 0.9) == 0


def test_a_balanced_set_has_the_same_two_precisions_and_prevalence_moves_only_one() -> None:
    score, abnormal = films(3, ties=False, n=400)
    rare = ~abnormal | (np.cumsum(abnormal) % 4 == 0)
    common, scarce = count(score, abnormal), count(score[rare], abnormal[rare])
    assert average_precision(scarce) < average_precision(common) - 0.1
    assert balanced_average_precision(scarce) == pytest.approx(
        balanced_average_precision(common), abs=0.06
    )


def test_one_class_has_no_metric() -> None:
    for abnormal in (np.zeros(5, dtype=bool), np.ones(5, dtype=bool)):
        counts = count(np.arange(5.0), abnormal)
        for name, metric in METRICS.items():
            assert np.isnan(metric(counts)), name
