"""Any method as a scikit-learn outlier detector, over rows of pixels."""

import math
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from nofinding.api import listing
from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.methods import METHODS
from nofinding.scoring.exams import ArrayPixels
from nofinding.training import TrainingRun
from nofinding.types import Exam

__all__ = ["AnomalyDetector"]

BATCH = 64  # rows scored at once


class AnomalyDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Learns from normal films alone, and says which others are unlike them.

    A row of X is a film: its pixels, or any features, at least one of them. Each feature is scaled
    by the range that it has in the rows that were learnt from; the row is then laid on a square.
    As everywhere in scikit-learn, a *lower* score is more abnormal, and `predict` gives -1 for
    outliers. For films from files, with a record and calibrated p-values, use `load` and `fit`.

    Parameters are those of `fit`: `method`, `preset` and `seed`; `contamination` is the share of
    the training rows that `predict` calls outliers, above 0, at most 0.5.
    """

    def __init__(
        self,
        method: str = "thumbnail",
        preset: str = "small",
        contamination: float = 0.05,
        random_state: int | None = 0,
    ) -> None:
        self.method = method
        self.preset = preset
        self.contamination = contamination
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learns from these rows, (n, p). `y` is not looked at. Raises ValueError for rows that are
        no numbers, and UserError for an unknown method or preset."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination {self.contamination}: give above 0, up to 0.5")
        self.low_, high = X.min(axis=0), X.max(axis=0)
        span = high - self.low_
        self.span_ = np.where(span > 0, span, 1.0)
        config = listing()[self.method].configure(self.preset)
        stats = EhrStats.of([], [])
        self.detector_ = METHODS[self.method](config, stats)
        seed = 0 if self.random_state is None else int(self.random_state)
        self.detector_.fit(
            self._films(X), seed=seed, job=TrainingRun(progress=False, accelerator="cpu")
        )
        self.offset_ = float(np.quantile(self.score_samples(X), self.contamination))
        return self

    def _films(self, X: Float[np.ndarray, "n p"]) -> Films:
        share = np.clip((X - self.low_) / self.span_, -1, 2)
        share = (share + 1) / 3  # room on either side for what lies outside the training range
        side = math.ceil(math.sqrt(X.shape[1]))
        squares = np.zeros((len(X), side * side), dtype=np.float32)
        squares[:, : X.shape[1]] = share
        exams = [
            Exam(
                image_id=f"row-{i}",
                patient_id=f"row-{i}",
                pixels=ArrayPixels(square.reshape(side, side)),
                ehr={},
            )
            for i, square in enumerate(squares)
        ]
        return Films(exams, self.detector_.stats, self.detector_.image_size)

    def score_samples(self, X: Any) -> Float[np.ndarray, " n"]:
        """How normal each row is: the method's score, sign turned. Higher is more normal."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        films = self._films(X)
        scores = [
            self.detector_.score(films.batch(range(at, min(at + BATCH, len(films))))).score.double()
            for at in range(0, len(films), BATCH)
        ]
        return -np.concatenate([score.numpy() for score in scores])

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """`score_samples` above the threshold that `contamination` sets: below 0 is an outlier."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Int[np.ndarray, " n"]:
        """1 for rows like those that were learnt from, -1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)
