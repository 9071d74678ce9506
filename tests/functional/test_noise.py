import numpy as np
import opensimplex
import pytest
import torch
from opensimplex.internals import _init

from nofinding.functional.noise import (
    VARIANCE,
    gaussian,
    generators,
    integers,
    octave_wavelengths,
    open_simplex,
    simplex,
    uniform,
)


def test_a_row_draws_the_same_whatever_its_neighbours() -> None:
    together = gaussian((1, 4, 4), generators(7, ["a", "b", "c"]))
    alone = gaussian((1, 4, 4), generators(7, ["b"]))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_seed_and_key_both_count() -> None:
    def draw(seed: int, key: str) -> torch.Tensor:
        return gaussian((8,), generators(seed, [key]))

    assert torch.equal(draw(0, "a"), draw(0, "a"))
    assert not torch.equal(draw(0, "a"), draw(1, "a"))
    assert not torch.equal(draw(1, "1"), draw(11, ""))


def test_distributions() -> None:
    rows = generators(0, range(2000))
    whole = integers(3, 7, rows)
    assert set(whole.tolist()) == {3, 4, 5, 6}
    share = uniform((), rows)
    assert 0.47 < share.mean() < 0.53 and share.min() >= 0 and share.max() < 1
    normal = gaussian((4,), rows)
    assert abs(normal.mean()) < 0.05 and abs(normal.std() - 1) < 0.05


@pytest.mark.parametrize("seed", [3, 1234])
def test_open_simplex_is_the_published_programs(seed: int) -> None:
    x, y = np.linspace(-7.3, 9.1, 61), np.linspace(-300.2, -288.0, 47)  # not a period away from 0
    opensimplex.seed(seed)
    expected = torch.from_numpy(opensimplex.noise2array(x, y))
    grid_y, grid_x = torch.meshgrid(torch.from_numpy(y), torch.from_numpy(x), indexing="ij")
    permutation = torch.from_numpy(_init(seed)[0])[None]
    result = open_simplex(grid_x.reshape(1, -1), grid_y.reshape(1, -1), permutation)
    torch.testing.assert_close(result.reshape(47, 61), expected, rtol=0, atol=1e-9)


def test_variance_of_open_simplex_is_the_integral() -> None:
    rows = generators(0, range(40))
    x, y = (256 * uniform((2, 2000), rows).double()).unbind(1)
    permutation = torch.stack([torch.randperm(256, generator=row) for row in rows])
    assert open_simplex(x, y, permutation).var().item() == pytest.approx(VARIANCE, rel=0.02)


def test_simplex_noise_is_the_row_s_own_and_of_unit_variance() -> None:
    options = {"wavelength": 8.0, "octaves": 6, "persistence": 0.8}
    together = simplex((1, 32, 32), generators(7, ["a", "b", "c"]), **options)
    assert torch.equal(together[1:2], simplex((1, 32, 32), generators(7, ["b"]), **options))
    assert not torch.equal(together[0], together[1])  # the published program repeats one slice
    many = simplex((1, 32, 32), generators(0, range(200)), **options)
    assert many.mean().abs() < 0.05
    assert many.var().item() == pytest.approx(1, abs=0.05)


def test_simplex_noise_falls_with_the_frequency_and_gaussian_does_not() -> None:
    rows = generators(0, range(60))
    kinds = (simplex((1, 64, 64), rows, wavelength=16.0), gaussian((1, 64, 64), rows))
    y, x = torch.meshgrid(torch.fft.fftfreq(64), torch.fft.fftfreq(64), indexing="ij")
    radius = (x**2 + y**2).sqrt() * 64  # cycles a side
    powers = []
    for noise in kinds:
        power = torch.fft.fft2(noise[:, 0]).abs().square().mean(0)
        powers.append([power[(radius > a) & (radius <= 2 * a)].mean().item() for a in (4, 8, 16)])
    assert powers[0][0] > 3 * powers[0][1] > 9 * powers[0][2]
    assert powers[1][0] == pytest.approx(powers[1][2], rel=0.1)


def test_persistence_says_how_much_weaker_the_next_octave_is() -> None:
    def part(octaves: int, persistence: float) -> torch.Tensor:
        return simplex(
            (1, 32, 32), generators(5, ["a"]), wavelength=16.0, octaves=octaves,
            persistence=persistence,
        )  # fmt: skip

    first, both = part(1, 0.5), part(2, 0.5)
    second = both * (1 + 0.25) ** 0.5 - first  # scaled back, without the first: 0.5 times itself
    twice = part(2, 1.0) * 2**0.5 - first
    torch.testing.assert_close(second, 0.5 * twice, rtol=0, atol=1e-5)


def test_octaves_finer_than_two_pixels_are_left_out() -> None:
    assert octave_wavelengths(64, 6) == [64, 32, 16, 8, 4, 2]
    assert octave_wavelengths(8, 6) == [8, 4, 2]
    assert octave_wavelengths(1, 6) == [1]
