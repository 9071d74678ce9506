import pytest
import torch

from nofinding.functional.diffusion.masking import (
    checkerboards,
    combine,
    fade,
    low_band,
    patches,
    rectangles,
    without_band,
)
from nofinding.functional.noise import generators


def test_checkerboards_share_nothing_and_cover_all() -> None:
    first, second = checkerboards(4, 6)
    assert torch.equal(first + second, torch.ones(1, 4, 6))
    assert (first * second).sum() == 0
    assert first[0, 0].tolist() == [0, 1, 0, 1, 0, 1]  # (row + column) odd
    assert first[0, 1].tolist() == [1, 0, 1, 0, 1, 0]


def test_masks_fade_to_ones() -> None:
    mask, _ = checkerboards(2, 2)
    faded = fade(mask, torch.tensor([0.0, 0.25, 1.0]))
    assert faded.shape == (3, 1, 2, 2)
    assert torch.equal(faded[0], mask)
    assert faded[1, 0].tolist() == [[0.25, 1.0], [1.0, 0.25]]
    assert torch.equal(faded[2], torch.ones(1, 2, 2))


def test_each_pixel_comes_from_the_image_that_did_not_see_it() -> None:
    first, second = (m[None] for m in checkerboards(2, 2))
    a, b = torch.full((1, 1, 2, 2), 5.0), torch.full((1, 1, 2, 2), 7.0)
    # `a` was made from the pixels of `first`, so it speaks for those of `second`.
    assert combine(a, b, first, second)[0, 0].tolist() == [[5.0, 7.0], [7.0, 5.0]]


def test_patches_share_no_pixel_and_cover_all() -> None:
    masks = patches(12, 3)
    assert masks.shape == (9, 1, 12, 12)
    assert (masks.sum(0) == 1).all()
    assert masks[5, 0, 4:8, 8:12].all() and masks[5].sum() == 16  # row by row
    with pytest.raises(ValueError, match="5 patches along a side of 12"):
        patches(12, 5)


def test_rectangles_are_of_the_sizes_asked_for_and_a_row_s_own() -> None:
    one = rectangles(100, generators(0, range(300)), most=1, sizes=(0.09, 0.18))
    there = one.flatten(1).any(1)
    assert 0.4 < there.float().mean() < 0.6  # none or one
    for side in (2, 3):
        length = one[there].any(side)[:, 0].sum(1)
        assert (length.min(), length.max()) == (9, 18)
    assert one[..., 0].any() and one[..., -1].any()  # anywhere, the border included
    together = rectangles(32, generators(1, ["a", "b"]), most=5, sizes=(0.1, 0.3))
    alone = rectangles(32, generators(1, ["b"]), most=5, sizes=(0.1, 0.3))
    assert torch.equal(together[1:], alone)


def test_taking_a_band_away_takes_that_band_and_nothing_else() -> None:
    film = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    reach = torch.tensor([0, 2, 8])
    band = low_band(16, reach)
    assert band.sum((1, 2, 3)).tolist() == [1, 25, 256]  # the mean alone; 5 x 5; everything
    result = torch.fft.fft2(without_band(film, band))
    before = torch.fft.fft2(film)
    assert result[band].abs().max() < 1e-4
    torch.testing.assert_close(result[~band], before[~band], rtol=1e-4, atol=1e-4)
    # What the complement leaves is the rest: the film is the sum of both.
    both = without_band(film, band) + without_band(film, ~band)
    torch.testing.assert_close(both, film, rtol=0, atol=1e-5)


def test_a_low_band_is_coarse() -> None:
    x = torch.arange(32) / 32
    coarse, fine = (torch.cos(2 * torch.pi * n * x).expand(1, 1, 32, 32) for n in (2, 9))
    remaining = without_band(coarse + fine, low_band(32, torch.tensor([4])))
    torch.testing.assert_close(remaining, fine.contiguous(), rtol=0, atol=1e-5)
