import pytest
import torch

from nofinding.functional.schedule import cosine_abar, ddim_timesteps, linear_abar, respace


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


def test_ddim_keeps_every_ith_step() -> None:
    assert ddim_timesteps(1000, 50).tolist() == list(range(0, 1000, 20))
    assert respace(1000, "ddim1000").tolist() == list(range(1000))
    with pytest.raises(ValueError, match="no whole stride"):
        ddim_timesteps(1000, 300)


def test_sections_keep_both_ends_of_each() -> None:
    kept = respace(1000, "10,20").tolist()
    assert len(kept) == 30
    assert (kept[0], kept[9], kept[10], kept[-1]) == (0, 499, 500, 999)
    assert respace(10, "").tolist() == list(range(10))
    with pytest.raises(ValueError, match="cannot keep"):
        respace(10, "6,6")
