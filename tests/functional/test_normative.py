"""Features given the record: what it explains goes, what is missing is marginalised."""

import pytest
import torch
from torch import Tensor

from nofinding.functional.features.normative import expected, explained, fit_normative, residual


def films(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Feature 0 is 2 x first entry + noise, feature 1 none of it; entry 2 follows entry 0."""
    chance = torch.Generator().manual_seed(seed)
    record = torch.randn(n, 3, generator=chance)
    record[:, 2] = 0.8 * record[:, 0] + 0.6 * record[:, 2]
    x = torch.randn(n, 2, generator=chance) + 5
    x[:, 0] += 2 * record[:, 0]
    return x, record, torch.rand(n, 3, generator=chance) < 0.8


def test_what_the_record_explains_goes() -> None:
    by = fit_normative(*films(4000, 0))
    x, record, _ = films(2000, 1)
    known = torch.ones_like(record, dtype=torch.bool)
    share = explained(by, x, record, known)
    assert float(share[0]) == pytest.approx(0.8, abs=0.04) and abs(float(share[1])) < 0.02
    left = residual(by, x, record, known)
    assert float(left[:, 0].std()) == pytest.approx(1, abs=0.07)
    assert torch.allclose(left.mean(0), x.mean(0), atol=0.15)


def test_a_missing_entry_is_marginalised() -> None:
    """The third entry tells of the first: E[2 r0 | r2] = 1.6 r2."""
    by = fit_normative(*films(8000, 2))
    record = torch.tensor([[99.0, 99.0, 1.0]])
    only = torch.tensor([[False, False, True]])
    result = expected(by, record, only)[0, 0] - expected(by, record * 0, only)[0, 0]
    assert float(result) == pytest.approx(1.6, abs=0.12)


def test_without_a_record_the_mean_is_expected() -> None:
    by = fit_normative(*films(200, 3))
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.allclose(expected(by, torch.full((2, 3), 7.0), nothing), by.mean.expand(2, -1))


def test_an_entry_known_of_one_site_alone_does_not_stand_for_the_site() -> None:
    chance = torch.Generator().manual_seed(4)
    x = torch.randn(400, 1, generator=chance)
    x[:200] += 10  # the site whose films have the entry
    known = torch.zeros(400, 1, dtype=torch.bool)
    known[:200] = True
    by = fit_normative(x, torch.randn(400, 1, generator=chance) + 3, known)
    assert abs(float(by.cross[0, 0])) < 0.3


def test_an_entry_of_few_films_explains_little() -> None:
    x, record, _ = films(300, 5)
    known = torch.zeros_like(record, dtype=torch.bool)
    known[:3, 0] = True
    by = fit_normative(x, record, known)
    shown = torch.tensor([[2.0, 0, 0]])
    assert abs(float((expected(by, shown, shown != 0) - by.mean)[0, 0])) < 2.0
