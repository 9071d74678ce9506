"""Addressing of a memory, by hand."""

import math

import pytest
import torch

from nofinding.functional.features.memory import (
    address,
    enqueue,
    entropy,
    gumbel_shrink,
    hard_shrink,
    recall,
)


def test_hard_shrink_keeps_what_is_above_the_threshold_as_it_is() -> None:
    w = torch.tensor([[0.1, 0.2, 0.3, 0.4]], requires_grad=True)
    result = hard_shrink(w, 0.2)
    torch.testing.assert_close(result, torch.tensor([[0.0, 0.0, 0.3, 0.4]]))
    result.sum().backward()
    assert w.grad is not None
    torch.testing.assert_close(w.grad, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), atol=1e-4, rtol=0)


def test_weights_are_the_softmax_of_cosines_cut_and_normalised() -> None:
    memory = torch.tensor([[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    z = torch.tensor([[3.0, 0.0]])  # cosines 1, 0, -1, whatever the lengths
    e = [math.e, 1.0, 1 / math.e]
    soft = [x / sum(e) for x in e]  # 0.665, 0.245, 0.090
    torch.testing.assert_close(address(z, memory, 0.0), torch.tensor([soft]))
    torch.testing.assert_close(address(10 * z, memory, 0.0), torch.tensor([soft]))
    remaining = [soft[0] / (soft[0] + soft[1]), soft[1] / (soft[0] + soft[1]), 0.0]
    torch.testing.assert_close(address(z, memory, 0.2), torch.tensor([remaining]))
    assert address(z, memory, 0.9).abs().max() == 0  # nothing is remembered so well


def test_addressing_by_inner_products_heeds_how_long_a_code_is() -> None:
    z, memory = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert address(z, memory, 0.0).tolist() == [[0.5, 0.5]]  # one direction, so one cosine
    weights = address(z, memory, 0.0, "dot")
    torch.testing.assert_close(weights, torch.tensor([[2.0, 6.0]]).softmax(1))


def test_entropy_is_none_for_one_code_and_most_for_all() -> None:
    w = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    result = entropy(w)
    assert result[0] == pytest.approx(0, abs=1e-6)
    assert result[1] == pytest.approx(math.log(4), abs=1e-6)


def test_gumbel_shrinkage_keeps_the_largest_with_the_gradient_of_all() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 9, requires_grad=True)
    w = gumbel_shrink(logits, 3)
    soft = logits.softmax(1)
    indices = torch.zeros_like(soft).scatter(1, logits.topk(3, dim=1).indices, 1.0)
    torch.testing.assert_close(w, indices * soft / (indices * soft).sum(1, keepdim=True))
    assert ((w.abs() > 1e-6).sum(1) == 3).all()
    weights = torch.randn(6, 9)
    (result,) = torch.autograd.grad((w * weights).sum(), logits)
    (expected,) = torch.autograd.grad((soft * weights).sum(), logits)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gumbel_shrink(logits, 20), soft)


def test_each_place_recalls_from_its_own_memory() -> None:
    torch.manual_seed(0)
    x, codes = torch.randn(2, 3, 5), torch.randn(3, 7, 5)
    result = recall(x, codes, 2)
    for film in range(2):
        for place in range(3):
            w = gumbel_shrink(codes[place] @ x[film, place], 2)
            torch.testing.assert_close(result[film, place], w @ codes[place])
    codes[1] += 1
    changed = (recall(x, codes, 2) != result).any(-1)
    assert changed[:, 1].all() and not changed[:, [0, 2]].any()


def test_the_oldest_leave_the_queue() -> None:
    codes = torch.arange(8.0).reshape(2, 4, 1)  # two places, four slots
    calls = torch.tensor([[[10.0], [20.0]], [[11.0], [21.0]], [[12.0], [22.0]]])  # three films
    expected = torch.tensor([[10.0, 11, 12, 0], [20, 21, 22, 4]])
    assert torch.equal(enqueue(codes, calls)[..., 0], expected)
    many = torch.arange(6.0).reshape(6, 1, 1).expand(6, 2, 1)
    assert torch.equal(enqueue(codes, many)[0, :, 0], torch.arange(4.0))
