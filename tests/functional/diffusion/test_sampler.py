import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler

from nofinding.functional.diffusion.sampler import (
    add_noise,
    ddim_step,
    ddpm_step,
    predict_eps,
    predict_x0,
)
from nofinding.functional.diffusion.schedule import linear_abar

KIND = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}


def two() -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(3)
    return tuple(torch.randn(2, 1, 8, 8, generator=chance) for _ in range(2))


def test_step_down_is_diffusers() -> None:
    theirs = DDIMScheduler(num_train_timesteps=1000, set_alpha_to_one=True, **KIND)
    theirs.set_timesteps(50)
    abar, (x, eps) = linear_abar(), two()
    for k, t in [(980, 980), (500, 500), (20, 20)]:
        ours = ddim_step(predict_x0(x, eps, abar[k]), eps, abar[k - 20])
        torch.testing.assert_close(ours, theirs.step(eps, t, x).prev_sample, rtol=1e-5, atol=1e-5)


def test_step_up_is_diffusers() -> None:
    theirs = DDIMInverseScheduler(num_train_timesteps=1000, **KIND)
    theirs.set_timesteps(50)
    abar, (x, eps) = linear_abar(), two()
    # Their inverse steps arrive at t, ours leave from k.
    for k in (0, 400, 900):
        ours = ddim_step(predict_x0(x, eps, abar[k]), eps, abar[k + 20])
        theirs_next = theirs.step(eps, k + 20, x).prev_sample
        torch.testing.assert_close(ours, theirs_next, rtol=1e-5, atol=1e-5)


def test_noising_is_diffusers() -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, **KIND)
    abar, (x, eps) = linear_abar(), two()
    t = torch.tensor([3, 700])
    torch.testing.assert_close(add_noise(x, eps, abar[t]), theirs.add_noise(x, eps, t))


def test_posterior_is_diffusers() -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, variance_type="fixed_small", **KIND)
    abar, (x, eps) = linear_abar(), two()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(11))
    ours = ddpm_step(x, predict_x0(x, eps, abar[600]), noise, abar[600], abar[599])
    draw = torch.Generator().manual_seed(11)
    torch.testing.assert_close(ours, theirs.step(eps, 600, x, generator=draw).prev_sample)


def test_x0_and_eps_determine_each_other() -> None:
    abar, (x, eps) = linear_abar(), two()
    level = abar[torch.tensor([10, 800])]
    x0 = predict_x0(x, eps, level)
    torch.testing.assert_close(predict_eps(x, x0, level), eps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(add_noise(x0, eps, level), x, rtol=1e-4, atol=1e-4)


def test_a_step_s_variance_may_be_beta_in_place_of_the_posterior_s() -> None:
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    a, b = torch.tensor(0.5), torch.tensor(0.8)
    beta = 1 - a / b
    larger = ddpm_step(zero, zero, one, a, b, variance="beta")
    torch.testing.assert_close(larger, beta.sqrt().float().expand(1, 1, 1, 1))
    smaller = ddpm_step(zero, zero, one, a, b)
    torch.testing.assert_close(smaller / larger, ((1 - b) / (1 - a)).sqrt().expand(1, 1, 1, 1))
