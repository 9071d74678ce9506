"""Random patches: what share, what shape, that a row depends on no other; cutting and joining."""

import torch

from nofinding.functional.diffusion.patches import cut, joined, patch_masks, surroundings
from nofinding.functional.noise import generators

SIZES, CHANCES = (1, 2, 4, 8), (0.2, 0.3, 0.3, 0.2)


def draw(count: int, **changes: object) -> torch.Tensor:
    settings = {"sizes": SIZES, "chances": CHANCES, "most": 0.4} | changes
    return patch_masks(16, generators(1, range(count)), **settings)  # type: ignore[arg-type]


def test_the_share_of_noised_patches_is_uniform_up_to_the_most() -> None:
    masks = draw(600)
    assert masks.shape == (600, 1, 16, 16)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    noised = 1 - draw(600, sizes=(1,), chances=(1.0,)).flatten(1).mean(1)
    assert noised.max() <= 0.4 + 1 / 256
    assert noised.min() < 0.01
    assert abs(float(noised.mean()) - 0.2) < 0.015
    assert abs(float(noised.std()) - 0.4 / 12**0.5) < 0.01


def test_patches_are_whole_rectangles_of_the_sizes_drawn() -> None:
    wide = draw(20, sizes=(4,), chances=(1.0,), most=1.0)
    cells = wide.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)  # (20, 1, 4, 4, 16)
    assert torch.equal(cells.amin(-1), cells.amax(-1))
    assert 0 < wide.mean() < 1
    # Height and width are drawn apart: some patches are longer than wide, some the reverse.
    masks = draw(400, most=1.0)[:, 0]
    down = (masks.diff(dim=1) != 0).float().mean((1, 2))
    across = (masks.diff(dim=2) != 0).float().mean((1, 2))
    assert (down > 2 * across).sum() > 40
    assert (across > 2 * down).sum() > 40


def test_a_row_depends_on_no_other() -> None:
    together = draw(5)
    alone = patch_masks(16, generators(1, [3]), sizes=SIZES, chances=CHANCES, most=0.4)
    assert torch.equal(together[3:4], alone)


def test_a_picture_is_cut_row_by_row_and_joined_again() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    pieces = cut(x, 2)
    assert pieces.shape == (2, 4, 3, 2, 3)
    assert torch.equal(pieces[:, 1], x[:, :, :2, 3:])
    assert torch.equal(pieces[:, 2], x[:, :, 2:, :3])
    assert torch.equal(joined(pieces, 2), x)


def test_surroundings_are_the_eight_neighbours() -> None:
    x = torch.arange(1.0, 10).reshape(1, 9, 1)
    around = surroundings(x, 3)[0, :, :, 0]
    assert around[4].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert around[0].tolist() == [0, 0, 0, 0, 2, 0, 4, 5]
    assert around[5].tolist() == [2, 3, 0, 5, 0, 8, 9, 0]
