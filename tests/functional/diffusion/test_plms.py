"""The multi-step sampler against another implementation, and on an equation with a known answer."""

import pytest
import torch
from torch import Tensor

from nofinding.functional.diffusion.plms import plms, plms_calls
from nofinding.functional.diffusion.schedule import scaled_linear_abar

ABAR = scaled_linear_abar()


def network(x: Tensor, k: int) -> Tensor:
    """Something smooth that depends on both."""
    return torch.tanh(0.7 * x + 0.001 * k) + 0.1 * x.roll(1, -1)


@pytest.mark.parametrize(("grid", "first"), [(100, 990), (100, 300), (10, 500), (20, 100), (10, 0)])
def test_it_goes_the_way_of_diffusers(grid: int, first: int) -> None:
    from diffusers import PNDMScheduler

    other = PNDMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=True,
    )
    other.set_timesteps(grid)
    steps = list(range(first, -1, -1000 // grid))
    x = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    calls: list[int] = []

    def look(x: Tensor, k: int) -> Tensor:
        calls.append(k)
        return network(x, k)

    result = plms(look, x, steps, ABAR)
    theirs = [*steps[:2], *steps[1:]]  # they take the first step twice, too
    assert calls == theirs and len(calls) == plms_calls(len(steps))
    expected = x
    for k in theirs:
        expected = other.step(network(expected, k), k, expected).prev_sample
    torch.testing.assert_close(result, expected, rtol=2e-5, atol=2e-5)  # they count in 32 bit


def test_a_network_that_knows_the_film_gives_it_back() -> None:
    generator = torch.Generator().manual_seed(1)
    film, noise = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64)
    x = ABAR[400].sqrt() * film + (1 - ABAR[400]).sqrt() * noise
    result = plms(lambda x, k: noise, x, [400, 300, 200, 100, 0], ABAR)
    torch.testing.assert_close(result, film)


def test_more_levels_come_closer_and_several_of_them_count() -> None:
    """For x0 ~ N(0, 0.25) the true noise is known, and so is where the flow leads: x / std."""
    spread = 0.5

    def look(x: Tensor, k: int) -> Tensor:
        a = float(ABAR[k])
        return x * (1 - a) ** 0.5 / (a * spread**2 + 1 - a)

    x = torch.tensor([[1.0]], dtype=torch.float64)
    a = float(ABAR[900])
    expected = spread / (a * spread**2 + 1 - a) ** 0.5
    gaps = []
    for stride in (100, 50, 25):
        result = plms(look, x, list(range(900, -1, -stride)), ABAR)
        gaps.append(abs(float(result) - expected))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.01
