import pytest
import torch
from diffusers import DDPMScheduler

from nofinding.functional.diffusion.schedule import (
    cosine_abar,
    ddim_timesteps,
    linear_abar,
    respace,
    scaled_linear_abar,
)


def test_linear_is_that_of_ddpm() -> None:
    abar = linear_abar(1000)
    assert abar.dtype == torch.float64
    assert abar[0].item() == pytest.approx(1 - 1e-4, abs=1e-15)
    assert (abar[1] / abar[0]).item() == pytest.approx(1 - (1e-4 + (0.02 - 1e-4) / 999), abs=1e-15)
    assert abar[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)


def test_cosine_falls_from_one_to_nothing() -> None:
    abar = cosine_abar(1000)
    assert abar[0] > 0.999
    assert abar[500].item() == pytest.approx(0.4923, abs=2e-3)
    assert (abar.diff() < 0).all()


def test_scaled_linear_is_diffusers() -> None:
    theirs = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
    )
    ours = scaled_linear_abar(1000)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    other = scaled_linear_abar(1000, 0.00085, 0.012)  # Stable Diffusion's
    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(other.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)


def test_fewer_steps_end_about_as_noisy() -> None:
    for table in (linear_abar, scaled_linear_abar):
        ratio = table(100)[-1].log() / table(1000)[-1].log()
        assert ratio.item() == pytest.approx(1, abs=0.15)


def test_ddim_keeps_every_ith_step() -> None:
    assert ddim_timesteps(1000, 50).tolist() == list(range(0, 1000, 20))
    assert respace(1000, "ddim1000").tolist() == list(range(1000))
    with pytest.raises(ValueError, match="no whole stride"):
        ddim_timesteps(1000, 300)


def test_sections_keep_both_ends_of_each() -> None:
    levels = respace(1000, "10,20").tolist()
    assert len(levels) == 30
    assert (levels[0], levels[9], levels[10], levels[-1]) == (0, 499, 500, 999)
    assert respace(10, "").tolist() == list(range(10))
    with pytest.raises(ValueError, match="cannot keep"):
        respace(10, "6,6")
