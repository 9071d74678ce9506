"""Whether a faster way of running the network tells films apart as the reference does."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.methods.base.protocol import Detector
from nofinding.runtime import FlopCounter, Portable, Runtime

__all__ = ["FILMS", "LEAST", "Parity", "parity_of", "use_runtime"]

FILMS = 32  # scored both ways
FEWEST = 8  # a rank correlation of fewer says nothing
LEAST = 0.99  # below it, the p-value of the one is not that of the other
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The first films of a run, scored by the reference runtime too."""

    films: int
    spearman: float
    """Rank correlation of the scores; NaN where it is not defined."""
    largest_difference: float
    """Of the scores, relative to the largest of the reference."""
    gflop: float
    """Of one film, counted on the reference; other engines cannot be looked into."""

    @property
    def holds(self) -> bool:
        """Whether p-values of the reference may be given to the other's scores."""
        return self.films >= FEWEST and bool(self.spearman >= LEAST)

    @property
    def why_not(self) -> str:
        """One line for the reader of a score without a p-value; "" where parity holds."""
        if self.holds:
            return ""
        if self.films < FEWEST:
            return f"precision or runtime differ, and {self.films} films are too few to compare"
        return f"precision or runtime differ, and rank films differently ({self.spearman:.3f})"

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        spearman = self.spearman if np.isfinite(self.spearman) else None
        return {
            "reference": "float32, torch",
            "films": self.films,
            "spearman": spearman,
            "largest_relative_difference": self.largest_difference,
            "holds": self.holds,
        }


def use_runtime(detector: Detector, runtime: Runtime) -> None:
    """Has the detector run its networks so. Raises UserError where it has no way to."""
    if isinstance(detector, Portable):
        detector.runtime = runtime
    elif not runtime.is_reference:
        raise UserError(
            f"--precision {runtime.precision} --runtime {runtime.engine}: {detector.name} is "
            "always run in float32 by torch"
        )


def parity_of(detector: Detector, films: Films, runtime: Runtime, seed: int) -> Parity:
    """Scores the first films by the reference and by `runtime`, which the detector then keeps."""
    n = min(len(films), FILMS)
    use_runtime(detector, Runtime())
    with FlopCounter() as counter:
        reference = [_scores(detector, films, range(1), seed)]
    if n > 1:
        reference.append(_scores(detector, films, range(1, n), seed))
    expected = np.concatenate(reference)
    use_runtime(detector, runtime)
    scores = _scores(detector, films, range(n), seed)
    return Parity(
        films=n,
        spearman=rank_correlation(scores, expected),
        largest_difference=float(
            np.abs(scores - expected).max() / max(np.abs(expected).max(), 1e-30)
        ),
        gflop=counter.get_total_flops() / 1e9,
    )


def rank_correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Spearman's, by average ranks; NaN where one of them is constant."""
    from scipy.stats import spearmanr

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def _scores(detector: Detector, films: Films, rows: range, seed: int) -> Float[np.ndarray, " n"]:
    parts = [
        detector.score(films.batch(rows[i : i + BATCH]), seed=seed).score
        for i in range(0, len(rows), BATCH)
    ]
    return torch.cat(parts).double().cpu().numpy()
