"""Hilbert's curve is one: it fills the square, never jumps, and is made of smaller ones."""

from itertools import combinations

import pytest
import torch

from nofinding.functional.features.hilbert import directions, hilbert_curve, hilbert_order


def test_the_first_two_curves_are_as_hilbert_drew_them() -> None:
    assert hilbert_curve(0).tolist() == [[0, 0]]
    assert hilbert_curve(1).tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]
    # By hand: line by line, when each cell of the 4 x 4 square is reached.
    reached = torch.empty(16, dtype=torch.int64)
    reached[hilbert_order(4)] = torch.arange(16)
    assert reached.reshape(4, 4).tolist() == [
        [0, 1, 14, 15],
        [3, 2, 13, 12],
        [4, 7, 8, 11],
        [5, 6, 9, 10],
    ]


@pytest.mark.parametrize("level", [1, 2, 3, 5])
def test_every_cell_once_and_every_step_to_a_neighbour(level: int) -> None:
    curve = hilbert_curve(level)
    assert len({tuple(cell) for cell in curve.tolist()}) == 4**level == len(curve)
    assert (curve.min(), curve.max()) == (0, 2**level - 1)
    assert ((curve[1:] - curve[:-1]).abs().sum(1) == 1).all()
    assert curve[0].tolist() == [0, 0] and curve[-1].tolist() == [0, 2**level - 1]


@pytest.mark.parametrize("level", [2, 3, 4])
def test_each_quarter_of_the_walk_stays_in_a_quarter_of_the_square(level: int) -> None:
    """What makes it Hilbert's, at every scale: a walk line by line and back does not."""
    for depth in range(1, level):
        cell = hilbert_curve(level) // 2 ** (level - depth)
        for part in cell.chunk(4**depth):
            assert (part == part[0]).all()


@pytest.mark.parametrize("side", range(1, 18))
def test_any_side_visits_every_cell_once(side: int) -> None:
    assert sorted(hilbert_order(side).tolist()) == list(range(side * side))
    if side & (side - 1) == 0:
        row, column = hilbert_order(side) // side, hilbert_order(side) % side
        assert ((row.diff().abs() + column.diff().abs()) == 1).all()


@pytest.mark.parametrize("side", [2, 4, 6, 8, 16])
def test_eight_directions_all_different_four_of_them_backwards(side: int) -> None:
    ways = directions(side)
    assert ways.shape == (8, side * side)
    for a, b in combinations(ways, 2):
        assert not torch.equal(a, b)
    for there, back in zip(ways[:4], ways[4:], strict=True):
        assert torch.equal(there, back.flip(0))
    corners = {0, side - 1, side * side - side, side * side - 1}
    if side & (side - 1) == 0:  # each corner begins two of them
        assert sorted(ways[:, 0].tolist()) == sorted([*corners, *corners])
    assert torch.equal(directions(side, 4), ways[[0, 1, 4, 5]])
    assert torch.equal(directions(side, 2), ways[[0, 4]])


def test_a_scan_and_its_inverse_give_the_map_back() -> None:
    values = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).flatten()
    for order in directions(8):
        assert torch.equal(values[order][order.argsort()], values)


def test_what_is_not_allowed() -> None:
    with pytest.raises(ValueError, match="side 0: give 1 or more"):
        hilbert_order(0)
    with pytest.raises(ValueError, match="3 directions: give 2, 4 or 8"):
        directions(4, 3)
