"""Another position, another detector: the chest stays the same."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nofinding.functional.noise import generators
from nofinding.functional.synthetic import acquisition
from nofinding.functional.synthetic.acquisition import (
    coarse,
    exposure,
    field,
    labels,
    place,
    placement,
    span,
)

SIDE = 64


@pytest.fixture
def films() -> Tensor:
    """A bright body with two darker lungs, of unequal size, within a black frame."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    body = ((x.abs() < 0.8) & (y.abs() < 0.9)).float() * 0.7
    for centre, wide in ((-0.4, 0.2), (0.4, 0.3)):
        body -= 0.4 * (((x - centre) / wide) ** 2 + (y / 0.6) ** 2 < 1).float()
    ripple = 0.04 * torch.sin(20 * x) * torch.cos(17 * y) * (body > 0)
    return (body + ripple).expand(16, 1, SIDE, SIDE).clone()


def rows(count: int = 16, seed: int = 0) -> list[torch.Generator]:
    return generators(seed, range(count))


def identity(count: int = 1) -> Tensor:
    return torch.eye(2, 3).expand(count, 2, 3)


@pytest.mark.parametrize("change", [exposure, labels])
def test_a_row_depends_on_its_own_generator_alone(films: Tensor, change) -> None:  # type: ignore[no-untyped-def]
    films = films * torch.linspace(0.5, 1.2, 16)[:, None, None, None]
    together = change(films, rows())
    assert torch.equal(change(films, rows()), together)
    for row in range(16):
        alone = change(films[row : row + 1], [rows()[row]])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
    assert not torch.equal(change(films, rows(seed=1)), together)


def test_placements_and_spans_belong_to_their_row_and_stay_in_range() -> None:
    together = placement(rows(400))
    assert torch.equal(placement([rows(400)[7]])[0], together[7])
    drawn = span(-0.3, 0.2, rows(400)).flatten()
    assert -0.3 <= drawn.min() < -0.28 and 0.18 < drawn.max() < 0.2
    mirrored = torch.linalg.det(together[:, :, :2]) < 0
    assert 160 < mirrored.sum() < 240  # half of 400
    # Undo the mirror; then a rotation, scaled.
    linear = together[:, :, :2].clone()
    linear[:, 0] *= torch.where(mirrored, -1, 1)[:, None]
    turn = torch.atan2(
        linear[:, 1, 0], linear[:, 1, 1] * (linear[:, 0, 0] / linear[:, 1, 1]).sqrt()
    )
    assert 5 < (turn.abs() * 180 / math.pi).max() < acquisition.TURN * 1.2
    low, high = acquisition.SCALE
    area = torch.linalg.det(linear).sqrt()
    assert low - 0.01 < area.min() < 0.92 and 1.06 < area.max() < high + 0.01
    assert 0.07 < together[:, :, 2].abs().max() <= acquisition.SHIFT


def test_place_moves_film_and_mask_alike(films: Tensor) -> None:
    lesion = torch.zeros_like(films)
    lesion[:, :, 20:30, 14:22] = 1
    where = placement(rows())
    moved = place(films * (1 - lesion) + 0.95 * lesion, where)
    mask = place(lesion, where)
    assert mask.sum() > 0 and not torch.equal(mask, lesion)
    whole = mask > 0.999
    assert whole.sum() > 16 * 40
    torch.testing.assert_close(moved[whole], torch.full_like(moved[whole], 0.95))


def test_place_by_hand(films: Tensor) -> None:
    film = films[:1]
    torch.testing.assert_close(place(film, identity()), film)
    mirrored = identity().clone()
    mirrored[:, 0, 0] = -1
    torch.testing.assert_close(place(film, mirrored), film.flip(-1))
    shifted = identity().clone()
    shifted[:, 0, 2] = 2 * 5 / SIDE  # the picture is read five pixels to the right
    changed = place(film + 0.1, shifted)
    torch.testing.assert_close(changed[..., :-5], film[..., 5:] + 0.1, rtol=0, atol=1e-5)
    assert (changed[..., -5:] == 0).all()  # from outside: black


def test_exposure_changes_greys_and_not_the_chest(films: Tensor) -> None:
    changed = exposure(films, rows())
    assert changed.shape == films.shape
    assert changed.min() >= 0 and changed.max() <= 1
    assert (changed[films <= acquisition.BLACK] == 0).all()  # black stays black
    assert (changed - films).abs().mean(dim=(1, 2, 3)).min() > 0.005
    # No row is like another, and each is still this chest.
    assert changed.std(dim=0).mean() > 0.03
    flat = torch.cat([films[:1], changed]).flatten(1)
    assert torch.corrcoef(flat)[0, 1:].min() > 0.85


@pytest.mark.parametrize(
    ("drawn", "curve"),
    [
        ({}, lambda film: film),
        ({(-acquisition.GAMMA, acquisition.GAMMA): math.log(2)}, lambda film: film**2),
        ({(0.7, 1.2): 0.8}, lambda film: 0.8 * film + 0.1),
        ({(-0.1, 0.1): 0.05}, lambda film: film + 0.05),
        ({(-0.5, 1.0): 1.0}, lambda film: 2 * film - coarse(film, SIDE // 3)),
    ],
    ids=["nothing", "gamma", "contrast", "brightness", "sharpening"],
)
def test_each_part_of_exposure_by_hand(
    films: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    drawn: dict[tuple[float, float], float],
    curve: Callable[[Tensor], Tensor],
) -> None:
    neutral = {(0.7, 1.2): 1.0} | drawn  # all others are nought
    monkeypatch.setattr(
        acquisition,
        "span",
        lambda low, high, rows: torch.full((len(rows), 1, 1, 1), neutral.get((low, high), 0.0)),
    )
    expected = curve(films).clamp(0, 1) * (films > acquisition.BLACK)
    torch.testing.assert_close(exposure(films, rows()), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("tenth", [6, 7, 8, 9])
def test_three_films_in_ten_are_of_lower_resolution(films: Tensor, tenth: int) -> None:
    draw = torch.full((16,), tenth / 10 + 0.05)
    draw[0] = 0.3
    result = acquisition._resolved(films, draw)
    assert torch.equal(result[0], films[0])
    if tenth == 6:
        assert torch.equal(result, films)
        return
    side = round(SIDE * acquisition.RESOLUTIONS[tenth - 7])
    detail = films[1:] - coarse(films[1:], side)
    lost = (result[1:] - coarse(result[1:], side)).square().mean() / detail.square().mean()
    assert lost < 0.6


def test_fields_are_smooth_and_of_about_unit_spread(films: Tensor) -> None:
    result = field(5, films, rows())
    assert result.shape == films.shape
    assert 0.5 < result.std() < 1.2
    assert result.diff(dim=-1).abs().mean() < 0.15 * result.std()
    finer = field(30, films, rows())
    assert finer.diff(dim=-1).abs().mean() > 3 * result.diff(dim=-1).abs().mean()


def test_coarse_keeps_means_and_drops_detail(films: Tensor) -> None:
    torch.testing.assert_close(coarse(films, SIDE), films)
    torch.testing.assert_close(coarse(torch.full_like(films, 0.3), 8), torch.full_like(films, 0.3))
    chequers = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2
    torch.testing.assert_close(
        coarse(chequers.float()[None, None], SIDE // 2), torch.full((1, 1, SIDE, SIDE), 0.5)
    )


def test_labels_are_small_bright_and_in_two_films_of_five(films: Tensor) -> None:
    many = torch.full((200, 1, SIDE, SIDE), 0.3)
    result = labels(many, rows(200))
    marked = (result != many).flatten(1)
    assert 40 < marked.any(1).sum() < 100  # some of the 80 are thinner than a pixel
    assert marked.sum(1).max() < 0.02 * SIDE**2
    assert result[result != many].min() >= 0.5 and result.max() <= 1
    # In an upper corner.
    _, _, y, x = (result != many).nonzero(as_tuple=True)
    assert y.max() < 0.3 * SIDE
    assert (x / SIDE - 0.5).abs().min() > 0.3
    assert torch.equal(labels(torch.zeros_like(many), rows(200)), torch.zeros_like(many))
