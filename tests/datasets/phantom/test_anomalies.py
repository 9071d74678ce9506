"""Findings: exact masks, and the kind that only the record reveals."""

import pickle

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from sklearn.metrics import roc_auc_score

from nofinding.data.ehr import FIELDS
from nofinding.datasets.phantom import PHANTOM
from nofinding.datasets.phantom.anatomy import CTR_RESIDUAL_SD, anatomy, expected_ctr
from nofinding.datasets.phantom.anomalies import KINDS
from nofinding.datasets.phantom.film import VISIBLE, PhantomFilm, PhantomLesion
from nofinding.datasets.phantom.patients import patient, pressure_expected, pressure_of_another

N = 300


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_where_the_film_changed(kind: str) -> None:
    for index in range(40, 46):
        film = PhantomFilm(seed=0, index=index, size=128, kind=kind)
        mask = pickle.loads(pickle.dumps(PhantomLesion(film=film)))()
        assert mask.shape == (128, 128)
        assert mask.dtype == bool
        assert 4 <= mask.sum() < 0.3 * mask.size
        change = np.abs(film.clean() - film.twin().clean())
        assert change[mask].min() > VISIBLE
        outside = change[~binary_dilation(mask, iterations=2)]
        assert outside.max() < 4 * VISIBLE  # scatter, and the display's local contrast
        assert np.mean(outside > VISIBLE) < 0.03
        assert outside.mean() < 0.1 * change[mask].mean()


def test_the_noise_is_that_of_the_twin() -> None:
    film = PhantomFilm(seed=0, index=5, size=128, kind="nodule")
    far = ~binary_dilation(PhantomLesion(film=film)(), iterations=8)
    assert np.abs(film() - film.twin()())[far].max() < 0.01


def test_a_normal_film_has_no_mask_and_is_its_own_twin() -> None:
    exam = next(iter(PHANTOM.read("size=64", FIELDS)))
    assert exam.findings == frozenset()
    assert exam.lesion is None
    film = PhantomFilm(seed=0, index=0, size=64)
    assert not PhantomLesion(film=film)().any()


def test_findings_differ_from_patient_to_patient() -> None:
    for kind in KINDS:
        masks = [
            PhantomLesion(film=PhantomFilm(seed=0, index=i, size=64, kind=kind))() for i in (1, 2)
        ]
        assert (masks[0] != masks[1]).any()


def _hearts(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Conditional or not, heart width, width expected of the record, what else a film shows."""
    abnormal = np.arange(2 * N) >= N
    exams = [patient(seed, index) for index in range(2 * N)]
    shown = [
        PhantomFilm(seed=seed, index=i, size=64, kind="conditional" if abnormal[i] else None)
        for i in range(2 * N)
    ]
    width = np.array([film.body().ctr for film in shown])
    expected = np.array([expected_ctr(ehr) for ehr in exams])
    names = ("age", "sex", "bmi", "height", "view")
    calls = np.array([[1.0, *(ehr[name] for name in names)] for ehr in exams])
    return abnormal, width, expected, calls


@pytest.mark.parametrize("seed", [0, 1])
def test_a_conditional_heart_is_odd_only_given_the_record(seed: int) -> None:
    abnormal, width, expected, calls = _hearts(seed)
    assert abs(roc_auc_score(abnormal, width) - 0.5) < 0.08
    unusual = np.abs(width - np.median(width[~abnormal]))
    assert abs(roc_auc_score(abnormal, unusual) - 0.5) < 0.08
    # Nor does the rest of the film give it away: age, sex, size and view show in the anatomy.
    weights = np.linalg.lstsq(calls[~abnormal], width[~abnormal], rcond=None)[0]
    assert abs(roc_auc_score(abnormal, np.abs(width - calls @ weights)) - 0.5) < 0.08
    off = np.abs(width - expected)
    assert roc_auc_score(abnormal, off) > 0.97
    assert off[abnormal].min() > 4 * CTR_RESIDUAL_SD
    assert np.median(off[abnormal]) > 0.07


def test_a_conditional_film_is_a_normal_film_of_another_pressure() -> None:
    ehr = patient(0, 9)
    other = ehr | {"systolic": pressure_of_another(ehr)}
    film = PhantomFilm(seed=0, index=9, size=64, kind="conditional")
    twin = anatomy(other, 0, 9)
    own = film.body()
    assert own.ctr == pytest.approx(twin.ctr)
    names = [name for name in own.__slots__ if name != "ctr"]
    assert [getattr(own, name) for name in names] == [getattr(twin, name) for name in names]


def test_the_pressures_of_others_are_distributed_as_the_true_ones() -> None:
    exams = [patient(2, index) for index in range(2000)]
    own = np.array([ehr["systolic"] - pressure_expected(ehr) for ehr in exams])
    others = np.array([pressure_of_another(ehr) - pressure_expected(ehr) for ehr in exams])
    quantiles = np.linspace(0.02, 0.98, 25)
    assert np.abs(np.quantile(own, quantiles) - np.quantile(others, quantiles)).max() < 4
    assert np.abs(own - others).min() > 28


def test_an_enlarged_heart_is_beyond_the_normal_ones() -> None:
    normal = [PhantomFilm(seed=0, index=i, size=64).body().ctr for i in range(100)]
    large = [PhantomFilm(seed=0, index=i, size=64, kind="cardiomegaly").body() for i in range(100)]
    assert min(body.ctr for body in large) >= 0.62
    assert all(body.ctr >= usual + 0.0999 for body, usual in zip(large, normal, strict=True))
