"""How well a record fits a film: mutual information, with its sign turned, film by film."""

import math

import pytest
import torch
from torch import Tensor

from nofinding.functional.features.normative import record_columns
from nofinding.functional.features.record_fit import fit_record, misfit

D, RHO = 40, 0.9


def films(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Feature 0 is the first entry with correlation RHO; the second entry is in no feature."""
    chance = torch.Generator().manual_seed(seed)
    record = torch.randn(n, 2, generator=chance)
    x = torch.randn(n, D, generator=chance)
    x[:, 0] = RHO * record[:, 0] + (1 - RHO**2) ** 0.5 * x[:, 0]
    return x, record, torch.ones(n, 2, dtype=torch.bool)


def folds(n: int) -> Tensor:
    return torch.arange(n) % 5


def test_the_gain_is_the_mutual_information() -> None:
    x, record, known = films(2000, 0)
    by, evidence = fit_record(x, None, record, known, folds(2000))
    expected = -math.log(1 - RHO**2) / 2
    assert evidence.gain == pytest.approx(expected, abs=0.1) and evidence.pays
    assert 0 < evidence.error < 0.05
    new = misfit(by, *films(2000, 1))
    assert float(new.mean()) == pytest.approx(-expected, abs=0.1)


def test_another_patients_record_does_not_fit() -> None:
    x, record, known = films(400, 2)
    by, _ = fit_record(x, None, record, known, folds(400))
    x, record, known = films(300, 3)
    another = record.clone()
    another[:, 0] -= 2 * record[:, 0].sign()  # as usual a value as the patient's own
    own, others = misfit(by, x, record, known), misfit(by, x, another, known)
    assert float((others[:, None] > own).float().mean()) > 0.95
    # The entry that is in no feature changes nothing that matters.
    changed = record.clone()
    changed[:, 1] = record[:, 1].roll(1)
    assert float((misfit(by, x, changed, known) - own).abs().mean()) < 0.3


def test_a_record_that_films_say_nothing_of_does_not_pay() -> None:
    paying = 0
    for seed in range(10):
        x, record, known = films(200, 10 + seed)
        paying += fit_record(x, None, record[:, 1:], known[:, 1:], folds(200))[1].pays
    assert paying <= 1


def test_entries_that_are_not_known_are_marginalised() -> None:
    x, record, known = films(600, 4)
    chance = torch.Generator().manual_seed(5)
    some = torch.rand(600, 2, generator=chance) < 0.6
    by, evidence = fit_record(x, None, record, some, folds(600))
    assert evidence.pays
    nothing = torch.zeros_like(known)
    assert torch.equal(misfit(by, x, record + 9, nothing), torch.zeros(600))
    first = known.clone()
    first[:, 1] = False
    # What stands where nothing is known is not read.
    changed = record.clone()
    changed[:, 1] = 99.0
    assert torch.equal(misfit(by, x, record, first), misfit(by, x, changed, first))
    alone = misfit(by, x[3:4], record[3:4], some[3:4])
    assert torch.equal(alone, misfit(by, x, record, some)[3:4])


def test_a_direction_that_the_acquisition_moves_is_not_relied_on() -> None:
    x, record, known = films(400, 6)
    moved = torch.zeros(50, D)
    moved[:, 0] = 30.0
    _, plain = fit_record(x, None, record, known, folds(400))
    _, held_back = fit_record(x, moved, record, known, folds(400))
    assert held_back.gain < 0.2 * plain.gain


def test_a_category_is_an_indicator_for_each_value_but_the_first() -> None:
    record = torch.tensor([[0.5, 2.0, 1.0], [1.5, 0.0, 0.0]])
    known = torch.tensor([[True, True, False], [True, False, True]])
    columns, there = record_columns(record, known, [0, 3, 2])
    assert columns.tolist() == [[0.5, 0, 1, 1], [1.5, 0, 0, 0]]
    assert there.tolist() == [[True, True, True, False], [True, False, False, True]]
