import numpy as np
import pytest
from scipy.stats import gamma

from nofinding.evaluation.statistics.tail import TAIL_LEAST, fit_tail


def test_covers_the_share_beyond() -> None:
    rng = np.random.default_rng(0)
    share, covered, medians = 1e-3, 0, []
    for _ in range(60):
        tail = fit_tail(gamma(3).rvs(200, random_state=rng))
        assert tail is not None
        result = tail(float(gamma(3).isf(share)))
        covered += result.low <= share <= result.high
        medians.append(result.p)
    assert covered >= 54
    assert 0.3 * share < np.median(medians) < 3 * share


def test_falls_as_the_score_rises() -> None:
    calibration = np.random.default_rng(1).normal(size=200)
    tail = fit_tail(calibration)
    assert tail is not None
    collected = [tail(score) for score in (3.0, 4.0, 6.0, 20.0)]
    assert [e.p for e in collected] == sorted((e.p for e in collected), reverse=True)
    assert all(0 <= e.low <= e.p <= e.high <= 1 for e in collected)
    assert "95 % interval" in str(collected[-1])


@pytest.mark.parametrize("calibration", [np.arange(TAIL_LEAST - 1.0), np.zeros(300)])
def test_says_nothing_where_too_few_films_or_values(calibration: np.ndarray) -> None:
    assert fit_tail(calibration) is None
