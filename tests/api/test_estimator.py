"""The scikit-learn adapter keeps scikit-learn's promises."""

from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import nofinding as nf


@parametrize_with_checks([nf.AnomalyDetector()])  # type: ignore[untyped-decorator]
def test_it_passes_scikit_learn_s_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_it_finds_the_odd_rows() -> None:
    rng = np.random.default_rng(0)
    X = np.outer(rng.uniform(1, 2, 80), np.sin(np.arange(64) / 5)) + rng.normal(0, 0.01, (80, 64))
    output = nf.AnomalyDetector(contamination=0.1).fit(X)
    odd = X[:5] + rng.normal(0, 1, (5, 64))
    assert (output.predict(odd) == -1).all()
    assert output.score_samples(odd).max() < output.score_samples(X).min()
    assert (output.predict(X) == -1).mean() == pytest.approx(0.1, abs=0.02)


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(nf.UserError, match="method 'pcaa'"):
        nf.AnomalyDetector(method="pcaa").fit(np.eye(4))
