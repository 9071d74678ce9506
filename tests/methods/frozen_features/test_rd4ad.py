"""RD4AD: teacher frozen, loss and map by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.image.blur import gaussian_blur
from nofinding.methods.base.feature_maps import MapFilms, unpacked, with_epochs
from nofinding.methods.frozen_features.rd4ad import RD4AD, RD4ADConfig
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Exam

STATS = EhrStats.of([], [])
TINY = RD4AD.PRESETS["tiny"]
QUIET = TrainingRun(progress=False, accelerator="cpu")


class Noise:
    """A film of uniform noise."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self):  # type: ignore[no-untyped-def]
        return torch.rand(64, 64, generator=torch.Generator().manual_seed(self.seed)).numpy()


@pytest.fixture(scope="module")
def films() -> Films:
    some = [Exam(image_id=str(i), patient_id=str(i), pixels=Noise(i), ehr={}) for i in range(20)]
    return Films(some, STATS, 64)


class Fixed(nn.Module):
    """A student that always answers the same."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        super().__init__()
        self.maps = list(maps)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return self.maps


def test_the_map_sums_one_minus_cos_of_each_scale_and_the_score_is_its_maximum(
    films: Films,
) -> None:
    detector = RD4AD(replace(TINY, blur=1.5), STATS)
    batch = films.batch([0, 1])
    features = detector.teacher(batch.image)
    answers = [m.clone() for m in features]
    answers[1][:, :, 3, 4] *= -1  # opposite there: 1 - cos = 2
    answers[0] *= 7  # length does not count
    answers[2][:, :, 0, 1] *= -1
    detector.net["student"], detector.fitted = Fixed(answers), True
    scores = detector.score(batch)
    middle, coarse = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4, 4)
    middle[:, :, 3, 4] = coarse[:, :, 0, 1] = 2
    expected = torch.zeros(2, 1, 64, 64)
    for alone in (middle, coarse):
        expected += nn.functional.interpolate(
            alone, size=(64, 64), mode="bilinear", align_corners=True
        )
    expected = gaussian_blur(expected, 1.5, "reflect")
    assert scores.anomaly_map is not None
    torch.testing.assert_close(scores.anomaly_map, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.score, expected.amax((1, 2, 3)), rtol=0, atol=1e-5)
    assert scores.components["layer3"].tolist() == pytest.approx([2, 2])
    assert scores.components["layer1"].max() < 1e-5


@pytest.mark.parametrize("compare", ["film", "position"])
def test_the_loss_is_the_programs_or_the_papers(films: Films, compare: str) -> None:
    detector = RD4AD(replace(TINY, compare=compare), STATS)
    rows = MapFilms(films, detector.teacher, QUIET).batch(range(4))
    features = unpacked(rows.image, detector.shapes)
    given = [m.roll(1, 3) for m in features]
    result = detector.loss(Fixed(given), rows, [])["loss"]
    expected = 0.0
    for a, b in zip(features, given, strict=True):
        if compare == "film":
            whole = (a * b).sum((1, 2, 3)) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
            expected += float((1 - whole).mean())
        else:
            expected += float((1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean())
    assert float(result) == pytest.approx(expected, rel=1e-4)


def test_only_the_student_learns_and_only_it_is_kept(films: Films) -> None:
    detector = RD4AD(replace(TINY, train=replace(TINY.train, steps=2)), STATS)
    before = {k: v.clone() for k, v in detector.teacher.state_dict().items()}
    first = {k: v.clone() for k, v in detector.net["student"].state_dict().items()}
    detector.fit(films, job=QUIET)
    after = detector.teacher.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(not torch.equal(first[k], v) for k, v in detector.net["student"].named_parameters())
    assert detector.state().keys() == first.keys()
    assert not detector.net["student"].training


def test_maps_are_kept_once_and_rounded_alike_where_they_are_not(
    films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = RD4AD(TINY, STATS).teacher
    remaining = MapFilms(films, teacher, QUIET)
    width = remaining.cached.shape[1]
    monkeypatch.setattr("nofinding.methods.base.feature_maps.MEMORY", 2 * width * 5)
    some = MapFilms(films, teacher, QUIET)
    assert (len(remaining.cached), len(some.cached), len(some)) == (20, 5, 20)
    for rows in ([3, 1], [4, 12]):
        here, there = some.batch(rows), remaining.batch(rows)
        torch.testing.assert_close(here.image, there.image, rtol=1e-2, atol=1e-2)
        assert here.ids == there.ids == tuple(map(str, rows))
    maps = unpacked(remaining.batch([3, 1]).image, remaining.shapes)
    for here, there in zip(maps, teacher(films.batch([3, 1]).image), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-2, atol=1e-2)


def test_epochs_replace_the_steps() -> None:
    config = TrainConfig(steps=7, batch_size=4)
    assert with_epochs(config, 0, 10).steps == 7
    assert with_epochs(config, 3, 10).steps == 9  # ten films are three batches of four
    paper = RD4AD.PRESETS["paper"]
    assert (paper.epochs, paper.train.batch_size, paper.train.lr) == (200, 16, 0.005)
    assert (paper.image_size, paper.blur, paper.depths) == (256, 4.0, (3, 4, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": TrainConfig(batch_size=1)}, "train.batch_size 1: "),
        ({"depths": (1, 1)}, "give 3 numbers, each 1 or more"),
        ({"embedding": 0}, "embedding 0: give 1 or more"),
        ({"blur": -1.0}, "blur -1: give 0 or more"),
        ({"layers": (1, 2, 3)}, "have sides 16, 16, 8; give layers and an image_size"),
        ({"image_size": 48}, "have sides 12, 6, 3; give layers and an image_size"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        RD4AD(replace(TINY, **changes), STATS)


def test_it_wants_to_be_fitted() -> None:
    detector = RD4AD(TINY, STATS)
    batch = Batch(torch.zeros(1, 1, 64, 64), torch.zeros(1, 0), torch.zeros(1, 0).bool(), ("a",))
    with pytest.raises(UserError, match="rd4ad: not fitted yet"):
        detector.score(batch)
    detector.load_state({})
    assert detector.state() == {}
    assert RD4AD.PRESETS["small"] == RD4ADConfig()
