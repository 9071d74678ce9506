"""The drift test on points made up by the dozen."""

import numpy as np
import pytest
import torch

from nofinding.gate.drift import Coordinates, Drift, distances, drift
from nofinding.gate.feature_extractor import Look


def cloud(n: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Points and scores; the score is the distance from 0 and some noise."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 6)) + shift
    return points, np.linalg.norm(points, axis=1) + rng.normal(size=n)


def test_alike_films_are_called_no_more_often_than_promised() -> None:
    p = np.array(
        [drift(*cloud(40, 2 * s), *cloud(40, 2 * s + 1), seed=s, draws=39).p for s in range(100)]
    )
    assert 0.4 < p.mean() < 0.6
    assert (p <= 0.1).sum() <= 20  # 10 expected of 100; 20 has a chance of 1 in 500


def test_another_site_is_found() -> None:
    drifted = drift(*cloud(60, 1), *cloud(30, 2, shift=1.0), draws=199)
    assert drifted.p == 1 / 200 and drifted.effect > 0.1 and drifted.alarming
    assert (drifted.n, drifted.n_reference) == (30, 60)
    assert "unlike those it was fitted on (drift p = 0.005" in (drifted.line() or "")


def test_disease_in_the_half_that_scores_high_is_not_looked_at() -> None:
    """A third of the films lie elsewhere, and score higher than every normal one."""
    normal, score = cloud(100, 3)
    points, scores = cloud(67, 4)
    sick, _ = cloud(33, 5, shift=6.0)
    mixed = np.concatenate([points, sick])
    blind = drift(normal, np.zeros(100), mixed, np.random.default_rng(0).random(100), draws=199)
    seeing = drift(normal, score, mixed, np.concatenate([scores, np.full(33, 99.0)]), draws=199)
    assert blind.alarming
    assert not seeing.alarming and seeing.line() != blind.line()


def test_a_small_difference_is_told_from_a_site() -> None:
    assert Drift(0.001, 0.04, 50, 50).line() == (
        "these films differ somewhat from those it was fitted on (drift p = 0.001, effect 0.04), "
        "as films with much disease do"
    )
    assert Drift(0.2, 0.3, 50, 50).line() is None


def test_distances_by_hand() -> None:
    result = distances(np.array([[0.0, 0.0], [3.0, 4.0]]))
    assert result == pytest.approx(np.array([[0, 5], [5, 0]]))


def test_coordinates_have_unit_spread_on_the_films_they_come_from() -> None:
    rng = torch.Generator().manual_seed(0)
    pooled = torch.randn(50, 20, generator=rng) * torch.linspace(1, 9, 20)
    features = Look(torch.zeros(50, 1), pooled, torch.rand(50, 4, generator=rng), torch.ones(50))
    points = Coordinates.of(features)(features)
    assert points.shape == (50, 12)
    assert points.mean(0) == pytest.approx(np.zeros(12), abs=1e-4)
    assert points.std(0, ddof=0) == pytest.approx(np.ones(12), rel=0.02)
