"""Tissue adds to the log of the attenuation, whatever the exposure; nothing adds nothing."""

import numpy as np
import pytest
from scipy import ndimage

from nofinding.datasets.insertion.exposure import (
    SCATTER,
    Curve,
    Exposed,
    blur_of,
    contrast_to_noise,
    noise_about,
)
from nofinding.datasets.insertion.scene import Scene

CURVE = Curve(dark=0.0, bright=1.0, gain=1.2, lung=0.3)


def shadow(shape: tuple[int, int] = (96, 96)) -> np.ndarray:
    attenuation = np.zeros(shape)
    attenuation[40:56, 40:56] = 0.3
    return attenuation


def test_the_curve_and_its_inverse_agree() -> None:
    grey = np.linspace(0.05, 0.95, 50)[None]
    np.testing.assert_allclose(CURVE.grey(CURVE.log_attenuation(grey)), grey, atol=1e-12)
    assert CURVE.log_attenuation(np.array([[0.3]]))[0, 0] == pytest.approx(0)


def test_twice_the_exposure_gets_the_same_log_difference() -> None:
    nepers = np.random.default_rng(0).normal(0, 0.2, (96, 96))
    once = CURVE.grey(nepers)
    twice = CURVE.grey(nepers - np.log(2))
    added = []
    for film, lung in ((once, 0.3), (twice, float(CURVE.grey(np.array([[-np.log(2)]]))[0, 0]))):
        curve = Curve(dark=0.0, bright=1.0, gain=1.2, lung=lung)  # the lungs are darker, too
        shown = Exposed.of(film, curve, 0.8).shown(shadow())
        added.append(curve.log_attenuation(shown) - curve.log_attenuation(film))
    np.testing.assert_allclose(added[0], added[1], atol=1e-9)
    assert added[0].max() > 0.15


def test_less_grey_is_added_where_the_curve_is_flat() -> None:
    changes = []
    for nepers in (0.0, 3.0):
        film = CURVE.grey(np.full((96, 96), nepers))
        changes.append(np.abs(Exposed.of(film, CURVE, 0.8).shown(shadow()) - film).max())
    assert changes[1] < 0.4 * changes[0]


def test_two_bodies_add_where_there_is_no_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nofinding.datasets.insertion.exposure.SCATTER", (0.0, 0.0))
    film = CURVE.grey(np.zeros((96, 96)))
    exposed = Exposed.of(film, CURVE, 1e-6)
    np.testing.assert_allclose(exposed.added(2 * shadow()), 2 * exposed.added(shadow()), atol=1e-9)


def test_scatter_takes_its_share_of_the_contrast() -> None:
    film = CURVE.grey(np.zeros((96, 96)))
    added = Exposed.of(film, CURVE, 1e-6).added(np.full((96, 96), 1e-4))
    assert added.mean() / 1e-4 == pytest.approx(1 - SCATTER[0], rel=1e-3)


def test_no_attenuation_changes_nothing(scenes: list[Scene]) -> None:
    for scene in scenes:
        exposed = Exposed.of(scene.film, scene.curve, scene.blur)
        np.testing.assert_array_equal(exposed.shown(np.zeros(scene.shape)), scene.film)


@pytest.mark.parametrize("sigma", [0.8, 1.3, 2.0])
def test_the_blur_of_edges_is_read_from_them(sigma: float) -> None:
    y, x = np.mgrid[:200, :200]
    edges = (((y // 25) + (x // 25)) % 2).astype(float)
    film = ndimage.gaussian_filter(edges, sigma)
    assert blur_of(film) == pytest.approx(sigma, rel=0.2)


def test_contrast_to_noise_is_the_ratio_that_it_says() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    slope = 0.001 * y + 0.002 * x  # no noise: a plane is taken away
    film = slope + rng.normal(0, 0.01, slope.shape)
    mask = (y - 64) ** 2 + (x - 64) ** 2 < 100
    changed = film + 0.03 * mask
    assert noise_about(film, mask) == pytest.approx(0.01, rel=0.1)
    assert contrast_to_noise(film, changed, mask) == pytest.approx(3.0, rel=0.1)
