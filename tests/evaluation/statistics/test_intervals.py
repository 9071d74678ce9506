import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from nofinding.evaluation.statistics import intervals
from nofinding.evaluation.statistics.intervals import bootstrap, difference, measure, patient_index
from nofinding.evaluation.statistics.metrics import METRICS


def films(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    abnormal = rng.random(n) < 0.4
    return rng.normal(abnormal * 1.0), abnormal


def test_interval_is_that_of_a_plain_bootstrap_of_patients() -> None:
    score, abnormal = films()
    patient = np.arange(len(score)) // 2
    measured = measure(score, abnormal, patient, draws=2000, seed=1)["ap"]
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(1500):
        patients = rng.integers(0, 100, size=100)
        taken = np.concatenate([[2 * p, 2 * p + 1] for p in patients])
        drawn.append(average_precision_score(abnormal[taken], score[taken]))
    assert measured.value == pytest.approx(average_precision_score(abnormal, score))
    assert measured.low == pytest.approx(np.percentile(drawn, 2.5), abs=0.01)
    assert measured.high == pytest.approx(np.percentile(drawn, 97.5), abs=0.01)


def test_patients_are_drawn_not_films() -> None:
    score, abnormal = films(40)
    copies = 6  # films of one patient that say the same thing
    once = measure(score, abnormal, np.arange(40))["auroc"]
    grouped = measure(
        np.repeat(score, copies), np.repeat(abnormal, copies), np.repeat(np.arange(40), copies)
    )["auroc"]
    as_films = measure(
        np.repeat(score, copies), np.repeat(abnormal, copies), np.arange(40 * copies)
    )["auroc"]
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low, rel=0.05)
    assert as_films.high - as_films.low < 0.6 * (grouped.high - grouped.low)


def test_95_percent_intervals_cover() -> None:
    # two normals one apart: AUROC is Phi(1 / sqrt 2) = 0.760
    covered = 0
    for seed in range(120):
        score, abnormal = films(150, seed)
        estimate = measure(score, abnormal, np.arange(150), draws=300, seed=seed)["auroc"]
        covered += estimate.low <= 0.7602 <= estimate.high
    assert 0.88 <= covered / 120 <= 0.99


def test_the_same_seed_gives_the_same_interval_also_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    score, abnormal = films()
    patient = np.arange(len(score))
    first = measure(score, abnormal, patient, draws=200, seed=4)
    assert measure(score, abnormal, patient, draws=200, seed=4) == first
    assert measure(score, abnormal, patient, draws=200, seed=5) != first
    monkeypatch.setattr(intervals, "CELLS", 7 * len(score))  # draws come in 29 parts
    assert measure(score, abnormal, patient, draws=200, seed=4) == first


def test_draws_of_one_class_are_left_out_and_counted() -> None:
    abnormal = np.array([True, *[False] * 9])
    estimate = measure(np.arange(10.0)[::-1], abnormal, np.arange(10), draws=1000)["auroc"]
    # the one abnormal patient is missing from (9/10)^10 = 35 % of the draws
    assert 600 <= estimate.draws <= 700
    # a percentile interval said 1 to 1: one abnormal patient says nothing of others
    assert np.isnan(estimate.low) and np.isnan(estimate.high)


def test_too_few_defined_draws_give_no_interval() -> None:
    mostly_nan = iter([np.zeros((1, 1)), np.where(np.arange(100) < 30, 1.0, np.nan)[:, None]])
    estimate = bootstrap(lambda weight: next(mostly_nan), np.arange(3), draws=100)[0]
    assert np.isnan(estimate.low)
    assert estimate.draws == 30


def test_no_draws_give_the_value_alone() -> None:
    score, abnormal = films()
    estimate = measure(score, abnormal, np.arange(len(score)), draws=0)["auroc"]
    assert estimate.value == pytest.approx(roc_auc_score(abnormal, score))
    assert np.isnan(estimate.low)


def test_paired_difference_is_narrower_than_an_unpaired_one() -> None:
    score, abnormal = films()
    patient = np.arange(len(score))
    other = score + np.random.default_rng(2).normal(0, 0.3, len(score))
    gap = difference(score, other, abnormal, patient)
    areas = [measure(s, abnormal, patient)["auroc"] for s in (score, other)]
    assert gap.value == pytest.approx(areas[0].value - areas[1].value)
    assert gap.high - gap.low < 0.5 * (areas[0].high - areas[0].low)
    same = difference(score, score * 3 + 1, abnormal, patient)
    assert same[:3] == (0, 0, 0)


def test_difference_takes_any_metric() -> None:
    score, abnormal = films()
    gap = difference(score, -score, abnormal, np.arange(len(score)), metric=METRICS["ap"], draws=50)
    assert gap.low > 0.2


def test_700_films_take_under_two_seconds() -> None:
    score, abnormal = films(700)
    start = time.process_time()
    measure(score, abnormal, np.arange(700) // 2)
    assert time.process_time() - start < 2


def test_patients_are_numbered_by_name() -> None:
    assert patient_index(["b", "a", "b", "10"]).tolist() == [2, 1, 2, 0]
