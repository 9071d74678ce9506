"""Each kind of the suite shows, in the patient, where its mask says, and nowhere else."""

import pytest
import torch
from torch import Tensor

from nofinding.functional.noise import generators
from nofinding.functional.synthetic.acquisition import coarse
from nofinding.functional.synthetic.suite import LEAST, SUITE, VISIBLE, body, marked

SIDE, COUNT = 96, 12
KINDS = tuple(SUITE)


def rows(count: int = COUNT, seed: int = 0) -> list[torch.Generator]:
    return generators(seed, range(count))


def grid() -> tuple[Tensor, Tensor]:
    at = (torch.arange(SIDE) + 0.5) / SIDE
    return at[:, None].expand(SIDE, SIDE), at[None].expand(SIDE, SIDE)


def trunk() -> Tensor:
    y, x = grid()
    return ((x - 0.5).abs() < 0.4) & (y > 0.12)


def lungs() -> Tensor:
    y, x = grid()
    one, two = (((x - c) / 0.14) ** 2 + ((y - 0.48) / 0.28) ** 2 < 1 for c in (0.3, 0.7))
    return one | two


def chest(seed: int) -> Tensor:
    """A trunk in black air, with two dark, grainy lungs in it."""
    film = torch.where(trunk(), 0.7, 0.0)
    film = torch.where(lungs(), 0.15, film)
    grain = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    film = coarse(film[None, None], 48)[0, 0] + 0.04 * grain * trunk()
    return torch.where(trunk(), film.clamp(0.02, 1), 0.0)


@pytest.fixture(scope="module")
def films() -> Tensor:
    return torch.stack([chest(n) for n in range(COUNT)])[:, None]


@pytest.fixture(scope="module")
def others() -> Tensor:
    return torch.stack([chest(100 + n) for n in range(COUNT)])[:, None]


@pytest.fixture(scope="module")
def drawn(films: Tensor, others: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By kind, the changed films and their masks."""
    return {name: kind(films, rows(), others) for name, kind in SUITE.items()}


Drawn = dict[str, tuple[Tensor, Tensor]]


def test_the_suite_has_seven_kinds() -> None:
    assert KINDS == ("blend", "cutpaste", "perlin", "intensity", "deform", "nodule", "opacity")


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_where_the_film_changed(films: Tensor, drawn: Drawn, kind: str) -> None:
    assert torch.equal(films[0, 0], chest(0))  # left as it was
    result, mask = drawn[kind]
    assert result.shape == mask.shape == films.shape and mask.dtype == torch.bool
    assert result.min() >= 0 and result.max() <= 1
    assert torch.equal(result[~mask], films[~mask])  # to the last bit
    changed = (result - films).abs() > VISIBLE
    assert not (changed & ~mask).any()
    assert changed[mask].float().mean() > 0.75
    share = mask.float().mean((1, 2, 3))
    assert share.min() >= LEAST and share.max() < 0.35


@pytest.mark.parametrize("kind", KINDS)
def test_it_lies_on_the_patient(drawn: Drawn, kind: str) -> None:
    _, mask = drawn[kind]
    inside = (mask & trunk()).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    assert inside.mean() > 0.95
    assert inside.min() > 0.6
    assert mask.flatten(1).any(1).all()


@pytest.mark.parametrize("kind", ["nodule", "opacity"])
def test_disease_of_the_lungs_is_in_the_lungs(films: Tensor, drawn: Drawn, kind: str) -> None:
    changed, mask = drawn[kind]
    change = (changed - films) * mask
    assert change.min() >= 0  # denser, never darker
    assert (change * lungs()).sum() / change.sum() > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_seeded_by_the_row_alone(films: Tensor, others: Tensor, drawn: Drawn, kind: str) -> None:
    changed, mask = drawn[kind]
    for row in (0, 7):
        one = slice(row, row + 1)
        alone, alone_mask = SUITE[kind](films[one], [rows()[row]], others[one])
        assert torch.equal(alone_mask[0], mask[row])
        torch.testing.assert_close(alone[0], changed[row], rtol=0, atol=1e-5)
    different, _ = SUITE[kind](films[:1], rows(1, seed=1), others[:1])
    assert not torch.equal(different, changed[:1])
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(32, 32), (80, 64)])
def test_small_and_oblong_films(kind: str, shape: tuple[int, int]) -> None:
    film = torch.nn.functional.interpolate(chest(5)[None, None], size=shape).expand(3, -1, -1, -1)
    changed, mask = SUITE[kind](film, rows(3))
    assert mask.flatten(1).any(1).all()
    assert torch.equal(changed[~mask], film[~mask])


@pytest.mark.parametrize("kind", KINDS)
def test_a_black_film_stays_one(kind: str) -> None:
    black = torch.zeros(2, 1, 32, 32)
    changed, mask = SUITE[kind](black, rows(2))
    assert torch.equal(changed, black) and not mask.any()


def test_marked_takes_the_majority_and_restores_the_rest() -> None:
    before = torch.full((1, 1, 64, 64), 0.5)
    after = before.clone()
    after[..., 10:20, 10:20] += 0.1
    after[..., 14, 14] = 0.5  # the same by chance, within
    after[..., 40, 40] += 0.3  # a speck
    after[..., 50:60, 50:60] += VISIBLE * 0.9  # too little to see
    result, mask = marked(before, after)
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[10:20, 10:20] = True
    expected[[10, 10, 19, 19], [10, 19, 10, 19]] = False  # a corner has 4 of 9
    assert torch.equal(mask[0, 0], expected)
    assert torch.equal(result, torch.where(mask, after, before))


def test_body_is_tissue_and_what_it_surrounds(films: Tensor) -> None:
    result = body(films)[0, 0]
    assert (result & ~trunk()).sum() < 0.05 * trunk().sum()
    assert result[lungs()].all()
    assert result[trunk()].float().mean() > 0.97
    # A wall that is as dark as air: the lung is open at its side, but not above and below.
    y, x = grid()
    open_wall = trunk() & (y > 0.35) & (y < 0.6) & ((x < 0.3) | (x > 0.7))
    film = torch.where(open_wall, 0.1, chest(0))[None, None]
    assert body(film)[0, 0][lungs()].all()
    visible = trunk() & ~((grid()[1] - 0.5).abs() < 0.1)  # the middle blacked out
    assert not body(films[:1] * visible)[0, 0][20:80, 44:52].any()


def test_blend_takes_from_the_other_film_and_mixes() -> None:
    """Flat films: a plain patch lies between the two greys, a seamless one shows nothing."""
    film, other = torch.full((24, 1, 48, 48), 0.3), torch.full((24, 1, 48, 48), 0.7)
    changed, mask = SUITE["blend"](film, rows(24), other)
    assert mask.flatten(1).any(1).all()  # a row that shows nothing is drawn again
    assert changed.min() > 0.3 - 1e-5 and 0.6 < changed.max() <= 0.7
    tops = changed.amax((1, 2, 3))
    assert tops.min() > 0.3 + 0.3 * 0.4  # no less than alpha = 0.35, but for the window's edge
    same, none = SUITE["blend"](film, rows(24), film)
    assert torch.equal(same, film) and not none.any()


def test_a_seamless_patch_keeps_the_broad_greys() -> None:
    """The other film is the same texture, 0.4 brighter: half of the patches do not show that."""
    grain = 0.05 * torch.randn(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    film = (0.3 + grain).expand(64, -1, -1, -1)
    changed, mask = SUITE["blend"](film, rows(64), film + 0.4)
    lift = ((changed - film) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    seamless = lift < 0.05
    assert 20 <= seamless.sum() <= 44
    assert lift[~seamless].min() > 0.1
    assert ((changed - film).abs() * mask).flatten(1).amax(1)[seamless].min() > 2 * VISIBLE


def test_cutpaste_is_a_piece_of_the_film_itself_with_a_hard_edge() -> None:
    """On a film of two greys, what is pasted has two greys, jittered, and ends at once."""
    y, _ = grid()
    film = torch.where(y < 0.5, 0.4, 0.8).expand(40, 1, SIDE, SIDE)
    changed, mask = SUITE["cutpaste"](film, rows(40), torch.zeros_like(film))
    for before, after, where in zip(film, changed, mask, strict=True):
        values = after[where]
        assert values.min() > 0.4 - 0.12 and values.max() < 0.8 + 0.14
        levels, counts = values.mul(1000).round().unique(return_counts=True)
        # The two greys as they were pasted, and as they were where both are the same.
        assert counts.sort().values[-4:].sum() > 0.8 * counts.sum(), levels
        assert (after - before)[where].abs().median() > VISIBLE
    small = mask.float().mean((1, 2, 3))
    assert small.min() < 0.01 and small.max() > 0.05  # scars and patches


def test_intensity_alone_changes_grey_without_moving_anything(films: Tensor) -> None:
    flat = torch.full_like(films, 0.5)
    changed, mask = SUITE["intensity"](flat, rows())
    change = (changed - flat)[mask]
    assert 0.06 < change.abs().max() <= 0.2 + 1e-6
    assert (change > 0).any() and (change < 0).any()
    for film, where in zip(changed - flat, mask, strict=True):
        assert film[where].sign().unique().numel() == 1  # one film goes one way


def test_deform_makes_no_new_grey_and_needs_structure(films: Tensor) -> None:
    y, x = grid()
    film = torch.where(((x * 12).floor() + (y * 12).floor()) % 2 > 0, 0.3, 0.7)
    film = film.expand(COUNT, 1, SIDE, SIDE)
    changed, mask = SUITE["deform"](film, rows())
    assert mask.flatten(1).any(1).all()
    assert changed.min() > 0.3 - 1e-5 and changed.max() < 0.7 + 1e-5
    far = torch.nn.functional.max_pool2d(mask.float(), 61, 1, 30) == 0
    assert far.any() and torch.equal(changed[far], film[far])
    flat = torch.full_like(film, 0.5)
    assert not SUITE["deform"](flat, rows())[1].any()


def test_deform_never_folds_the_film_over() -> None:
    """The area element of where the greys come from is above 0 everywhere: no pixel's
    surroundings are turned inside out."""
    y, x = (part.expand(60, 1, SIDE, SIDE) for part in grid())
    from_y, from_x = (SUITE["deform"].draw(part, rows(60), part) for part in (y, x))
    inner = (slice(None), 0, slice(3, -3), slice(3, -3))  # beyond the edge, the film is mirrored

    def slopes(part: Tensor) -> tuple[Tensor, Tensor]:
        return part.diff(dim=-2)[..., :-1][inner], part.diff(dim=-1)[..., :-1, :][inner]

    (yy, yx), (xy, xx) = slopes(from_y), slopes(from_x)
    moved = ((from_y - y).abs() + (from_x - x).abs())[:, 0].flatten(1).amax(1)
    assert moved.min() > 0.02
    folded = (yy * xx - yx * xy <= 0).float().mean((1, 2))
    # A place near the edge reads mirrored pixels, which is no fold of its own.
    assert (folded == 0).float().mean() > 0.85 and folded.max() < 0.02


def test_nodules_of_a_film_without_lungs_are_where_lungs_usually_are() -> None:
    flat = torch.full((30, 1, SIDE, SIDE), 0.5)
    _, mask = SUITE["nodule"](flat, rows(30))
    usual = torch.nn.functional.max_pool2d(lungs().float()[None], 11, 1, 5)[0] > 0
    assert (mask & usual).sum() > 0.9 * mask.sum()


def test_disease_goes_where_there_is_air_to_fill(films: Tensor) -> None:
    _, x = grid()
    white = torch.where(lungs() & (x > 0.5), 0.75, films)  # one lung is dense already
    for kind in ("nodule", "opacity"):
        _, mask = SUITE[kind](white, rows())
        assert (mask & (x < 0.5)).sum() > 0.85 * mask.sum()


def test_a_nodule_is_a_ball() -> None:
    """Brightest in the middle by the thickness of a ball: sqrt(1 - r^2), whatever lies beneath."""
    side = 200
    film = torch.full((40, 1, side, side), 0.3)
    film[..., : side // 2, :] = 0.5
    change = SUITE["nodule"].draw(film, rows(40), film) - film
    area, top = (change > 0).float().sum((1, 2, 3)), change.amax((1, 2, 3))
    assert 0.1 < top.median() < 0.3 and top.max() < 0.61
    assert area.max() < 3 * 3.15 * (0.055 * side) ** 2
    single = area < 3.15 * (0.045 * side) ** 2
    assert single.sum() > 5
    # A ball is half as thick as in its middle at sqrt(3) / 2 of its radius: 3/4 of its area.
    half = (change > 0.5 * top[:, None, None, None]).float().sum((1, 2, 3))
    assert float((half / area)[single].median()) == pytest.approx(0.75, abs=0.06)


def test_perlin_pastes_patches_of_the_other_film() -> None:
    film, other = torch.full((COUNT, 1, SIDE, SIDE), 0.3), torch.full((COUNT, 1, SIDE, SIDE), 0.8)
    changed, mask = SUITE["perlin"](film, rows(), other)
    for change, where in zip(changed - film, mask, strict=True):
        values = change[where & (change > 1e-6)]
        assert len(values) > 0.8 * where.sum()
        # One opacity a film, of 0.3 to 1, and no soft edge.
        assert (values - values.max()).abs().max() < 1e-5
        assert 0.3 * 0.5 - 1e-6 <= values.max() <= 0.5 + 1e-6
    assert mask.float().mean() < 0.25
