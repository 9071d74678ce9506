"""Perlin noise is 0 on its lattice, smooth between, and of one frequency."""

import math

import pytest
import torch

from nofinding.functional.noise import generators
from nofinding.functional.synthetic.perlin import fade, perlin

COUNT = 64


def noise(side: int, cells: int, count: int = COUNT) -> torch.Tensor:
    return perlin((side, side), (cells, cells), generators(0, range(count)))


@pytest.mark.parametrize(("down", "across"), [(4, 4), (2, 8), (16, 1)])
def test_zero_on_the_lattice_and_nowhere_else(down: int, across: int) -> None:
    drawn = perlin((64, 32), (down, across), generators(1, range(COUNT)))
    assert drawn.shape == (COUNT, 1, 64, 32)
    on = drawn[..., :: 64 // down, :: 32 // across]
    assert on.abs().max() < 1e-6
    assert (drawn.abs() < 1e-6).float().mean() < 1.5 * down * across / (64 * 32)


def test_range_and_mean() -> None:
    drawn = noise(64, 8)
    assert drawn.abs().max() <= 1
    assert drawn.abs().max() > 0.85  # the range is used
    assert drawn.mean().abs() < 0.01
    assert 0.2 < drawn.std() < 0.45


def test_fade_is_flat_to_the_second_derivative_at_both_ends() -> None:
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(fade(t).sum(), t, create_graph=True)[0]
    bend = torch.autograd.grad(slope.sum(), t)[0]
    assert torch.equal(fade(t), torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert slope.abs().max() == 0 and bend.abs().max() == 0
    assert float(fade(torch.tensor(0.5))) == 0.5


def test_smooth_across_the_lattice_lines() -> None:
    """Second differences are no larger where cells meet than inside them."""
    drawn = noise(256, 4)
    bend = (drawn[..., 2:] - 2 * drawn[..., 1:-1] + drawn[..., :-2]).abs()
    largest = bend.amax((0, 1, 2))
    seams = [64 * n - 1 for n in (1, 2, 3)]  # the lines, in an array that begins at pixel 1
    inside = torch.ones_like(largest, dtype=torch.bool)
    inside[[s + d for s in seams for d in (-1, 0, 1)]] = False
    assert largest[seams].max() < largest[inside].max()
    # A slope of sqrt(2) * unit a cell, a little more where the blend is steepest.
    assert drawn.diff(dim=-1).abs().max() * 64 < 4


@pytest.mark.parametrize("cells", [4, 8, 16])
def test_power_lies_about_the_frequency_of_the_lattice(cells: int) -> None:
    drawn = noise(128, cells)[:, 0]
    power = torch.fft.fft2(drawn).abs().square().mean(0)
    at = torch.fft.fftfreq(128) * 128
    radius = (at[:, None] ** 2 + at[None] ** 2).sqrt()
    total = power.sum()
    assert power[(radius > 0.25 * cells) & (radius < 1.25 * cells)].sum() > 0.8 * total
    assert power[radius < 1].sum() < 0.05 * total  # hardly any mean
    assert power[radius > 4 * cells].sum() < 0.01 * total


def test_value_in_the_middle_of_a_cell() -> None:
    """By hand: the mean of the four corners' vectors, each times its offset of half a cell."""
    (row,) = generators(3, [0])
    angle = 2 * math.pi * torch.rand((2, 2), generator=row)
    down, across = angle.sin(), angle.cos()
    offsets = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
    expected = math.sqrt(2) * (down * offsets + across * offsets.T).mean()
    drawn = perlin((2, 2), (1, 1), generators(3, [0]))
    assert float(drawn[0, 0, 1, 1]) == pytest.approx(float(expected), abs=1e-6)


def test_a_row_depends_on_its_own_generator_alone() -> None:
    together = noise(32, 4, 3)
    assert torch.equal(perlin((32, 32), (4, 4), generators(0, [1])), together[1:2])
    assert not torch.equal(together[0], together[1])
