"""Equalisation takes the grey curve away, and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nofinding.functional.image.equalise import BLACK, equalise


@pytest.fixture
def films() -> Tensor:
    """Three noisy films with a black frame."""
    out = torch.rand(3, 1, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    out[..., :5] = 0
    out[..., -3:, :] = 0
    return out


def test_four_greys_by_hand() -> None:
    """Of six pixels that are not black, two are 0.2, one is 0.4 and three are 0.8."""
    film = torch.tensor([[0.0, 0.2, 0.2, 0.4], [0.01, 0.8, 0.8, 0.8]])[None, None]
    expected = torch.tensor([[0, 1, 1, 2.5], [0, 4.5, 4.5, 4.5]])[None, None] / 6
    torch.testing.assert_close(equalise(film), expected)


@pytest.mark.parametrize(
    "curve",
    [
        lambda x: x**0.5,
        lambda x: x**1.6,
        lambda x: 0.1 + 0.7 * x,  # another window
        lambda x: torch.sigmoid(9 * (x - 0.5)),
    ],
)
def test_a_rising_curve_of_greys_changes_nothing(
    films: Tensor, curve: Callable[[Tensor], Tensor]
) -> None:
    shown = films > 0
    changed = equalise(torch.where(shown, curve(films), 0.0))
    # The curve puts a grey into another bin; a bin holds less than 3 % of these pixels.
    torch.testing.assert_close(changed, equalise(films), rtol=0, atol=0.03)
    assert (films - torch.where(shown, curve(films), 0.0)).abs().max() > 0.09


def test_a_falling_curve_turns_it_over(films: Tensor) -> None:
    shown = films > 0
    changed = equalise(torch.where(shown, 1 - films, 0.0))
    expected = torch.where(shown, 1 - equalise(films), 0.0)
    torch.testing.assert_close(changed, expected, rtol=0, atol=0.03)


def test_black_stays_black_and_is_not_counted(films: Tensor) -> None:
    changed = equalise(films)
    assert (changed[films <= BLACK] == 0).all()
    assert (changed[films > BLACK] > 0).all()
    inside = changed[:, :, :-3, 5:]
    torch.testing.assert_close(inside, equalise(films[:, :, :-3, 5:]))
    # Ranks are spread evenly over [0, 1], whatever the black.
    torch.testing.assert_close(inside.mean(dim=(1, 2, 3)), torch.full((3,), 0.5))
    assert inside.min() < 0.02 and 0.98 < inside.max() <= 1


def test_a_black_film_stays_black_and_white_is_no_more_than_one() -> None:
    assert (equalise(torch.zeros(1, 1, 8, 8)) == 0).all()
    white = equalise(torch.ones(1, 1, 8, 8))
    assert (white == 0.5).all()  # one grey: half of the pixels are darker, half brighter


def test_a_film_does_not_depend_on_the_others(films: Tensor) -> None:
    films[1] *= 0.3
    films[2, ..., :15] = 0  # another number of pixels that count
    together = equalise(films)
    for row in range(3):
        assert torch.equal(equalise(films[row : row + 1])[0], together[row])
