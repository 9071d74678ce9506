"""OSD-IRF and DiffPath: what one trained network's noise says, without making any film."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.density import fit_kernels, log_density
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.pixel_diffusion.diffpath import SIX, DiffPath, path_statistics
from nofinding.methods.pixel_diffusion.osd_irf import OSDIRF
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Exam, Pixels

NO_RECORD = EhrStats.of([], [])
QUICK = TrainConfig(steps=2, batch_size=4, lr=1e-3, warmup=1, ema=0.5)


@dataclass(frozen=True)
class Noise:
    seed: int

    def __call__(self) -> Pixels:
        film = np.random.default_rng(self.seed).random((32, 32), dtype=np.float32)
        return 0.3 + 0.4 * film


def normal_films(n: int = 12) -> Films:
    exams = [Exam(image_id=str(s), patient_id="", pixels=Noise(s), ehr={}) for s in range(n)]
    return Films(exams, NO_RECORD, 32)


def fitted(kind: Any, n: int = 12, **changes: Any) -> Any:
    config = kind.PRESETS["tiny"]
    config = replace(config, net=replace(config.net, train=QUICK), **changes)
    return kind(config, NO_RECORD).fit(
        normal_films(n), seed=1, job=TrainingRun(progress=False, accelerator="cpu")
    )


def batch(image: Tensor) -> Batch:
    n = len(image)
    nothing = torch.zeros(n, 0)
    return Batch(image, nothing, nothing.bool(), tuple(str(i) for i in range(n)))


def test_osd_irf_asks_at_the_first_levels_of_the_way_up() -> None:
    detector = fitted(OSDIRF)
    calls: list[tuple[Tensor, float]] = []
    detector.net.register_forward_pre_hook(lambda _, g: calls.append((g[0].clone(), g[1].item())))
    film = normal_films().batch([3])
    detector.score(film)
    assert [t for _, t in calls] == [0, 20, 40] and len(calls) == detector.network_calls
    assert torch.equal(calls[0][0], film.image)  # nothing is added to the film


def test_osd_irf_is_the_squared_deviation_from_the_pixel_s_own_gaussian() -> None:
    detector = fitted(OSDIRF, least_spread=0.1)
    with torch.no_grad():
        fields = detector.fields(normal_films().batch(range(12)).image)
    torch.testing.assert_close(detector.statistics["mean"], fields.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(detector.statistics["spread"], fields.std(0), atol=1e-5, rtol=1e-3)
    film = batch(gaussian((1, 32, 32), generators(0, range(2))))
    with torch.no_grad():
        z = (detector.fields(film.image) - fields.mean(0)) / (fields.std(0) + 0.1)
    scores = detector.score(film)
    assert scores.anomaly_map is not None
    torch.testing.assert_close(
        scores.anomaly_map, (z**2 / 2).mean(1, keepdim=True), rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(scores.score, scores.anomaly_map.mean((1, 2, 3)))


def test_osd_irf_s_map_is_high_where_the_noise_is_out_of_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = fitted(OSDIRF)
    monkeypatch.setattr(detector.net, "forward", lambda x, t: x)  # noise seen: the film itself
    detector.statistics = {"mean": torch.full((3, 32, 32), 0.2), "spread": torch.zeros(3, 32, 32)}
    image = torch.full((2, 1, 32, 32), 0.2)
    image[1, 0, 4, 5] = -0.6  # as far out of place below the mean as above it
    scores = detector.score(batch(image)).anomaly_map
    assert scores is not None
    assert scores[1].argmax() == 4 * 32 + 5 and scores[1].max() > 50 * scores[0].max()


def test_the_films_measured_are_drawn_by_the_seed() -> None:
    detector = fitted(OSDIRF)
    films = normal_films()

    def measured(seed: int, most: int) -> Tensor:
        result: Tensor = detector.over_normals(
            films, lambda x: x.flatten(1).mean(1), most=most, seed=seed
        )
        return result

    assert torch.equal(measured(1, 5), measured(1, 5))
    assert not torch.equal(measured(1, 5), measured(2, 5))
    torch.testing.assert_close(measured(1, 99).sort().values, measured(2, 99).sort().values)


def test_path_statistics_are_moments_of_the_noise_and_of_its_change() -> None:
    # Noise that grows evenly from 0 to 1 over 11 levels, at every pixel of the first film; its
    # opposite in the second, for which the odd moments turn round and the even ones stay.
    rise = [torch.full((1, 1, 4, 4), 0.1 * k) for k in range(11)]
    paths = path_statistics([torch.cat([r, -r]) for r in rise])
    expected = [
        0.5,
        0.35,
        0.275,
        1.1,
        1.21,
        1.331,
    ]  # 11 steps of 0.1 each a step's share of the path
    assert paths[0].tolist() == pytest.approx(expected, rel=1e-5)
    signs = torch.tensor([-1.0, 1, -1, -1, 1, -1])
    torch.testing.assert_close(paths[1], paths[0] * signs)


def test_diffpath_walks_the_whole_way_once() -> None:
    detector, levels = fitted(DiffPath), list[float]()
    detector.net.register_forward_pre_hook(lambda _, given: levels.append(given[1].item()))
    detector.score(normal_films().batch([0, 1]))
    assert levels == [100.0 * k for k in range(10)] and detector.network_calls == 10


@pytest.mark.parametrize("statistic", ["6d", "1d"])
def test_diffpath_scores_by_the_density_of_normal_paths(statistic: str) -> None:
    detector = fitted(DiffPath, statistic=statistic)
    film = batch(gaussian((1, 32, 32), generators(0, range(3))))
    with torch.no_grad():
        own = detector.path(normal_films().batch(range(12)).image)
        other = detector.path(film.image)
    if statistic == "1d":
        own, other = own[:, 4:5].sqrt(), other[:, 4:5].sqrt()
    expected = -log_density(other, fit_kernels(own)).float()
    scores = detector.score(film)
    torch.testing.assert_close(scores.score, expected, rtol=1e-2, atol=1e-2)
    assert tuple(scores.components) == SIX and scores.anomaly_map is None
    inside = detector.score(normal_films().batch(range(12))).score
    assert inside.max() < scores.score.min()


def test_statistics_come_back_with_the_weights() -> None:
    for kind in (OSDIRF, DiffPath):
        detector = fitted(kind)
        again = kind(detector.config, NO_RECORD)
        state = detector.state()
        assert any(name.startswith("statistics.") for name in state)
        again.load_state(state)
        film = batch(gaussian((1, 32, 32), generators(0, range(2))))
        assert torch.equal(again.score(film).score, detector.score(film).score)
        again.load_state({})
        with pytest.raises(UserError, match="not fitted yet"):
            again.score(film)


def test_too_few_films_and_impossible_settings_are_refused() -> None:
    for kind in (OSDIRF, DiffPath):
        with pytest.raises(UserError, match=f"{kind.name}: 1 normal films"):
            fitted(kind, n=1)
        with pytest.raises(UserError, match="most 1: give 2 or more"):
            fitted(kind, most=1)
    with pytest.raises(UserError, match="least_spread 0"):
        fitted(OSDIRF, least_spread=0)
    with pytest.raises(UserError, match="respacing '1': keep 2 levels"):
        fitted(DiffPath, respacing="1")
