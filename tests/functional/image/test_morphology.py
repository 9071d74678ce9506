"""Growing, shrinking and filling, against scipy's."""

import pytest
import torch
from scipy import ndimage

from nofinding.functional.image.morphology import close, dilate, erode


@pytest.mark.parametrize("radius", [1, 2])
def test_they_are_scipys(radius: int) -> None:
    maps = torch.rand(1, 1, 15, 11, generator=torch.Generator().manual_seed(0))
    grey, size = maps[0, 0].numpy(), (2 * radius + 1,) * 2
    grown = ndimage.grey_dilation(grey, size)
    assert torch.equal(dilate(maps, radius)[0, 0], torch.from_numpy(grown))
    assert torch.equal(
        erode(maps, radius)[0, 0], torch.from_numpy(ndimage.grey_erosion(grey, size))
    )
    closed = torch.from_numpy(ndimage.grey_erosion(grown, size))
    assert torch.equal(close(maps, radius)[0, 0], closed)


def test_a_hole_is_closed_and_radius_0_does_nothing() -> None:
    mask = torch.ones(1, 1, 7, 7)
    mask[..., 3, 3] = 0
    assert torch.equal(close(mask, 1), torch.ones_like(mask))
    assert torch.equal(dilate(mask, 0), mask)
