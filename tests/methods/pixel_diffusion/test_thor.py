"""Harmonising leads the repair back to the film, by the mask, under the noise it began with."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from methods.test_contract import STATS, TRAIN
from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, ddpm_step
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.denoising import tiny_denoiser
from nofinding.methods.pixel_diffusion.thor import THOR, THORConfig, harmonic_mean
from nofinding.training import TrainConfig, TrainingRun

QUICK = tiny_denoiser(train=TrainConfig(steps=2, batch_size=2, warmup=1, ema=0.0))
ALIKE, UNLIKE = torch.tensor(1e9), torch.tensor(0.0)  # the change that is the mask's 1


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def detector(**changes: object) -> THOR:
    return THOR(THORConfig(net=QUICK, perceptual_size=32, **changes), STATS)  # type: ignore[arg-type]


def sees_black(output: THOR) -> list[tuple[int, Tensor]]:
    """Has its denoiser see a black film in everything; gives what it is asked."""
    asked: list[tuple[int, Tensor]] = []

    def look(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        asked.append((k, x))
        return x, torch.full_like(x, -1.0)

    output.look = look  # type: ignore[method-assign]
    return asked


def image() -> Tensor:
    return Films(TRAIN[:2], STATS, 32).batch(range(2)).image


def test_where_the_film_is_like_its_repair_the_film_takes_its_place() -> None:
    output, x = detector(close=0, dilate=0), image()
    asked = sees_black(output)
    rows = generators(0, range(2))
    with torch.no_grad():
        torch.testing.assert_close(output.repair(x, rows, lambda k, result: ALIKE), x)
        assert [k for k, _ in asked] == [350, 300, 250, 200, 150, 100, 50]
        black = output.repair(x, rows, lambda k, result: UNLIKE)
        changed = output.discrepancy(x, torch.full_like(x, -1.0)) > 1e-6
    assert changed.float().mean() > 0.3
    torch.testing.assert_close(black[changed], torch.full_like(x, -1.0)[changed])


def test_without_levels_to_harmonise_nothing_is_led_back() -> None:
    output, x = detector(harmonise=()), image()
    sees_black(output)
    with torch.no_grad():
        result = output.repair(x, generators(0, range(2)), lambda k, result: ALIKE)
    torch.testing.assert_close(result, torch.full_like(x, -1.0))


def test_the_mixture_is_noised_by_the_first_noise() -> None:
    output, x = detector(harmonise=(300,)), image()
    asked = sees_black(output)
    with torch.no_grad():
        output.repair(x, generators(7, range(2)), lambda k, result: ALIKE)
    rows = generators(7, range(2))
    first, _, second = (gaussian((1, 32, 32), rows) for _ in range(3))
    assert torch.equal(asked[0][1], add_noise(x, first, output.abar[350]))
    mixed = add_noise(x, first, output.abar[300])  # the film itself: all is alike
    expected = ddpm_step(mixed, x, second, output.abar[300], output.abar[250])
    torch.testing.assert_close(asked[2][1], expected)


def test_the_mask_is_normalised_closed_and_grown() -> None:
    result = torch.zeros(1, 1, 12, 12)
    result[..., 5, 3], result[..., 5, 5], result[..., 5, 6] = 0.1, 0.1, 0.8
    one = torch.tensor(0.2)
    bare = detector(close=0, dilate=0).mask(result, one)
    assert bare[0, 0, 5, 3:7].tolist() == pytest.approx([0.5, 0, 0.5, 1])
    closed = detector(close=1, dilate=0).mask(result, one)
    assert float(closed[0, 0, 5, 4]) == pytest.approx(0.5)
    assert float(closed[0, 0, 5, 2]) == 0
    grown = detector(close=1, dilate=1).mask(result, one)
    assert float(grown[0, 0, 5, 2]) == float(grown[0, 0, 4, 3]) == pytest.approx(0.5)


def test_the_program_s_mask_is_half_map_and_half_region() -> None:
    output = detector(mask_from="film", close=1, dilate=1)
    own = torch.zeros(1, 1, 12, 12)
    own[..., 5, 3], own[..., 5, 5] = 1.0, 1.0
    region = output.region(own)[0, 0]
    assert float(region[5, 3]) == 1 and float(region[5, 4]) == 0.5  # closed between them
    assert float(region[4, 3]) == float(region[5, 2]) == 0.5 and float(region[5, 1]) == 0


def test_the_program_s_map_is_1_at_the_film_s_largest_change() -> None:
    output = detector(mask_from="film")
    output.distance = lambda x, normal: torch.full_like(x, 0.5)  # type: ignore[method-assign]
    x = torch.zeros(2, 1, 8, 8)
    x[0, 0, 1, 1], x[0, 0, 2, 2], x[1, 0, 3, 3] = 0.8, 0.4, 0.01
    own = output.own_map(x, torch.zeros_like(x))
    assert own.amax((1, 2, 3)).tolist() == [1, 1]  # of each film, not of the batch
    assert float(own[0, 0, 2, 2]) == pytest.approx(0.5)


def test_the_program_joins_its_levels_by_their_harmonic_mean() -> None:
    a, b = torch.tensor([[[[1.0, 0.5, 0.0]]]]), torch.tensor([[[[1.0, 0.25, 0.7]]]])
    assert harmonic_mean([a, b]).flatten().tolist() == pytest.approx([1, 1 / 3, 0])
    output = detector(mask_from="film", close=0, dilate=0)
    output.fit(Films(TRAIN[:4], STATS, 32), job=TrainingRun(progress=False, accelerator="cpu"))
    batch = Films(TRAIN[:2], STATS, 32).batch(range(2))
    maps: list[Tensor] = []
    with torch.no_grad():
        output.repair(batch.image, generators(0, batch.ids), lambda k, result: ALIKE, maps)
        scores = output.score(batch)
    assert len(maps) == 3 and scores.anomaly_map is not None
    torch.testing.assert_close(scores.anomaly_map, harmonic_mean(maps))


def test_each_level_has_a_scale_of_its_own_that_follows_from_the_levels_before() -> None:
    output, x = detector(percentile=90.0), image()
    calls: dict[int, Tensor] = {}
    with torch.no_grad():
        scales = output.measure(x, generators(0, range(2)))
        assert list(scales) == ["300", "150", "50"]

        def scale(k: int, prediction: Tensor) -> Tensor:
            calls[k] = prediction
            return scales[str(k)]

        output.repair(x, generators(0, range(2)), scale)
    for k, result in calls.items():
        torch.testing.assert_close(scales[str(k)], result.quantile(0.9))
    assert output.network_calls == 7 + 2 * 4


def test_impossible_settings_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="harmonise 120: give some of 350, 300"):
        detector(harmonise=(120,))
    with pytest.raises(UserError, match="stride 0"):
        detector(stride=0)
    with pytest.raises(UserError, match="percentile 100"):
        detector(percentile=100.0)
