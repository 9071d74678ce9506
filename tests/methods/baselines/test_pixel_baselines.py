"""pixel-knn and pca against scikit-learn, and what they show of a film."""

from dataclasses import dataclass

import numpy as np
import pytest
import sklearn.decomposition
import sklearn.neighbors
import torch

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.methods.baselines.pca import PCA, PCAConfig, principal
from nofinding.methods.baselines.pixel_knn import PixelKNN, PixelKNNConfig
from nofinding.types import Exam, Pixels

SIDE = 12
NO_RECORD = EhrStats.of([], [])


@dataclass(frozen=True)
class Waves:
    """A sum of three gratings of random strength, and a little noise."""

    seed: int

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
        a, b, c = rng.uniform(-1, 1, 3)
        film = 0.5 + 0.15 * (a * np.sin(6 * x) + b * np.cos(4 * y) + c * np.sin(5 * (x + y)))
        return np.clip(film + 0.01 * rng.standard_normal(film.shape), 0, 1).astype(np.float32)


def films(first: int, count: int) -> Films:
    exams = [
        Exam(image_id=str(n), patient_id=str(n), pixels=Waves(n), ehr={})
        for n in range(first, first + count)
    ]
    return Films(exams, NO_RECORD, SIDE)


def greys(some: Films) -> np.ndarray:
    return (some.batch(range(len(some))).image.flatten(1).double().numpy() + 1) / 2


NORMAL, OTHER = films(0, 40), films(100, 7)


@pytest.mark.parametrize("k", [1, 5])
def test_pixel_knn_is_scikit_learns(k: int) -> None:
    detector = PixelKNN(PixelKNNConfig(image_size=SIDE, k=k), NO_RECORD).fit(NORMAL)
    scores = detector.score(OTHER.batch(range(7)))
    model = sklearn.neighbors.NearestNeighbors(n_neighbors=k).fit(greys(NORMAL))
    distance, place = model.kneighbors(greys(OTHER))
    np.testing.assert_allclose(scores.score.numpy(), distance.mean(1), rtol=1e-5)
    np.testing.assert_allclose(scores.components["nearest"].numpy(), distance[:, 0], rtol=1e-5)
    alike = NORMAL.batch(place[:, 0].tolist()).image
    assert scores.reconstruction is not None and scores.anomaly_map is not None
    torch.testing.assert_close(scores.reconstruction, alike)
    torch.testing.assert_close(scores.anomaly_map, (OTHER.batch(range(7)).image - alike).abs() / 2)


def test_pca_is_scikit_learns() -> None:
    model = sklearn.decomposition.PCA(n_components=3, svd_solver="full").fit(greys(NORMAL))
    mean, directions = principal(torch.from_numpy(greys(NORMAL)), 3)
    np.testing.assert_allclose(mean.numpy(), model.mean_, atol=1e-12)
    np.testing.assert_allclose(directions.numpy(), model.components_, atol=1e-9)  # sign, too
    detector = PCA(PCAConfig(image_size=SIDE, components=3), NO_RECORD).fit(NORMAL)
    scores = detector.score(OTHER.batch(range(7)))
    x = greys(OTHER)
    projected = model.inverse_transform(model.transform(x))
    np.testing.assert_allclose(
        scores.score.numpy(), np.square(x - projected).mean(1), rtol=1e-4, atol=1e-9
    )
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    np.testing.assert_allclose(scores.anomaly_map.flatten(1).numpy(), abs(x - projected), atol=1e-6)
    np.testing.assert_allclose(
        scores.reconstruction.flatten(1).numpy(), projected * 2 - 1, atol=1e-6
    )


def test_pca_keeps_what_normal_films_do_and_leaves_what_they_do_not() -> None:
    detector = PCA(PCAConfig(image_size=SIDE, components=3), NO_RECORD).fit(NORMAL)
    batch = OTHER.batch([0])
    usual = detector.score(batch)
    assert usual.score < 5e-4  # three gratings are three components: noise of 0.01 is left
    batch.image[0, 0, 4, 4] += 0.5
    strange = detector.score(batch)
    assert strange.anomaly_map is not None
    assert strange.anomaly_map[0, 0].argmax() == 4 * SIDE + 4
    assert strange.score > 5 * usual.score


def test_bad_settings_and_unfitted_methods_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="k 0: give 1 or more"):
        PixelKNN(PixelKNNConfig(k=0), NO_RECORD)
    with pytest.raises(UserError, match="2 normal films; k = 3"):
        PixelKNN(PixelKNNConfig(image_size=SIDE, k=3), NO_RECORD).fit(films(0, 2))
    with pytest.raises(UserError, match="components 64: give 1 to 63"):
        PCA(PCAConfig(image_size=8, components=64), NO_RECORD)
    with pytest.raises(UserError, match="4 normal films; 4 components need 5"):
        PCA(PCAConfig(image_size=SIDE, components=4), NO_RECORD).fit(films(0, 4))
    for kind in (PixelKNN, PCA):
        with pytest.raises(UserError, match="not fitted yet"):
            kind(kind.PRESETS["tiny"], NO_RECORD).score(OTHER.batch([0]))
