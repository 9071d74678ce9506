"""A detector at another hospital: its statistics move there, its p-values keep their promise."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from nofinding.evaluation.statistics.conformal import p_values
from nofinding.functional.features.gaussian import fit_gaussian
from nofinding.methods.base.protocol import Adaptable
from nofinding.methods.diff3m.feature_space.detector import Diff3MF
from nofinding.methods.frozen_features.adapting import OfGaussians, adapted, adapted_scores

D = 30


class Toy(OfGaussians):
    """Two components: a distance, and a number as it is."""

    def __init__(self) -> None:
        x = films(2000, 0)
        self.parts = ["texture", "evidence"]
        self.gaussians = {"texture": fit_gaussian(x["texture"])}
        self.scale = {}
        for name, values in self.components_of(x).items():
            self.scale |= {f"{name}.mean": values.mean(), f"{name}.spread": values.std()}

    def _standard(self, name: str, values: Tensor) -> Tensor:
        return (values - self.scale[f"{name}.mean"]) / self.scale[f"{name}.spread"]

    def _as_one(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([*parts.values()]).mean(0)

    def judged(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.score_of(self.components_of(features))


def films(n: int, seed: int, *, away: float = 0.0, sick: float = 0.0) -> dict[str, Tensor]:
    """Features of a site that is `away`, and of films that are `sick`."""
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=chance)
    x[:, :10] += away
    x[:, 20:] += sick
    evidence = torch.randn(n, generator=chance) + 0.5 * away + sick
    return {"texture": x, "evidence": evidence}


def together(*parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="module")
def elsewhere(toy: Toy) -> Tensor:
    return toy.judged(films(300, 1))


def rate(detector: Toy, calibration: np.ndarray, seed: int, away: float) -> float:
    new = detector.judged(films(1000, seed, away=away)).double().numpy()
    return float((p_values(new, calibration) <= 0.05).mean())


def test_the_default_method_is_adaptable(toy: Toy) -> None:
    assert isinstance(toy, Adaptable) and issubclass(Diff3MF, OfGaussians)


def test_local_normal_films_keep_the_promise_there(toy: Toy, elsewhere: Tensor) -> None:
    assert rate(toy, elsewhere.double().numpy(), 2, away=2) > 0.5
    rates = []
    for seed in range(12):
        local = films(100, 1000 + seed, away=2)
        moved = adapted(toy, local, elsewhere, abnormal_at_most=0)
        assert isinstance(moved.detector, Toy)
        rates.append(rate(moved.detector, moved.scores.double().numpy(), 200 + seed, away=2))
    assert 0.01 <= np.mean(rates) <= 0.07


@pytest.mark.parametrize("sick", [0, 30, 60])
def test_unlabelled_films_keep_it_within_a_tenth(toy: Toy, elsewhere: Tensor, sick: int) -> None:
    rates = []
    for seed in range(4):
        local = films(100 - sick, 300 + seed, away=2)
        if sick:
            local = together(local, films(sick, 400 + seed, away=2, sick=0.8))
        moved = adapted(toy, local, elsewhere, abnormal_at_most=0.6)
        assert isinstance(moved.detector, Toy)
        rates.append(rate(moved.detector, moved.normal.quantiles.numpy(), 500 + seed, away=2))
    assert np.mean(rates) <= 0.1


def test_disease_still_stands_out_after_adapting(toy: Toy, elsewhere: Tensor) -> None:
    moved = adapted(toy, films(100, 5, away=2), elsewhere, abnormal_at_most=0).detector
    assert isinstance(moved, Toy)
    normal, sick = (moved.judged(films(300, 6, away=2, sick=s)) for s in (0.0, 0.8))
    assert float((sick[:, None] > normal).float().mean()) > 0.7


def test_a_film_is_scored_by_what_was_adapted_without_it(toy: Toy, elsewhere: Tensor) -> None:
    """Otherwise a film that stands alone would draw the statistics towards itself."""
    local = films(40, 7, away=2)
    local["texture"][0, 15] += 40
    result = adapted(toy, local, elsewhere, abnormal_at_most=0)
    assert isinstance(result.detector, Toy)
    met = result.detector.components_of(local)["texture"][0]
    not_met = result.scores[0] * 2 - result.detector._standard("evidence", local["evidence"])[0]
    mean, spread = result.detector.scales()["texture"]
    assert float(not_met) * spread + mean > float(met) + 0.3


def test_the_detector_that_was_given_is_left_as_it_is(toy: Toy, elsewhere: Tensor) -> None:
    x = films(10, 8)
    before = toy.judged(x)
    adapted(toy, films(50, 9, away=3), elsewhere, abnormal_at_most=0)
    assert torch.equal(toy.judged(x), before)


def test_other_methods_get_new_p_values_alone(elsewhere: Tensor) -> None:
    local = elsewhere[:100] * 1.2 + 3
    scores = adapted_scores(object(), local, elsewhere, abnormal_at_most=0)  # type: ignore[arg-type]
    assert not scores.features and torch.equal(scores.scores, local)
    new = elsewhere[100:].double().numpy() * 1.2 + 3
    assert (p_values(new, scores.normal.quantiles.numpy()) <= 0.05).mean() <= 0.08
