"""The normal part of a mixture: where it lies, and that its promise survives abnormal films."""

import numpy as np
import pytest
import torch

from nofinding.functional.features.mixture import normal_part, shape_of

BELL = shape_of(torch.empty(0))


def films(rng: np.random.Generator, normal: int, abnormal: int, above: float) -> torch.Tensor:
    """Scores about 5 with a spread of 1.1, abnormal ones `above` higher."""
    sick = above + 1.3 * rng.standard_normal(abnormal)
    return torch.from_numpy(5 + 1.1 * np.concatenate([rng.standard_normal(normal), sick]))


def called(quantiles: torch.Tensor, rng: np.random.Generator) -> float:
    """Share of new normal films with p <= 0.05."""
    new = 5 + 1.1 * rng.standard_normal(4000)
    at_least = len(quantiles) - np.searchsorted(quantiles.numpy(), new, side="left")
    return float(((1 + at_least) / (1 + len(quantiles)) <= 0.05).mean())


def test_normal_films_alone_are_found_where_they_are() -> None:
    rng = np.random.default_rng(0)
    part = normal_part(films(rng, 200, 0, 0), BELL, 1.0, abnormal_at_most=0)
    assert part.place == pytest.approx(5, abs=0.2) and part.spread == pytest.approx(1.1, abs=0.12)
    assert part.share == 1 and bool((part.chance == 1).all())
    assert bool((part.quantiles.diff() >= 0).all())


@pytest.mark.parametrize(("abnormal", "above"), [(0, 0.0), (30, 1.0), (30, 3.0), (60, 2.0)])
def test_a_tenth_of_normal_films_at_most_is_called_whatever_the_mixture(
    abnormal: int, above: float
) -> None:
    rng = np.random.default_rng(abnormal)
    rates = []
    for _ in range(6):
        scores = films(rng, 100 - abnormal, abnormal, above)
        part = normal_part(scores, BELL, 1.0, abnormal_at_most=0.6)
        rates.append(called(part.quantiles, rng))
    assert np.mean(rates) <= 0.09
    assert np.mean(rates) >= 0.002


def test_clearly_abnormal_films_are_told_apart() -> None:
    part = normal_part(
        films(np.random.default_rng(1), 50, 50, 4.0), BELL, 1.0, abnormal_at_most=0.6
    )
    assert part.place == pytest.approx(5, abs=0.5)
    assert 0.4 <= part.share <= 0.75
    assert float(part.chance[:50].mean()) > 0.8 > 0.25 > float(part.chance[50:].mean())


def test_fewer_films_are_less_sure() -> None:
    rng = np.random.default_rng(2)
    few, many = (normal_part(films(rng, n, 0, 0), BELL, 1.1, abnormal_at_most=0) for n in (20, 400))

    def reach(part: object, level: float) -> float:
        q = part.quantiles.numpy()  # type: ignore[attr-defined]
        return float(np.interp(level, np.arange(1, len(q) + 1) / (len(q) + 1), q))

    width = [reach(p, 0.94) - reach(p, 0.06) for p in (few, many)]
    assert width[0] > width[1] * 0.95
    assert width[1] == pytest.approx(2 * 1.555 * 1.1, rel=0.12)


def test_the_shape_follows_skewed_scores() -> None:
    skewed = torch.from_numpy(np.random.default_rng(3).gamma(2.0, size=2000) - 2) / 2**0.5
    shape = shape_of(skewed)
    knots = torch.linspace(-8, 8, len(shape.below), dtype=torch.float64)
    above_two = 1 - float(np.interp(2.0, knots, shape.below))
    assert above_two == pytest.approx(float((skewed > 2).double().mean()), abs=0.012)
    step = float(knots[1] - knots[0])
    assert float(shape.log_density.exp().sum()) * step == pytest.approx(1, abs=0.01)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="two films"):
        normal_part(torch.zeros(1), BELL, 1.0, abnormal_at_most=0)
    with pytest.raises(ValueError, match="share"):
        normal_part(torch.zeros(5), BELL, 1.0, abnormal_at_most=1.0)
