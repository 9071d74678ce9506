"""What the latent methods share: stages that resume, one autoencoder for several, its latents."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from nofinding.errors import UserError
from nofinding.functional.noise import generators
from nofinding.methods.base.cached_latents import LatentMethod
from nofinding.methods.latent_diffusion.diad import DiAD, DiADConfig
from nofinding.methods.latent_diffusion.mad_ad import MADAD, MADADConfig
from support.latent_films import AUTOENCODER, NET, NO_RECORD, QUIET, SIDE, films, quick

DIAD = DiADConfig(
    image_size=SIDE,
    autoencoder=AUTOENCODER,
    net=NET,
    denoiser=quick(3),
    guidance=quick(3),
    layers=(0,),
)
MAD = MADADConfig(
    image_size=SIDE,
    autoencoder=AUTOENCODER,
    net=NET,
    patches=(1,),
    patch_chances=(1,),
    train=quick(3),
)
NORMAL = films(range(8))


def same(one: LatentMethod, other: LatentMethod) -> bool:
    here, there = one.autoencoder.state_dict(), other.autoencoder.state_dict()
    return all(torch.equal(here[name], there[name]) for name in here)


def test_stages_have_folders_of_their_own_and_resume(tmp_path: Path) -> None:
    job = dataclasses.replace(QUIET, folder=tmp_path)
    first = DiAD(DIAD, NO_RECORD).fit(NORMAL, seed=1, job=job)
    folders = {path.name for path in tmp_path.iterdir()}
    assert folders == {"autoencoder", "denoiser", "guidance"}
    shutil.rmtree(tmp_path / "guidance")  # as if it had been killed before the third stage
    again = DiAD(DIAD, NO_RECORD)
    again.fit(NORMAL, seed=1, job=dataclasses.replace(job, resume=True))
    expected, result = first.state(), again.state()
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_methods_that_train_the_same_autoencoder_train_it_once(tmp_path: Path) -> None:
    job = dataclasses.replace(QUIET, shared=tmp_path)
    one = DiAD(DIAD, NO_RECORD).fit(NORMAL, job=job)
    assert one.borrowed_seconds == 0
    two = MADAD(MAD, NO_RECORD).fit(NORMAL, job=job)
    assert two.borrowed_seconds > 0
    assert same(one, two)
    longer = dataclasses.replace(AUTOENCODER, train=quick(5))
    three = MADAD(dataclasses.replace(MAD, autoencoder=longer), NO_RECORD).fit(NORMAL, job=job)
    assert three.borrowed_seconds == 0
    assert not same(one, three)


def test_latents_have_unit_spread_and_are_drawn_by_row() -> None:
    detector = MADAD(MAD, NO_RECORD).fit(NORMAL, job=QUIET)
    latents = detector.latents(NORMAL, QUIET)
    assert latents.mean.std().item() == pytest.approx(1, abs=1e-3)
    batch = NORMAL.batch([5, 2])
    rows = ["a", "b"]
    drawn = latents.draw(batch.ids, generators(0, rows))
    alone = latents.draw(batch.ids[1:], generators(0, rows[1:]))
    assert torch.equal(drawn[1:], alone)
    noise = torch.randn(alone.shape[1:], generator=generators(0, ["b"])[0])
    torch.testing.assert_close(alone[0], latents.mean[2] + latents.std[2] * noise)
    encoded = detector.autoencoder.encode(batch.image)
    torch.testing.assert_close(latents.mean[[5, 2]], encoded, rtol=0, atol=1e-4)


def test_the_feature_distance_is_part_of_the_loss_where_it_has_a_weight() -> None:
    config = dataclasses.replace(AUTOENCODER, perceptual=0.5, train=quick(1))
    calls = MADAD(dataclasses.replace(MAD, autoencoder=config), NO_RECORD).fit(NORMAL, job=QUIET)
    plain = dataclasses.replace(config, perceptual=0.0)
    other = MADAD(dataclasses.replace(MAD, autoencoder=plain), NO_RECORD).fit(NORMAL, job=QUIET)
    assert not same(calls, other)


def test_impossible_sizes_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="image_size 15: give a multiple of 2"):
        MADAD(dataclasses.replace(MAD, image_size=15), NO_RECORD)
    with pytest.raises(UserError, match="latent side 1: must be a multiple of 2"):
        MADAD(dataclasses.replace(MAD, image_size=2), NO_RECORD)
    with pytest.raises(UserError, match="heads 3: must divide"):
        MADAD(dataclasses.replace(MAD, net=dataclasses.replace(NET, heads=3)), NO_RECORD)
