"""Each painted anomaly is what its name says, and leaves the rest of the film."""

import pytest
import torch
from torch import Tensor

from nofinding.functional.noise import generators
from nofinding.functional.synthetic.anomalies import ANOMALIES, SECOND, VISIBLE, changed, paint

SIDE, COUNT = 96, 24
KINDS = tuple(ANOMALIES)
DENSER = ("opacity", "haze", "effusion", "nodules", "perihilar", "device")


def rows(count: int = COUNT, seed: int = 0) -> list[torch.Generator]:
    return generators(seed, range(count))


def grid() -> tuple[Tensor, Tensor]:
    y = (torch.arange(SIDE) + 0.5) / SIDE
    return y[:, None].expand(SIDE, SIDE), y[None].expand(SIDE, SIDE)


@pytest.fixture(scope="module")
def films() -> Tensor:
    """Dark lungs beside a bright, narrow heart; soft edges, a little noise."""
    y, x = grid()
    film = torch.full((SIDE, SIDE), 0.65)
    for centre in (0.3, 0.7):
        inside = 1 - ((x - centre) / 0.16) ** 2 - ((y - 0.47) / 0.33) ** 2
        film -= 0.45 * torch.sigmoid(8 * inside)
    film += 0.02 * torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return film.clamp(0.05, 1).expand(COUNT, 1, SIDE, SIDE).clone()


@pytest.mark.parametrize("kind", KINDS)
def test_it_shows_and_leaves_most_of_the_film(films: Tensor, kind: str) -> None:
    result = paint(films, rows(), [kind])
    assert result.min() >= 0 and result.max() <= 1
    cells = changed(films, result, SIDE // 8)
    assert cells.flatten(1).any(1).float().mean() > 0.9
    assert cells.float().mean() < 0.6
    assert (result - films).abs().mean() < 0.12
    # The edge of the film is no lung.
    border = torch.ones(SIDE, SIDE, dtype=torch.bool)
    border[4:-4, 4:-4] = False
    assert (result - films)[..., border].abs().mean() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_on_its_own_generator_alone(films: Tensor, kind: str) -> None:
    films = films * torch.linspace(0.6, 1.2, COUNT)[:, None, None, None]
    together = ANOMALIES[kind](films, rows())
    assert torch.equal(ANOMALIES[kind](films, rows()), together)
    for row in (0, 5):
        alone = ANOMALIES[kind](films[row : row + 1], [rows()[row]])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
    assert (together.std(0) > 0.02).any()  # each film gets another one


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "heart"])
def test_what_was_blacked_out_stays_black(films: Tensor, kind: str) -> None:
    """As a film of which only the lung fields are left; the heart moves edges, too."""
    y, x = grid()
    visible = ((x - 0.5).abs() < 0.35) & (y > 0.15) & (y < 0.85) & ((x - 0.5).abs() > 0.08)
    result = ANOMALIES[kind](films * visible, rows())
    near = torch.nn.functional.max_pool2d(visible.float()[None, None], 17, 1, 8)[0, 0] > 0
    assert (~near).sum() > 0.05 * SIDE**2
    assert (result[..., ~near] == 0).all()
    assert ((result - films * visible).abs() > VISIBLE).any()


@pytest.mark.parametrize("kind", DENSER)
def test_a_denser_kind_darkens_nothing(films: Tensor, kind: str) -> None:
    change = ANOMALIES[kind](films, rows()) - films
    assert change.min() >= 0
    assert change.flatten(1).amax(1).median() > 0.1


def in_lungs(change: Tensor) -> Tensor:
    """The share of the change that lies within the usual lungs, a row."""
    y, x = grid()
    lungs = sum(((x - centre) / 0.2) ** 2 + ((y - 0.47) / 0.38) ** 2 < 1 for centre in (0.3, 0.7))
    assert isinstance(lungs, Tensor)
    return (change * (lungs > 0)).sum((1, 2, 3)) / change.sum((1, 2, 3))


@pytest.mark.parametrize("kind", ["opacity", "haze", "interstitial", "nodules"])
def test_disease_of_the_lungs_is_in_the_lungs(films: Tensor, kind: str) -> None:
    change = (ANOMALIES[kind](films, rows()) - films).abs()
    assert in_lungs(change).median() > 0.85


def test_haze_is_thin_and_wide_and_nodules_are_round_and_small(films: Tensor) -> None:
    haze = ANOMALIES["haze"](films, rows()) - films
    nodules = ANOMALIES["nodules"](films, rows()) - films
    # Vessels still show through haze: the film's fine noise is left.
    assert haze.max() < 0.5 * (0.75 - films.min()) + 0.05
    wide = [(change > VISIBLE).float().mean((1, 2, 3)).median() for change in (haze, nodules)]
    assert wide[0] > 0.1 and wide[1] < 0.1


def test_interstitial_draws_a_net_of_darker_and_brighter_lines(films: Tensor) -> None:
    change = ANOMALIES["interstitial"](films, rows()) - films
    assert (change > 0.02).float().mean() > 0.02
    assert (change < -0.002).float().mean() > 0.01
    steps = change.diff(dim=-1).abs().mean()
    haze = ANOMALIES["haze"](films, rows()) - films
    # Fine: its greys change from pixel to pixel, those of a veil do not.
    assert steps / change.abs().mean() > 3 * haze.diff(dim=-1).abs().mean() / haze.mean()


def test_effusion_fills_one_lung_from_below(films: Tensor) -> None:
    change = ANOMALIES["effusion"](films, rows()) - films
    left, right = change[..., : SIDE // 2].sum((1, 2, 3)), change[..., SIDE // 2 :].sum((1, 2, 3))
    assert (torch.maximum(left, right) > 8 * torch.minimum(left, right)).all()
    assert 0 < (left > right).sum() < COUNT  # either side
    lung = change[:, :, : int(0.8 * SIDE), :]
    low, high = lung[:, :, SIDE // 2 :], lung[:, :, : SIDE // 2]
    assert (low.sum((1, 2, 3)) > 4 * high.sum((1, 2, 3))).float().mean() > 0.9


def test_perihilar_is_on_both_sides(films: Tensor) -> None:
    change = ANOMALIES["perihilar"](films, rows()) - films
    for half in (change[..., : SIDE // 2], change[..., SIDE // 2 :]):
        assert (half.flatten(1).amax(1) > VISIBLE).all()


def test_the_heart_widens(films: Tensor) -> None:
    _, x = grid()
    result = ANOMALIES["heart"](films, rows())
    row = int(0.6 * SIDE)
    middle = ((x[0] - 0.5).abs() < 0.25)[None]
    before, after = ((f[:, 0, row] > 0.45) & middle for f in (films, result))
    assert (after.sum(1) > before.sum(1)).all()
    # Nothing is new: every grey comes from the film itself.
    assert result.max() <= films.max() and result.min() >= films.min()


def test_lucency_is_dark_and_without_pattern(films: Tensor) -> None:
    result = ANOMALIES["lucency"](films, rows())
    change = result - films
    dark = films[0].flatten()[::5].sort().values[int(0.15 * len(films[0].flatten()[::5]))]
    assert (change[films > dark] <= 1e-6).all()
    assert change.flatten(1).amin(1).median() < -0.05
    assert change.mean() < 0
    # Noise is what the vessels are here.
    patterned = torch.nn.functional.avg_pool2d(films, 3, 1, 1) - films
    left = torch.nn.functional.avg_pool2d(result, 3, 1, 1) - result
    inside = change < -0.05
    assert left[inside].std() < patterned[inside].std()


def test_lucency_takes_half_of_what_is_brighter_than_its_surroundings() -> None:
    """Chequers of 0.4 and 0.6 over a film whose dark grey is 0.2.

    Fully covered, 0.4 becomes (0.4 + 0.2) / 2 and 0.6 becomes (0.5 + 0.2) / 2, 0.5 being the
    mean around: the brighter one loses 2.5 times as much, however much is covered.
    """
    row, column = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    bright = ((row + column) % 2 == 0) & (row < 0.8 * SIDE)
    film = torch.where(bright, 0.6, torch.where(row < 0.8 * SIDE, 0.4, 0.2))
    film = film.expand(COUNT, 1, SIDE, SIDE).clone()
    change = ANOMALIES["lucency"](film, rows()) - film
    pooled = [torch.nn.functional.avg_pool2d(change * part, 2) for part in (bright, ~bright)]
    covered = pooled[1] < -0.02
    covered[:, :, int(0.3 * SIDE) :] = False  # away from the dark part
    ratio = pooled[0][covered] / pooled[1][covered]
    assert len(ratio) > 100
    assert float(ratio.mean()) == pytest.approx(2.5, abs=0.2)


def test_a_patch_is_a_piece_of_the_same_film() -> None:
    """Two greys only: whatever is pasted is a mixture of them."""
    y, _ = grid()
    film = torch.where(y < 0.5, 0.2, 0.6).expand(COUNT, 1, SIDE, SIDE)
    result = ANOMALIES["patch"](film, rows())
    assert result.min() >= 0.2 - 1e-6 and result.max() <= 0.6 + 1e-6
    change = result - film
    assert (change > 0.1).any() and (change < -0.1).any()
    assert torch.equal(
        ANOMALIES["patch"](torch.full_like(film, 0.4), rows()).round(decimals=5),
        torch.full_like(film, 0.4),
    )


def test_a_device_is_thin_and_bright(films: Tensor) -> None:
    change = ANOMALIES["device"](films, rows()) - films
    drawn = change > 0.05
    assert drawn.flatten(1).any(1).all()
    assert drawn.float().mean((1, 2, 3)).max() < 0.12
    # No wider than a few pixels anywhere: nothing is left when it is eroded.
    assert torch.nn.functional.avg_pool2d(drawn.float(), 9, 1).max() < 1


def test_paint_uses_the_kinds_it_was_told(films: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, kind in enumerate(KINDS):
        monkeypatch.setitem(
            ANOMALIES, kind, lambda film, rows, n=number: film + 0.001 * 16 ** (n > 4)
        )
    count = 400
    flat = torch.full((count, 1, 8, 8), 0.1)
    result = ((paint(flat, rows(count), KINDS[:1]) - flat)[:, 0, 0, 0] / 0.001).round()
    assert set(result.tolist()) == {1, 2}  # one kind, or that one twice
    assert (result == 2).float().mean() == pytest.approx(SECOND, abs=0.08)
    both = ((paint(flat, rows(count), (KINDS[0], KINDS[9])) - flat)[:, 0, 0, 0] / 0.001).round()
    first, second = (both == 1) | (both == 2), (both == 16) | (both == 32)
    assert set(both.tolist()) == {1, 2, 16, 17, 32}
    for share in (first, second):
        assert share.float().mean() == pytest.approx((1 - SECOND / 2) / 2, abs=0.08)


def test_paint_clamps_leaves_its_input_and_knows_no_neighbour(films: Tensor) -> None:
    before = films.clone()
    result = paint(films, rows())
    assert torch.equal(films, before)
    assert torch.equal(paint(films, rows()), result)
    for row in (0, 3, 11):
        alone = paint(films[row : row + 1], [rows()[row]])
        torch.testing.assert_close(alone[0], result[row], rtol=0, atol=1e-5)
    bright = paint(torch.full_like(films, 0.99), rows())
    assert bright.min() >= 0 and bright.max() <= 1


def test_changed_marks_the_cells_that_changed_visibly() -> None:
    before = torch.full((2, 1, 64, 64), 0.5)
    after = before.clone()
    after[0, 0, 20:24, 40:44] += 0.03
    after[0, 0, 60:64, 0:4] -= 0.03  # darker is a change, too
    after[1] += 0.02  # too little to see
    after[1, 0, 5, 5] += 0.2  # one pixel: 0.2 / 16 more over 4 x 4
    result = changed(before, after, 4)
    expected = torch.zeros(2, 4, 4, dtype=torch.bool)
    expected[0, 1, 2] = expected[0, 3, 0] = expected[1, 0, 0] = True
    assert torch.equal(result, expected)
