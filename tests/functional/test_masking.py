import torch

from nofinding.functional.masking import checkerboards, combine, fade


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
