import numpy as np
import pytest
from scipy.stats import norm

from nofinding.evaluation.statistics.area_interval import auroc_interval
from nofinding.evaluation.statistics.intervals import measure


@pytest.mark.parametrize(("films", "area"), [(40, 0.97), (40, 0.8), (100, 0.9)])
def test_covers_as_often_as_it_says(films: int, area: float) -> None:
    """The percentile bootstrap covers 0.83 at 40 films and 0.97."""
    rng = np.random.default_rng(films)
    abnormal = np.arange(films) % 2 == 0
    lift = np.sqrt(2) * norm.ppf(area)
    covered = 0
    for _ in range(600):
        score = rng.normal(size=films) + lift * abnormal
        result = auroc_interval(score[None], abnormal, np.arange(films))
        covered += result.low <= area <= result.high
    assert covered / 600 >= 0.93


def test_films_that_separate_wholly_still_have_an_interval() -> None:
    abnormal = np.arange(40) >= 20
    result = auroc_interval(np.arange(40.0)[None], abnormal, np.arange(40))
    assert result.value == result.high == 1
    assert 0.7 < result.low < 0.95
    turned = auroc_interval(-np.arange(40.0)[None], abnormal, np.arange(40))
    assert (turned.low, turned.high) == pytest.approx((1 - result.high, 1 - result.low))


def test_is_what_the_tables_show() -> None:
    rng = np.random.default_rng(0)
    abnormal = np.arange(60) % 3 == 0
    score, patient = rng.normal(size=60) + abnormal, np.arange(60) // 2
    shown = measure(score, abnormal, patient, draws=20)["auroc"]
    result = auroc_interval(score[None], abnormal, patient)
    assert (shown.low, shown.high) == (result.low, result.high)
    assert result.low < shown.value < result.high
    assert np.isnan(measure(score, abnormal, patient, draws=0)["auroc"].low)


def test_two_films_of_each_patient_say_less_than_as_many_patients() -> None:
    rng = np.random.default_rng(0)
    abnormal = np.repeat(np.arange(40) % 2 == 0, 2)
    score = np.repeat(rng.normal(size=40), 2) + abnormal
    alone, clustered = (
        auroc_interval(score[None], abnormal, p) for p in (np.arange(80), np.arange(80) // 2)
    )
    assert clustered.high - clustered.low > 1.2 * (alone.high - alone.low)
