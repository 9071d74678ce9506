"""Painted lesions are attenuation, lie where their mask says, and follow from their generator."""

import pytest
import torch
from torch import Tensor

from nofinding.functional.image.draws import Draws
from nofinding.functional.image.lesions import LESIONS, Chest, chest, paint_lesions, side_of
from nofinding.functional.image.lookalikes import LOOKALIKES, paint_lookalikes, reprocessed
from nofinding.functional.noise import gaussian, generators

SIDE = 112


def film_and_lung(count: int = 1) -> tuple[Tensor, Tensor]:
    """Bright chests with two dark lungs, black at the rim; and the lungs."""
    y, x = torch.linspace(-1, 1, SIDE)[:, None], torch.linspace(-1, 1, SIDE)[None]
    lung = sum(
        torch.sigmoid(12 * (1 - ((x - at) / 0.32) ** 2 - (y / 0.7) ** 2)) for at in (-0.42, 0.42)
    )
    assert isinstance(lung, Tensor)
    film = (0.75 - 0.45 * lung).expand(count, 1, -1, -1).clone()
    film = film + 0.01 * gaussian((1, SIDE, SIDE), generators(9, range(count)))
    film[..., :4] = 0
    return film, lung.expand(count, 1, -1, -1)


def one(family: str, seed: int) -> tuple[Chest, Tensor, Tensor]:
    film, lung = film_and_lung()
    draws = Draws(generators(seed, [family])[0])
    before = chest(film[0, 0], lung[0, 0], draws)
    after = LESIONS[family](before, draws)
    return before, after.film, after.mask


@pytest.mark.parametrize("family", [name for name in LESIONS if name != "heart"])
def test_a_film_changes_where_its_mask_is_more_than_elsewhere(family: str) -> None:
    shown = 0
    for seed in range(8):
        before, film, mask = one(family, seed)
        assert film.min() >= 0 and film.max() <= 1 and set(mask.unique().tolist()) <= {0.0, 1.0}
        if mask.sum() < 4:
            continue
        change = (film - before.film).abs()
        assert change[mask > 0].mean() > 3 * change[mask == 0].mean()
        shown += 1
    assert shown >= 5


def test_nodules_add_and_never_take_away_and_lie_in_the_lungs() -> None:
    for seed in range(12):
        before, film, mask = one("nodule", seed)
        assert (film >= before.film - 1e-6).all()
        centre = (mask * before.lung).sum() / mask.sum().clamp_min(1)
        assert mask.sum() == 0 or centre > 0.4


def test_what_lies_beneath_stays_visible_through_a_lesion() -> None:
    film, lung = film_and_lung()
    ribs = film.clone()
    ribs[..., ::8, :] += 0.05
    for family in ("nodule", "interstitial"):
        both = []
        for ground in (film, ribs):
            draws = Draws(generators(2, [family])[0])
            on = chest(ground[0, 0], lung[0, 0], draws)
            on = Chest(ground[0, 0], lung[0, 0], 0.4, 0.8, 0.0)
            both.append(LESIONS[family](on, draws).film)
        torch.testing.assert_close(both[1] - both[0], (ribs - film)[0, 0], atol=2e-3, rtol=0)


def test_a_bright_place_gets_less_of_the_same_attenuation() -> None:
    film = torch.tensor([[0.2, 0.8]])
    on = Chest(film, torch.ones_like(film), 0.4, 0.8, 0.7)
    more = on.added(torch.full_like(film, 0.2)) - film
    assert more[0, 0] > 2 * more[0, 1] > 0


def test_air_is_darker_and_fluid_lies_below() -> None:
    for seed in range(6):
        before, film, mask = one("pneumothorax", seed)
        if mask.sum() > 20:
            assert (film - before.film)[mask > 0].median() < 0
        before, film, mask = one("effusion", seed)
        if mask.sum() > 20:
            rows = torch.arange(SIDE)[:, None]
            assert (rows * mask).sum() / mask.sum() > (rows * before.lung).sum() / before.lung.sum()


def test_each_lung_has_its_side() -> None:
    lung = film_and_lung()[1][0, 0]
    left, right = side_of(lung, True), side_of(lung, False)
    assert torch.equal(left + right, torch.ones_like(lung))
    assert (lung * left).sum() == pytest.approx(float((lung * right).sum()), rel=0.05)


def test_a_film_is_painted_the_same_whatever_stands_beside_it() -> None:
    film, lung = film_and_lung(4)
    films, masks = paint_lesions(film, lung, generators(1, range(4)))
    alone, mask = paint_lesions(film[2:3], lung[2:3], generators(1, [2]))
    assert torch.equal(films[2:3], alone) and torch.equal(masks[2:3], mask)
    assert masks.shape == (4, len(LESIONS), SIDE, SIDE)


def test_only_the_families_asked_for_and_black_stays_black() -> None:
    film, lung = film_and_lung(24)
    films, masks = paint_lesions(film, lung, generators(1, range(24)), ("nodule", "device"))
    shown = dict(zip(LESIONS, masks.amax(dim=(0, 2, 3)).tolist(), strict=True))
    assert {name for name, value in shown.items() if value} == {"nodule", "device"}
    assert (films[..., :4] == 0).all() and (masks[..., :4] == 0).all()
    clean = masks.amax(dim=(1, 2, 3)) == 0
    assert 1 < clean.sum() < 16
    assert torch.equal(films[clean], film[clean])


def test_look_alikes_are_painted_by_their_share_and_have_no_mask() -> None:
    film, lung = film_and_lung(16)
    assert torch.equal(paint_lookalikes(film, lung, generators(0, range(16)), 0.0), film)
    painted = paint_lookalikes(film, lung, generators(0, range(16)), 0.1)
    changed = ((painted - film).abs().amax(dim=(1, 2, 3)) > 1e-4).sum()
    assert 4 <= changed <= 14  # 1 - 0.9 ** 7 of 16 are 8
    assert (painted[..., :4] == 0).all()


@pytest.mark.parametrize("name", LOOKALIKES)
def test_each_look_alike_changes_a_film_a_little(name: str) -> None:
    film, lung = film_and_lung()
    changes = []
    for seed in range(6):
        draws = Draws(generators(seed, [name])[0])
        after = LOOKALIKES[name](chest(film[0, 0], lung[0, 0], draws), draws)
        changes.append(float((after - film[0, 0]).abs().max()))
    assert max(changes) > 0.01


def test_another_hospitals_film_keeps_what_is_where() -> None:
    film, lung = film_and_lung(40)
    again = reprocessed(film, lung, generators(3, range(40)))
    assert again.min() >= 0 and again.max() <= 1
    whole = ((again == 0).float().mean(dim=(1, 2, 3)) < 0.02).nonzero().flatten().tolist()
    assert 24 <= len(whole) < 40  # the others are collimated, or show the lungs alone
    for row in whole:
        dark, bright = again[row][lung[row] > 0.9], again[row][lung[row] < 0.1]
        assert dark.mean() < bright.mean()
