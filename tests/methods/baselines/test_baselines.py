"""The baselines give what they say, by hand on films of a few values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.methods.baselines.frozen_knn import FrozenKNN, FrozenKNNConfig
from nofinding.methods.baselines.mean_grey import MeanGrey, MeanGreyConfig
from nofinding.methods.baselines.thumbnail import Thumbnail, ThumbnailConfig
from nofinding.methods.reconstruction.autoencoder import AE, AEConfig
from nofinding.training import TrainConfig, Trained, TrainingRun
from nofinding.types import Exam, Pixels

NO_RECORD = EhrStats.of([], [])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Halves:
    """Left half of one grey, right half of another."""

    left: float
    right: float

    def __call__(self) -> Pixels:
        film = np.full((32, 32), self.left, np.float32)
        film[:, 16:] = self.right
        return film


def films(greys: Sequence[tuple[float, float]], size: int = 32) -> Films:
    exams = [
        Exam(image_id=str(i), patient_id=str(i), pixels=Halves(*pair), ehr={})
        for i, pair in enumerate(greys)
    ]
    return Films(exams, NO_RECORD, size)


def test_mean_grey_is_the_mean_grey() -> None:
    some = films([(0.0, 1.0), (0.25, 0.25), (1.0, 1.0)])
    scores = MeanGrey(MeanGreyConfig(image_size=32), NO_RECORD).score(some.batch(range(3))).score
    torch.testing.assert_close(scores, torch.tensor([0.5, 0.25, 1.0]), rtol=0, atol=1e-4)


def test_thumbnail_is_the_distance_from_the_mean_normal() -> None:
    detector = Thumbnail(ThumbnailConfig(image_size=32, side=4), NO_RECORD)
    detector.fit(films([(0.2, 0.4), (0.4, 0.8)]))  # mean 0.3 and 0.6
    scores = detector.score(films([(0.3, 0.6), (0.5, 0.6)]).batch(range(2)))
    # Eight of the 16 pixels of the thumbnail are off by 0.2.
    expected = torch.tensor([0.0, 0.2 * 8**0.5])
    torch.testing.assert_close(scores.score, expected, rtol=0, atol=1e-3)
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    assert scores.anomaly_map[1, 0, 5, 2] == pytest.approx(0.2, abs=1e-3)
    assert scores.anomaly_map[1, 0, 5, 29] == pytest.approx(0, abs=1e-3)
    assert scores.reconstruction[1, 0, 5, 29] == pytest.approx(0.2, abs=1e-3)  # 0.6 in [-1, 1]


def test_frozen_knn_is_zero_for_a_remembered_film_and_grows_with_k() -> None:
    normal = films([(0.1 * i, 0.05 * i) for i in range(1, 9)])
    config = FrozenKNNConfig(image_size=32, blocks=(1, 3))
    one = FrozenKNN(config, NO_RECORD).fit(normal)
    batch = normal.batch(range(8))
    assert one.state()["memory"].shape == (8, 24 + 40)
    torch.testing.assert_close(one.state()["memory"].mean(0), torch.zeros(64), rtol=0, atol=1e-4)
    assert one.score(batch).score.max() < 1e-3
    two = FrozenKNN(FrozenKNNConfig(image_size=32, blocks=(1, 3), k=2), NO_RECORD).fit(normal)
    assert two.score(batch).score.min() > 0.1


def test_ae_scores_the_residual_in_greys_of_zero_to_one() -> None:
    normal = films([(0.1 * i, 0.8 - 0.1 * i) for i in range(8)])
    detector = AE(AE.PRESETS["tiny"], NO_RECORD)
    detector.fit(normal, job=TrainingRun(progress=False, accelerator="cpu"))
    batch = normal.batch(range(8))
    scores = detector.score(batch)
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    torch.testing.assert_close(scores.score, scores.anomaly_map.square().mean((1, 2, 3)))
    torch.testing.assert_close(scores.components["mse"], scores.score)
    torch.testing.assert_close(scores.components["max_abs"], scores.anomaly_map.amax((1, 2, 3)))
    inside = scores.reconstruction.abs() < 1
    residual = (batch.image - scores.reconstruction).abs() / 2
    torch.testing.assert_close(scores.anomaly_map[inside], residual[inside], rtol=0, atol=1e-6)
    variance = ((batch.image + 1) / 2).var(0).mean()
    assert scores.score.mean() < 0.2 * variance  # it has learnt these films


def test_ae_epochs_replace_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    indices: list[int] = []

    def train(*given: Any, **named: Any) -> Trained:
        indices.append(given[3].steps)
        return Trained(0, 0.0, 0.0, ())

    monkeypatch.setattr("nofinding.methods.reconstruction.autoencoder.train", train)
    config = AEConfig(image_size=32, epochs=3, train=TrainConfig(steps=1, batch_size=4))
    AE(config, NO_RECORD).fit(films([(0.1, 0.2)] * 10))
    assert indices == [9]  # ten films are three batches of four
    paper = AE.PRESETS["paper"]
    assert (paper.epochs, paper.train.batch_size, paper.train.lr) == (250, 64, 5e-4)


def test_bad_settings_and_unfitted_methods_are_refused_in_one_line() -> None:
    batch = films([(0.1, 0.2)]).batch([0])
    with pytest.raises(UserError, match="image_size 40: give a multiple of 16"):
        AE(AEConfig(image_size=40), NO_RECORD)
    with pytest.raises(UserError, match=r"train\.batch_size 1: give 2"):
        AE(AEConfig(train=TrainConfig(batch_size=1)), NO_RECORD)
    with pytest.raises(UserError, match="blocks 16: give 0 to 15"):
        FrozenKNN(FrozenKNNConfig(blocks=(16,)), NO_RECORD)
    with pytest.raises(UserError, match="k 0: give 1 or more"):
        FrozenKNN(FrozenKNNConfig(k=0), NO_RECORD)
    with pytest.raises(UserError, match="2 normal films; k = 3"):
        FrozenKNN(FrozenKNNConfig(image_size=32, k=3), NO_RECORD).fit(films([(0.1, 0.2)] * 2))
    with pytest.raises(UserError, match="0 normal films"):
        Thumbnail(ThumbnailConfig(), NO_RECORD).fit(films([]))
    for kind in (AE, Thumbnail, FrozenKNN):
        with pytest.raises(UserError, match="not fitted yet"):
            kind(kind.PRESETS["tiny"], NO_RECORD).score(batch)
