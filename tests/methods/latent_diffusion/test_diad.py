"""DiAD: the film steers what is drawn; the way from noise to film; the map."""

import dataclasses

import pytest
import torch
from torch import Tensor

from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, predict_eps
from nofinding.methods.latent_diffusion.diad import DiAD, DiADConfig, cosine_map
from support.latent_films import AUTOENCODER, NET, NO_RECORD, QUIET, SIDE, films, quick

CONFIG = DiADConfig(
    image_size=SIDE,
    autoencoder=dataclasses.replace(AUTOENCODER, train=quick(30)),
    net=NET,
    denoiser=quick(6),
    guidance=dataclasses.replace(quick(30), lr=1e-2),
    steps=4,
    layers=(0, 1),
)


@pytest.fixture(scope="module")
def fitted() -> DiAD:
    return DiAD(CONFIG, NO_RECORD).fit(films(range(12)), job=QUIET)


@torch.no_grad()
def test_what_is_drawn_follows_the_film_only_through_the_guidance(
    fitted: DiAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = films(range(20, 26)).batch(range(6)).image
    noise = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    guided = fitted.redraw(film, noise)
    alone = fitted.guided
    monkeypatch.setattr(fitted, "guided", lambda z, t, film: alone(z, t, None))
    unguided = fitted.redraw(film, noise)
    assert not torch.equal(guided, unguided)

    def error(prediction: Tensor) -> Tensor:
        return (prediction - film).square().mean()

    assert error(guided) < 0.97 * error(unguided)


@pytest.mark.parametrize("predicts", ["eps", "x0"])
@torch.no_grad()
def test_from_the_start_level_down_to_the_film_in_equal_strides(
    predicts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = DiAD(dataclasses.replace(CONFIG, predicts=predicts, steps=10), NO_RECORD)
    assert detector.levels() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    film = films([3]).batch([0]).image
    z0 = detector.autoencoder.encode(film)
    noise, expected = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    calls: list[tuple[Tensor, float]] = []

    def knows(z: Tensor, t: Tensor, film: Tensor) -> Tensor:
        calls.append((z, float(t)))
        return expected if predicts == "x0" else predict_eps(z, expected, detector.abar[int(t)])

    monkeypatch.setattr(detector, "guided", knows)
    prediction = detector.redraw(film, noise)
    assert [level for _, level in calls] == detector.levels()
    torch.testing.assert_close(calls[0][0], add_noise(z0, noise, detector.abar[999]))
    # Each step keeps the noise and takes the predicted latent, one level lower.
    torch.testing.assert_close(
        calls[1][0],
        add_noise(
            expected, predict_eps(calls[0][0], expected, detector.abar[999]), detector.abar[899]
        ),
        rtol=1e-4,
        atol=1e-4,
    )
    torch.testing.assert_close(
        prediction, detector.autoencoder.decode(expected), rtol=1e-3, atol=1e-3
    )


def test_abar_is_stable_diffusions() -> None:
    abar = DiAD(CONFIG, NO_RECORD).abar
    root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    torch.testing.assert_close(abar, (1 - root**2).cumprod(0))
    assert abar[999].item() == pytest.approx(0.00466, abs=1e-5)


def test_map_is_one_minus_the_cosine_summed_over_layers() -> None:
    a = torch.zeros(1, 2, 2, 2)
    a[:, 0] = 3
    b = a.clone()
    b[0, :, 0, 0] = torch.tensor([0.0, 1.0])  # at right angles
    b[0, :, 1, 1] = torch.tensor([-2.0, 0.0])  # opposite
    result = cosine_map([a, a], [b, a], 2)
    torch.testing.assert_close(result[0, 0], torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert torch.equal(cosine_map([a, a], [b, b], 2), 2 * result)
    assert cosine_map([a], [7 * a], 5).abs().max() < 1e-6


def test_the_score_is_the_largest_value_of_the_blurred_map(fitted: DiAD) -> None:
    batch = films(range(20, 23)).batch(range(3))
    scores = fitted.score(batch)
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    torch.testing.assert_close(scores.score, scores.anomaly_map.amax((1, 2, 3)))
    sharp = DiAD(dataclasses.replace(CONFIG, sigma=0.0), NO_RECORD)
    sharp.load_state(fitted.state())
    unblurred = sharp.score(batch)
    assert (unblurred.score > scores.score).all()
    with torch.no_grad():
        expected = cosine_map(
            fitted.features(batch.image), fitted.features(scores.reconstruction), SIDE
        )
    torch.testing.assert_close(unblurred.anomaly_map, expected)
    assert not any(name.startswith("features") for name in fitted.state())


def test_bad_settings_are_refused_in_one_line() -> None:
    for name, value, message in (
        ("start", 1000, "start 1000: give 0 to 999"),
        ("steps", 0, r"steps 0: give 1 to start \+ 1 = 1000"),
        ("beta_first", 0.5, "give 0 < first <= last < 1"),
        ("net", dataclasses.replace(NET, multipliers=(1,)), "two levels of the U-Net"),
        ("layers", (99,), "give some of 0 to 15"),
    ):
        with pytest.raises(UserError, match=message):
            DiAD(dataclasses.replace(CONFIG, **{name: value}), NO_RECORD)
    with pytest.raises(UserError, match="not fitted yet"):
        DiAD(CONFIG, NO_RECORD).score(films([0]).batch([0]))
