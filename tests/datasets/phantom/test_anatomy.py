"""Each dependence of the anatomy on the record has the sign that it has in life."""

import numpy as np
import pytest

from nofinding.datasets.phantom import render
from nofinding.datasets.phantom.anatomy import CTR_RESIDUAL_SD, anatomy, expected_ctr, magnification
from nofinding.datasets.phantom.bones import bones
from nofinding.datasets.phantom.patients import patient
from nofinding.datasets.phantom.tissue import Grid, heart, soft_tissue, thorax_half_width

BASE = {
    "age": 50.0,
    "sex": 0.0,
    "view": 0.0,
    "bmi": 25.0,
    "height": 168.0,
    "weight": 70.6,
    "systolic": 125.0,
}


@pytest.mark.parametrize(
    ("field", "value", "part", "sign"),
    [
        ("systolic", 150, "ctr", 1),
        ("age", 75, "ctr", 1),
        ("view", 1, "ctr", 1),
        ("bmi", 35, "wall", 1),
        ("weight", 100, "wall", 1),
        ("bmi", 35, "lung_length", -1),  # higher diaphragm
        ("view", 1, "lung_length", -1),
        ("height", 185, "lung_length", 1),
        ("height", 185, "thorax_half", 1),
        ("sex", 1, "thorax_half", 1),
        ("sex", 1, "breast", -1),
        ("bmi", 35, "breast", 1),
        ("age", 80, "aorta", 1),
        ("age", 80, "unfolding", 1),
        ("age", 80, "bone", -1),
        ("view", 1, "magnification", 1),
        ("view", 1, "mediastinum", 1),
        ("view", 1, "scapula_overlap", 1),
        ("view", 1, "shoulder_rise", 1),
    ],
)
def test_the_record_shapes_the_anatomy(field: str, value: float, part: str, sign: int) -> None:
    for index in range(5):
        before = getattr(anatomy(BASE, 0, index), part)
        after = getattr(anatomy(BASE | {field: float(value)}, 0, index), part)
        assert sign * (after - before) > 0


def test_the_spine_bends_with_age() -> None:
    young, old = (
        np.std([anatomy(BASE | {"age": age}, 0, i).spine_bend for i in range(50)])
        for age in (30.0, 85.0)
    )
    assert old > 2 * young


def test_blood_pressure_changes_the_heart_and_nothing_else() -> None:
    low, high = (anatomy(BASE | {"systolic": value}, 0, 3) for value in (110.0, 150.0))
    changed = {name for name in low.__slots__ if getattr(low, name) != getattr(high, name)}
    assert changed == {"ctr"}


def test_spread_of_the_heart_width() -> None:
    exams = [patient(0, index) for index in range(600)]
    expected = np.array([expected_ctr(ehr) for ehr in exams])
    shown = np.array([anatomy(ehr, 0, index).ctr for index, ehr in enumerate(exams)])
    assert 0.045 < expected.std() < 0.065
    assert (shown - expected).std() == pytest.approx(CTR_RESIDUAL_SD, rel=0.1)


def test_the_heart_gains_an_eighth_from_pa_to_ap() -> None:
    """Chon et al. 2011: PA width = (0.00099 x distance + 0.79) x AP width, at 100 cm."""
    gain = magnification(True)[0] / magnification(False)[0]
    assert gain == pytest.approx(1 / (0.00099 * 100 + 0.79), abs=0.01)


@pytest.mark.parametrize("index", range(4))
def test_the_drawn_heart_is_as_wide_as_the_anatomy_says(index: int) -> None:
    body = anatomy(patient(0, index), 0, index)
    grid = Grid.of(body, 512)
    inside = grid.x[heart(body, grid) > 0]
    chest = 2 * thorax_half_width(body, np.linspace(0, 1.3 * body.lung_length, 200)).max()
    assert (inside.max() - inside.min()) / chest == pytest.approx(body.ctr, abs=0.01)


def test_rays_through_air_are_not_weakened_and_bone_stops_more_than_flesh() -> None:
    maps = soft_tissue(anatomy(BASE, 0, 0), Grid.of(anatomy(BASE, 0, 0), 128))
    for name in maps.__slots__:
        assert getattr(maps, name).min() >= 0
    mu = render.ATTENUATION
    assert mu["metal"] > mu["bone"] > mu["blood"] > mu["soft"] > mu["fat"] > mu["lung"] > 0
    assert mu["soft"] == pytest.approx(0.217, abs=0.002)  # cm^-1, NIST at 60 keV


def test_beer_lambert() -> None:
    body = anatomy(BASE, 0, 0)
    maps = render.thickness(body, render.rays(body, 256))
    for name in maps.__slots__:
        getattr(maps, name)[:] = 0
    np.testing.assert_array_equal(render.attenuate(maps, body, 256), 1)
    maps.soft[:] = 10
    maps.bone[:] = 1
    expected = np.exp(-(10 * 0.2048 * 1.06 + 0.3148 * 1.92))
    np.testing.assert_allclose(render.attenuate(maps, body, 256), expected, rtol=1e-4)


def test_scatter_lifts_what_lies_beside_an_open_beam() -> None:
    primary = np.full((128, 128), 0.02, np.float32)
    alone = render.detect(primary, 1.0)
    primary[:, 64:] = 1.0
    beside = render.detect(primary, 1.0)
    assert beside[64, 60] < alone[64, 60] - 0.5
    assert beside[64, 5] == pytest.approx(alone[64, 5], abs=0.01)


def test_noise_grows_where_fewer_photons_arrive() -> None:
    noise = np.random.default_rng(0).standard_normal((128, 128), np.float32)
    spread = []
    for share, exposure in ((1.0, 1.0), (0.01, 1.0), (0.01, 4.0)):
        primary = np.full((128, 128), share, np.float32)
        spread.append(np.std(render.detect(primary, exposure, noise)))
    assert spread[1] == pytest.approx(10 * spread[0], rel=0.1)
    assert spread[2] == pytest.approx(spread[1] / 2, rel=0.1)


def test_the_window_does_not_know_the_heart() -> None:
    windows = []
    for systolic in (100.0, 160.0):
        body = anatomy(BASE | {"systolic": systolic}, 0, 1)
        primary = render.attenuate(render.thickness(body, render.rays(body, 128)), body, 128)
        windows.append(render.window(render.detect(primary, body.exposure), body))
    wide = windows[0].high - windows[0].low
    assert abs(windows[0].low - windows[1].low) < 0.01 * wide
    assert abs(windows[0].high - windows[1].high) < 0.01 * wide


def test_all_bones_lie_inside_the_body() -> None:
    body = anatomy(BASE, 0, 0)
    maps = render.thickness(body, render.rays(body, 128))
    assert not maps.bone[maps.soft <= 0].any()
    assert bones(body, render.rays(body, 128)).max() < 6  # cm of cortical bone
