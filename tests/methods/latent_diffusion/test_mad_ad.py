"""MAD-AD: only patches are noised, the film never is, and what changes is the map."""

import dataclasses
from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from nofinding.errors import UserError
from nofinding.functional.diffusion.schedule import cosine_abar
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.latent_diffusion.mad_ad import (
    MADAD,
    MADADConfig,
    MaskedDenoiser,
    stochastic_step,
)
from support.latent_films import AUTOENCODER, NET, NO_RECORD, QUIET, SIDE, films, quick

CONFIG = MADADConfig(
    image_size=SIDE,
    autoencoder=dataclasses.replace(AUTOENCODER, train=quick(20)),
    net=NET,
    patches=(1, 2, 4),
    patch_chances=(0.2, 0.4, 0.4),
    mask_weight=0.5,  # so that it is learnt in no time
    train=quick(80),
)
NORMAL = films(range(12))


@pytest.fixture(scope="module")
def fitted() -> MADAD:
    return MADAD(CONFIG, NO_RECORD).fit(NORMAL, job=QUIET)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_steps_are_those_of_diffusers(eta: float) -> None:
    abar = cosine_abar(10)
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    theirs = DDIMScheduler(
        num_train_timesteps=10,
        trained_betas=(1 - abar / before).numpy(),
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    theirs.set_timesteps(10)
    chance = torch.Generator().manual_seed(0)
    x, x0, noise = (torch.randn(2, 4, 8, 8, generator=chance) for _ in range(3))
    for level in (9, 5, 1, 0):
        to = abar[level - 1] if level else torch.ones((), dtype=torch.float64)
        result = stochastic_step(x, x0, noise, abar[level], to, eta)
        expected = theirs.step(x0, level, x, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)


def test_only_the_patches_are_noised_and_both_answers_are_scored(fitted: MADAD) -> None:
    latents = fitted.latents(NORMAL, QUIET)
    batch = NORMAL.batch(range(12))
    calls: list[Tensor] = []

    class Spy(MaskedDenoiser):
        def both(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            calls.append(x)
            return torch.zeros_like(x), torch.full_like(x[:, :1], 0.25)

    def rows() -> list[torch.Generator]:
        return generators(4, batch.ids)

    parts = fitted.loss(latents, Spy(fitted.shape), batch, rows())
    chances = rows()  # the same draws in the same order
    z0 = latents.draw(batch.ids, chances)
    for row in chances:
        torch.randint(0, 10, (), generator=row)
    remaining = fitted.masks(chances)
    noise = gaussian(z0.shape[1:], chances)
    assert 0.6 < remaining.mean() < 0.95
    changed = (calls[0] - z0).abs() > 0
    assert not changed[remaining.expand_as(z0) == 1].any()
    assert changed[remaining.expand_as(z0) == 0].all()
    assert (noise.std() - 1).abs() < 0.1
    torch.testing.assert_close(parts["error"], z0.square().mean())
    torch.testing.assert_close(parts["mask"], (0.25 - remaining).square().mean())
    torch.testing.assert_close(parts["loss"], parts["error"] + 0.5 * parts["mask"])
    assert MADADConfig().mask_weight == 0.01


@torch.no_grad()
def test_the_film_is_not_noised_and_ends_at_what_the_network_sees(
    fitted: MADAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, expected = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    calls: list[tuple[Tensor, float]] = []

    def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        calls.append((x, float(t)))
        return expected, torch.full_like(x[:, :1], 0.75)

    monkeypatch.setattr(fitted.denoiser, "both", both)
    result, noised = fitted.correct(z, generators(0, ["a", "b"]))
    assert torch.equal(calls[0][0], z), "the reverse process starts from the latent as it is"
    assert [level for _, level in calls] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(noised, torch.full((2,), 0.25))


@torch.no_grad()
def test_the_network_tells_noised_patches_and_gives_back_what_was_there(fitted: MADAD) -> None:
    z = fitted.autoencoder.encode(films(range(40, 60)).batch(range(20)).image)
    spoilt = z.clone()
    spoilt[:, :, 2:6, 2:6] = torch.randn(20, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    result, remaining = fitted.denoiser.both(spoilt, torch.tensor([9.0]))
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:6, 2:6] = True
    assert remaining[:, 0, inside].mean() < remaining[:, 0, ~inside].mean() - 0.02
    before, after = ((x - z)[:, :, inside].square().mean() for x in (spoilt, result))
    assert after < 0.5 * before


def test_map_is_the_clipped_change_between_two_decoded_latents(
    fitted: MADAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = MADAD(dataclasses.replace(CONFIG, sigma=0.0), NO_RECORD)
    detector.load_state(fitted.state())
    before = torch.zeros(1, 1, SIDE, SIDE)
    after = before.clone()
    after[0, 0, 0, :3] = torch.tensor([0.1, -0.25, 0.9])
    decoded = iter([before, after])
    monkeypatch.setattr(detector.autoencoder, "decode", lambda z: next(decoded))
    scores = detector.score(films([1]).batch([0]))
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    torch.testing.assert_close(scores.anomaly_map[0, 0, 0, :4], torch.tensor([0.4, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(scores.score, scores.anomaly_map.mean((1, 2, 3)))
    assert torch.equal(scores.reconstruction, after)


def test_eta_is_the_share_of_fresh_noise(fitted: MADAD) -> None:
    batch = films([1, 2]).batch([0, 1])
    quiet = MADAD(dataclasses.replace(CONFIG, eta=0.0), NO_RECORD)
    quiet.load_state(fitted.state())
    score = partial(quiet.score, batch)
    assert torch.equal(score(seed=1).score, score(seed=2).score)
    assert not torch.equal(fitted.score(batch, seed=1).score, fitted.score(batch, seed=2).score)


def test_bad_settings_are_refused_in_one_line() -> None:
    for changes, message in (
        ({"patches": (3,), "patch_chances": (1,)}, r"patches \(3,\): give divisors of 8"),
        ({"patch_chances": (1,)}, "give one of 0 or more for each of the 3 patches"),
        ({"most_noised": 1.5}, "most_noised 1.5: give 0 to 1"),
        ({"eta": -1}, "eta -1: "),
        ({"diffusion_steps": 0}, "diffusion_steps 0: give 1 or more"),
    ):
        with pytest.raises(UserError, match=message):
            MADAD(dataclasses.replace(CONFIG, **changes), NO_RECORD)
    with pytest.raises(UserError, match="not fitted yet"):
        MADAD(CONFIG, NO_RECORD).score(films([0]).batch([0]))
