"""MambaAD: what is learnt, the loss and the map by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.feature_maps import cosine_map, summed_map
from nofinding.methods.base.feature_maps import MapFilms, channel_statistics, unpacked
from nofinding.methods.frozen_features.mambaad import MambaAD
from nofinding.nets.state_space import HybridScan, LocalStateSpace
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Exam

STATS = EhrStats.of([], [])
TINY = replace(MambaAD.PRESETS["tiny"], train=TrainConfig(steps=1, batch_size=2, ema=0.0))
QUIET = TrainingRun(progress=False, accelerator="cpu")


class Noise:
    """A film of uniform noise."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self) -> Any:
        return torch.rand(64, 64, generator=torch.Generator().manual_seed(self.seed)).numpy()


@pytest.fixture(scope="module")
def films() -> Films:
    some = [Exam(image_id=str(i), patient_id=str(i), pixels=Noise(i), ehr={}) for i in range(6)]
    return Films(some, STATS, 64)


@pytest.fixture
def detector(films: Films) -> MambaAD:
    return MambaAD(TINY, STATS).fit(films, job=QUIET)


class Fixed(nn.Module):
    """A student that always answers the same."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        super().__init__()
        self.maps = list(maps)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return self.maps


def test_channels_are_standardised_over_training_films(films: Films, detector: MambaAD) -> None:
    remaining = MapFilms(films, detector.teacher, QUIET)
    rows = remaining.batch(range(6)).image
    for maps in detector.standardised(unpacked(rows, remaining.shapes)):
        torch.testing.assert_close(
            maps.mean((0, 2, 3)), torch.zeros(maps.shape[1]), atol=1e-3, rtol=0
        )
        spread = maps.std((0, 2, 3), correction=0)
        torch.testing.assert_close(spread, torch.ones(maps.shape[1]), atol=1e-2, rtol=0)
    for (a, b), (c, d) in zip(channel_statistics(remaining), detector.scale, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)


def test_the_loss_is_five_times_the_squared_differences_of_the_scales(
    films: Films, detector: MambaAD
) -> None:
    batch = MapFilms(films, detector.teacher, QUIET).batch(range(3))
    expected = detector.standardised(unpacked(batch.image, detector.shapes))
    given = [m + step for m, step in zip(expected, (1.0, 2.0, 3.0), strict=True)]
    loss = detector.loss(Fixed(given), batch, [])["loss"]
    assert float(loss) == pytest.approx(5 * (1 + 4 + 9), rel=1e-5)


def test_the_map_compares_directions_of_the_teachers_own_maps(
    films: Films, detector: MambaAD
) -> None:
    batch = films.batch([0, 1])
    features = detector.teacher(batch.image)
    answers = detector.standardised(features)
    detector.net["student"] = Fixed(answers)
    assert detector.score(batch).score.max() < 1e-4
    answers[0] = torch.zeros_like(answers[0])  # the training mean everywhere
    detector.net["student"] = Fixed(answers)
    scores = detector.score(batch)
    mean = detector.scale[0][0].expand_as(features[0])
    expected = summed_map([cosine_map(features[0], mean)], (64, 64), TINY.blur)
    assert scores.anomaly_map is not None
    torch.testing.assert_close(scores.anomaly_map, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.score, expected.amax((1, 2, 3)), rtol=0, atol=1e-5)


def test_only_the_student_and_the_scale_are_kept_and_every_weight_learns(
    films: Films, detector: MambaAD
) -> None:
    assert not any(name.startswith("teacher") for name in detector.state())
    fresh = detector.new_student(0)  # what fit began from
    moved = {
        name: not torch.equal(value, detector.state()[f"student.{name}"])
        for name, value in fresh.named_parameters()
    }
    # A bias before an instance normalisation is taken out again, and has no gradient.
    assert all(moved[name] for name in moved if ".near." not in name)


def test_it_scans_as_configured() -> None:
    for ways in (2, 8):
        net = MambaAD(replace(TINY, directions=ways), STATS).net["student"]
        scans = [m for m in net.modules() if isinstance(m, HybridScan)]
        assert [len(scan.order) for scan in scans] == [ways] * 4
        assert [scan.order.shape[1] for scan in scans] == [2**2, 4**2, 8**2, 16**2]
        modules = [m for m in net.modules() if isinstance(m, LocalStateSpace)]
        assert all(len(module.near) == 2 for module in modules)
    paper = MambaAD.PRESETS["paper"]
    assert (paper.depths, paper.kernels, paper.directions) == ((3, 4, 6, 3), (5, 7), 8)
    assert (paper.train.lr, paper.train.weight_decay, paper.weight) == (0.005, 1e-4, 5.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": TrainConfig(batch_size=1)}, "train.batch_size 1: "),
        ({"depths": (1, 1, 1)}, "give 4 numbers, each 1 or more"),
        ({"directions": 3}, "directions 3: give 2, 4 or 8"),
        ({"kernels": (5, 6)}, "kernels .*: give odd numbers"),
        ({"state": 0}, "state 0: give 1 or more"),
        ({"blur": -1.0}, "blur -1: give 0 or more"),
        ({"layers": (3, 5, 11)}, "has a side of 2, and 4 or more are needed"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        MambaAD(replace(TINY, **changes), STATS)


def test_it_wants_to_be_fitted(films: Films) -> None:
    detector = MambaAD(TINY, STATS)
    with pytest.raises(UserError, match="mambaad: not fitted yet"):
        detector.score(films.batch([0]))
    assert detector.state() == {}
