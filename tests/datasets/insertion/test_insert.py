"""Lesions are where their masks say, as large and as conspicuous as asked, and the same again."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import nofinding.datasets.insertion as insertion
from nofinding.datasets.insertion.exposure import contrast_to_noise
from nofinding.datasets.insertion.insert import KINDS, Inserted, insert, put
from nofinding.datasets.insertion.nodules import mass, small_nodule
from nofinding.datasets.insertion.scene import Scene, Shadow, scene_of
from nofinding.datasets.insertion.volumes import nodule, rasterised


@pytest.fixture(scope="module")
def lesions(scenes: list[Scene]) -> dict[str, list[tuple[Scene, Inserted]]]:
    every: dict[str, list[tuple[Scene, Inserted]]] = {}
    for kind in KINDS:
        pairs = [(scene, insert(scene, kind, f"film {i}")) for i, scene in enumerate(scenes)]
        every[kind] = [(scene, lesion) for scene, lesion in pairs if lesion is not None]
    return every


@pytest.mark.parametrize("kind", KINDS)
def test_the_change_is_in_and_about_the_mask(
    kind: str, lesions: dict[str, list[tuple[Scene, Inserted]]]
) -> None:
    assert len(lesions[kind]) >= 3
    for scene, lesion in lesions[kind]:
        change = np.abs(lesion.film - scene.film)
        assert lesion.mask.any() and lesion.mask.shape == scene.shape
        assert lesion.film.dtype == np.float32
        assert lesion.film.min() >= 0 and lesion.film.max() <= 1
        beyond = ndimage.distance_transform_edt(~lesion.mask) > 60 * scene.millimetre
        assert change[lesion.mask].mean() > 3 * change[beyond].mean()
        assert lesion.contrast == pytest.approx(
            contrast_to_noise(scene.film, lesion.film, lesion.mask)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_same_key_same_lesion_another_key_another(kind: str, scenes: list[Scene]) -> None:
    once, again = insert(scenes[0], kind, "a"), insert(scenes[0], kind, "a")
    other = insert(scenes[0], kind, "b")
    assert once is not None and again is not None and other is not None
    np.testing.assert_array_equal(once.film, again.film)
    np.testing.assert_array_equal(once.mask, again.mask)
    assert not np.array_equal(once.film, other.film)


def test_a_shadow_of_nothing_leaves_the_film(scenes: list[Scene]) -> None:
    for scene in scenes:
        stored = np.round(scene.film * 255) / 255
        scene_of_8_bits = scene_of(stored)
        assert scene_of_8_bits is not None
        nothing = Shadow(
            attenuation=np.zeros(scene.shape),
            mask=np.zeros(scene.shape, dtype=bool),
            diameter=0.0,
            cell="",
        )
        film = put(scene_of_8_bits, nothing)
        np.testing.assert_array_equal(film, stored.astype(np.float32))


def test_a_nodule_is_as_large_as_it_says(scenes: list[Scene]) -> None:
    for seed in range(12):
        shadow = mass(scenes[seed % len(scenes)], np.random.default_rng(seed))
        assert shadow is not None
        area = shadow.mask.sum() / scenes[0].millimetre ** 2
        assert np.sqrt(4 / np.pi * area) == pytest.approx(shadow.diameter, rel=0.08)


def test_contrast_to_noise_is_as_asked_within_what_tissue_can_do(scenes: list[Scene]) -> None:
    near = 0
    for seed in range(8):
        scene = scenes[seed % len(scenes)]
        shadow = small_nodule(scene, np.random.default_rng(seed))
        assert shadow is not None
        plain = contrast_to_noise(scene.film, put(scene, shadow), shadow.mask)
        film = put(scene, shadow, contrast=1.6 * plain)
        measured = contrast_to_noise(scene.film, film, shadow.mask)
        near += abs(measured / (1.6 * plain) - 1) < 0.15  # grey levels are whole
    assert near >= 7


def test_the_mask_is_where_the_body_projects(scenes: list[Scene]) -> None:
    shadow = mass(scenes[0], np.random.default_rng(3))
    assert shadow is not None
    inside = ndimage.binary_erosion(shadow.mask, iterations=2)
    outside = ~ndimage.binary_dilation(shadow.mask, iterations=3)
    assert np.abs(shadow.attenuation[outside]).max() < 1e-3
    assert (np.abs(shadow.attenuation[inside]) > 1e-3).mean() > 0.95


def test_a_map_laid_on_pixels_keeps_its_sum_and_place() -> None:
    fine = np.zeros((21, 21))
    fine[8:13, 8:13] = 1
    laid = rasterised(fine, 0.37, (20.25, 31.5), (64, 64))
    assert laid.sum() == pytest.approx(fine.sum() * 0.37**2, rel=0.02)
    assert ndimage.center_of_mass(laid) == pytest.approx((20.25, 31.5), abs=0.1)


@pytest.mark.parametrize(
    "kind", ["smooth", "lobulated", "spiculated", "part-solid", "calcified", "cavitating"]
)
def test_bodies_are_whole_and_no_ellipsoids(kind: str) -> None:
    density, body = nodule(np.random.default_rng(5), kind=kind)
    assert ndimage.label(body)[1] >= 1 and body.any()
    if kind != "spiculated":  # a ray may end at the edge of the grid
        assert not body[0].any() and not body[-1].any()
    assert density.min() >= 0 and density[~ndimage.binary_dilation(body, iterations=3)].max() < 0.02


def test_calcium_is_denser_than_soft_tissue() -> None:
    calcified = nodule(np.random.default_rng(1), kind="calcified")[0].max()
    assert calcified > 2 > nodule(np.random.default_rng(1), kind="smooth")[0].max()


def test_films_without_two_lungs_are_refused() -> None:
    assert scene_of(np.zeros((224, 224))) is None
    assert scene_of(np.random.default_rng(0).random((224, 224))) is None
    assert scene_of(np.zeros((8, 8))) is None


def test_an_inverted_film_is_refused(scenes: list[Scene]) -> None:
    assert all(scene_of(1 - scene.film) is None for scene in scenes)


def test_shares_no_code_with_what_networks_are_taught_on() -> None:
    folder = Path(insertion.__file__).parent
    code = "".join(file.read_text() for file in folder.glob("*.py"))
    assert "nofinding.functional" not in code.replace("`functional", "")
    assert "nofinding.datasets.synthetic" not in code
    assert "import torch" not in code
