import pytest
import torch

from nofinding.gate.corruptions import SPOILT
from nofinding.gate.feature_extractor import (
    SIZE,
    FeatureExtractor,
    neighbour_correlation,
    plain_measures,
)


def test_plain_measures_by_hand() -> None:
    flat = torch.full((1, 1, 8, 8), 0.25)
    ramp = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)
    board = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).float()[None, None]
    result = plain_measures(torch.cat([flat, ramp, board]))
    assert result[0].tolist() == pytest.approx([0.25, 0, 0, 0], abs=1e-6)
    assert result[1].tolist() == pytest.approx([0.5, float(ramp.std(correction=0)), 0, 0], abs=1e-5)
    contrast = float(board.std(correction=0))
    assert result[2].tolist() == pytest.approx([0.5, contrast, 4 / (contrast + 1e-3), 2])


def test_neighbours_of_noise_have_nothing_in_common() -> None:
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    result = neighbour_correlation(torch.cat([noise, ramp]))
    assert abs(float(result[0])) < 0.05 and float(result[1]) > 0.9


def test_no_films_give_an_empty_look(extractor: FeatureExtractor) -> None:
    calls = extractor(torch.empty(0, 1, SIZE, SIZE))
    assert [len(part) for part in calls] == [0, 0, 0, 0]


@pytest.mark.parametrize("index", range(12))
def test_spoilt_films_keep_size_and_range(index: int) -> None:
    film = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for _, change in SPOILT:
        spoilt = change(film, index)
        assert spoilt.shape == film.shape
        assert spoilt.min() >= -1 and spoilt.max() <= 1
        assert not torch.equal(spoilt, film)
