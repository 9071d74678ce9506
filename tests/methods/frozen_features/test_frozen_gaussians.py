"""mahalanobis and padim against scikit-learn and the plain definition."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from nofinding.errors import UserError
from nofinding.functional.features.neighbourhoods import join
from nofinding.methods.frozen_features.mahalanobis import Mahalanobis, MahalanobisConfig
from nofinding.methods.frozen_features.padim import PaDiM, PaDiMConfig
from nofinding.training import TrainingRun
from support.small_films import NO_RECORD, films

QUIET = TrainingRun(progress=False, accelerator="cpu")


def test_mahalanobis_is_scikit_learns_summed_over_layers() -> None:
    config = MahalanobisConfig(image_size=32, layers=(2, 3), batch_size=7)
    normal, new = films(range(30), 32), films(range(40, 44), 32).batch(range(4))
    detector = Mahalanobis(config, NO_RECORD).fit(normal, job=QUIET)
    expected = np.zeros(4)
    for layer in range(2):
        x, y = (
            detector.maps(b.image)[layer].mean((2, 3)).double().numpy()
            for b in (normal.batch(range(30)), new)
        )
        expected += LedoitWolf().fit(x).mahalanobis(y) ** 0.5
    scores = detector.score(new)
    np.testing.assert_allclose(scores.score, expected, rtol=1e-3)
    torch.testing.assert_close(
        scores.components["layer_2"] + scores.components["layer_3"], scores.score
    )
    fixed = dataclasses.replace(config, shrinkage=1.0)  # a sphere: Euclidean, but for its size
    other = Mahalanobis(fixed, NO_RECORD).fit(normal, job=QUIET).score(new).score
    assert not torch.allclose(other, scores.score)


def plain_padim(detector: PaDiM, normal: Tensor, new: Tensor) -> np.ndarray:
    """Place by place, as the paper writes it."""
    selection = detector.state()["channels"]
    x, y = (join(detector.maps(f), "nearest")[:, selection].double().numpy() for f in (normal, new))
    result = np.zeros((len(y), *y.shape[2:]))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            cov = np.cov(x[:, :, i, j], rowvar=False) + 0.01 * np.eye(x.shape[1])
            gap = y[:, :, i, j] - x[:, :, i, j].mean(0)
            result[:, i, j] = np.sqrt(np.einsum("bc,cd,bd->b", gap, np.linalg.inv(cov), gap))
    return result


def test_padim_is_a_gaussian_at_every_place() -> None:
    config = PaDiMConfig(image_size=48, layers=(2, 4), channels=10, sigma=0.0, batch_size=5)
    normal = films(range(24))
    new = films(range(40, 43), square=(6, 30)).batch(range(3))
    detector = PaDiM(config, NO_RECORD).fit(normal, seed=2, job=QUIET)
    scores = detector.score(new)
    expected = plain_padim(detector, normal.batch(range(24)).image, new.image)
    assert scores.anomaly_map is not None
    grown = torch.nn.functional.interpolate(
        torch.from_numpy(expected).float()[:, None], size=(48, 48), mode="bilinear"
    )
    torch.testing.assert_close(scores.anomaly_map, grown, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores.score, grown.amax((1, 2, 3)), rtol=1e-3, atol=1e-3)
    place = scores.anomaly_map.flatten(1).argmax(1)
    assert ((place // 48 < 24) & (place % 48 > 24)).all()  # where the square is


def test_padim_draws_its_channels_by_the_seed() -> None:
    config = PaDiMConfig(image_size=32, layers=(2, 3), channels=10)
    first, other = (
        PaDiM(config, NO_RECORD).fit(films(range(6), 32), seed=s, job=QUIET).state()["channels"]
        for s in (0, 1)
    )
    assert len(first.unique()) == 10 and first.max() < 24 + 40
    assert not torch.equal(first, other)
    everything = dataclasses.replace(config, channels=1000)
    result = PaDiM(everything, NO_RECORD).fit(films(range(6), 32), job=QUIET).state()["channels"]
    assert torch.equal(result, torch.arange(64))


def test_one_film_has_no_spread_and_bad_settings_are_refused() -> None:
    for kind in (Mahalanobis, PaDiM):
        tiny = kind.PRESETS["tiny"]
        with pytest.raises(UserError, match="1 normal films; a spread needs 2 or more"):
            kind(tiny, NO_RECORD).fit(films([1], tiny.image_size), job=QUIET)
    with pytest.raises(UserError, match="shrinkage 2: give 1 or less"):
        MahalanobisConfig(shrinkage=2)
    with pytest.raises(UserError, match=r"ridge 0: give above 0"):
        PaDiMConfig(ridge=0.0)
