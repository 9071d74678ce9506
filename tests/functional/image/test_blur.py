"""The blur is the one that scipy knows."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nofinding.functional.image.blur import Border, gaussian_blur


@pytest.mark.parametrize("border", get_args(Border))
@pytest.mark.parametrize("sigma", [0.5, 1.3, 4.0])  # the last: a window wider than the map
def test_it_is_scipys(sigma: float, border: Border) -> None:
    maps = torch.randn(2, 3, 20, 13, generator=torch.Generator().manual_seed(0))
    expected = np.stack(
        [[gaussian_filter(m.numpy(), sigma, mode=border) for m in row] for row in maps]
    )
    torch.testing.assert_close(
        gaussian_blur(maps, sigma, border), torch.from_numpy(expected), rtol=0, atol=1e-5
    )


def test_an_even_map_stays_and_no_sigma_is_no_blur() -> None:
    maps = torch.full((1, 1, 9, 9), 0.7)
    torch.testing.assert_close(gaussian_blur(maps, 3.0), maps)
    spot = torch.zeros(1, 1, 9, 9)
    spot[..., 4, 4] = 1
    assert torch.equal(gaussian_blur(spot, 0), spot)
