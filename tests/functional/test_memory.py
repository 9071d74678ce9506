"""Addressing of a memory, by hand."""

import math

import pytest
import torch

from nofinding.functional.memory import address, entropy, hard_shrink


def test_hard_shrink_keeps_what_is_above_the_threshold_as_it_is() -> None:
    w = torch.tensor([[0.1, 0.2, 0.3, 0.4]], requires_grad=True)
    found = hard_shrink(w, 0.2)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 0.3, 0.4]]))
    found.sum().backward()
    assert w.grad is not None
    torch.testing.assert_close(w.grad, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), atol=1e-4, rtol=0)


def test_weights_are_the_softmax_of_cosines_cut_and_normalised() -> None:
    memory = torch.tensor([[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    z = torch.tensor([[3.0, 0.0]])  # cosines 1, 0, -1, whatever the lengths
    e = [math.e, 1.0, 1 / math.e]
    soft = [x / sum(e) for x in e]  # 0.665, 0.245, 0.090
    torch.testing.assert_close(address(z, memory, 0.0), torch.tensor([soft]))
    torch.testing.assert_close(address(10 * z, memory, 0.0), torch.tensor([soft]))
    kept = [soft[0] / (soft[0] + soft[1]), soft[1] / (soft[0] + soft[1]), 0.0]
    torch.testing.assert_close(address(z, memory, 0.2), torch.tensor([kept]))
    assert address(z, memory, 0.9).abs().max() == 0  # nothing is remembered so well


def test_entropy_is_none_for_one_code_and_most_for_all() -> None:
    w = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    found = entropy(w)
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[1] == pytest.approx(math.log(4), abs=1e-6)
