"""Starts, statistics and z-scores of the methods that see what comes back from several levels."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.restarts import Restarts, held_out, statistics, z_scores
from nofinding.methods.pixel_diffusion.restarted_ddpm import DDPMOOD, DDPMOODConfig
from nofinding.nets.perceptual import Perceptual
from nofinding.nets.slice_distance import PerceptualGap
from nofinding.training import TrainingRun
from nofinding.types import Batch, Exam, Pixels

NO_RECORD = EhrStats.of([], [])
TINY = DDPMOOD.PRESETS["tiny"]
QUIET = TrainingRun(progress=False, accelerator="cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True)
class Blur:
    seed: int

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[-1:1:32j, -1:1:32j]
        film = 0.5 + 0.3 * np.cos(3 * x + 0.3 * rng.standard_normal()) * np.cos(2 * y)
        return np.clip(film, 0, 1).astype(np.float32)


def films(count: int, first: int = 0) -> Films:
    exams = [
        Exam(image_id=f"f{i}", patient_id=f"p{i}", pixels=Blur(i), ehr={})
        for i in range(first, first + count)
    ]
    return Films(exams, NO_RECORD, 32)


def test_starts_are_those_of_the_program_and_cost_what_it_says() -> None:
    """With every start of a grid of 100 the table of the paper counts about 5,000 calls."""
    every = Restarts.of(1000, 100, 1, 1000)
    assert [path[0] for path in every.paths] == [*range(10, 1000, 10)]
    assert every.paths[2] == (30, 20, 10, 0)
    assert every.calls == sum(k + 2 for k in range(1, 100)) == 5148
    assert Restarts.of(1000, 10, 2, 300).paths == ((100, 0), (300, 200, 100, 0))
    assert Restarts.of(1000, 10, 2, 300).calls == 3 + 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": 1}, "grid 1"),
        ({"skip": 0}, "skip 0"),
        ({"deepest": 99}, "deepest 99: give 100"),
        ({"held_out": 1.0}, "held_out 1"),
        ({"statistics_films": 1}, "statistics_films 1"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        DDPMOOD(dataclasses.replace(TINY, **change), NO_RECORD)


def test_too_few_films_and_no_fit_are_refused() -> None:
    with pytest.raises(UserError, match="3 normal films, of which 1"):
        DDPMOOD(TINY, NO_RECORD).fit(films(3), job=QUIET)
    with pytest.raises(UserError, match="1 normal films"):
        DDPMOOD(dataclasses.replace(TINY, held_out=0.0), NO_RECORD).fit(films(1), job=QUIET)
    with pytest.raises(UserError, match="not fitted yet"):
        DDPMOOD(TINY, NO_RECORD).score(films(1).batch([0]))


def test_held_out_films_are_a_seeded_share_and_not_learnt_from() -> None:
    learn, judge = held_out(40, 0.2, 3, "x")
    assert len(judge) == 8 and sorted(learn + judge) == [*range(40)]
    assert held_out(40, 0.2, 3, "x") == (learn, judge) != held_out(40, 0.2, 4, "x")

    calls: list[tuple[str, ...]] = []

    class Spy(DDPMOOD):
        def measured(self, image: Tensor, collected: list[Tensor]) -> Tensor:
            return super().measured(image, collected)

        def come_back(self, batch: Batch, seed: int) -> list[Tensor]:
            calls.append(batch.ids)
            return super().come_back(batch, seed)

    config = dataclasses.replace(
        TINY, net=dataclasses.replace(TINY.net, train=dataclasses.replace(TINY.net.train, steps=1))
    )
    Spy(config, NO_RECORD).fit(films(20), seed=5, job=QUIET)
    expected = held_out(20, 0.2, 5, "x")[1]
    assert [i for ids in calls for i in ids] == [f"f{i}" for i in expected]


def test_a_z_score_is_zero_on_average_and_one_wide_among_the_films_it_comes_from() -> None:
    measured = torch.rand(50, 3, 2, generator=torch.Generator().manual_seed(0)) + 1
    z = z_scores(measured, statistics([measured[:20], measured[20:]]))
    torch.testing.assert_close(z.mean(0), torch.zeros(3, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(3, 2), atol=1e-4, rtol=0)
    above = z_scores(measured.mean(0, keepdim=True) + 2 * measured.std(0), statistics([measured]))
    torch.testing.assert_close(above, torch.full((1, 3, 2), 2.0), atol=1e-4, rtol=0)


class Knows(torch.nn.Module):
    """A network that knows the clean film at every level, and how it was asked."""

    def __init__(self, film: Tensor, abar: Tensor) -> None:
        super().__init__()
        self.film, self.abar = torch.nn.Parameter(film, requires_grad=False), abar
        self.asked: list[tuple[int, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.asked.append((int(t[0]), x.clone()))
        a = self.abar[int(t[0])]
        return ((x - a.sqrt() * self.film) / (1 - a).sqrt()).float()


def test_the_score_is_what_does_not_come_back_over_levels_and_measures() -> None:
    detector = DDPMOOD(TINY, NO_RECORD)
    batch = films(2).batch([0, 1])
    healthy = batch.image + 0.1  # what the network knows is 0.05 grey levels brighter
    detector.net, detector.fitted = Knows(healthy, detector.abar), True
    detector.learnt = {
        "mean": torch.tensor([[0.001, 0.0], [0.002, 0.0]]),
        "std": torch.tensor([[0.001, 2.0], [0.0005, 4.0]]),
    }
    scores = detector.score(batch, seed=9)
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    torch.testing.assert_close(scores.reconstruction, healthy, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        scores.anomaly_map, torch.full_like(healthy, 0.05), atol=1e-4, rtol=0
    )
    gap = Perceptual()(batch.image, healthy)
    mse_part = ((0.0025 - 0.001) / 0.001 + (0.0025 - 0.002) / 0.0005) / 2
    expected = mse_part + (gap / 2 + gap / 4) / 2
    torch.testing.assert_close(scores.score, expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(
        scores.components["mse"], torch.full((2,), mse_part), atol=5e-3, rtol=0
    )

    asked = detector.net.asked
    assert [k for k, _ in asked] == [100, 0, 0, 300, 200, 200, 100, 0]
    assert len(asked) == detector.network_calls
    rows = generators(9, batch.ids)
    for at, level in ((0, 100), (3, 300)):  # every start noises the film itself, anew
        noise = gaussian((1, 32, 32), rows)
        wanted_x = add_noise(batch.image, noise, detector.abar[level])
        torch.testing.assert_close(asked[at][1], wanted_x)


def test_the_gap_of_a_film_is_the_perceptual_distance() -> None:
    x, y, z = torch.rand(3, 2, 1, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    distance = Perceptual()
    with torch.no_grad():
        expected = torch.stack([distance(x, y), distance(x, z)], dim=1)
        torch.testing.assert_close(PerceptualGap(2)(x, [y, z]), expected)


def test_the_gap_of_a_volume_is_the_mean_over_the_slices_along_all_axes() -> None:
    x, y = torch.rand(2, 2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    distance = Perceptual()
    with torch.no_grad():
        for row in range(2):
            pairs = [
                (x[row, 0].select(axis, i)[None, None], y[row, 0].select(axis, i)[None, None])
                for axis in range(3)
                for i in range(8)
            ]
            expected = torch.cat([distance(a, b) for a, b in pairs]).mean()
            torch.testing.assert_close(PerceptualGap(3)(x, [y])[row, 0], expected)
            some = torch.cat([distance(a, b) for a, b in pairs[1::2]]).mean()
            torch.testing.assert_close(PerceptualGap(3, stride=2)(x, [y])[row, 0], some)


def test_the_default_trains_the_denoiser_that_others_train() -> None:
    config = DDPMOODConfig()
    assert config.held_out == 0 and config.net == type(config.net)()
