"""The second repair keeps the film outside the mask, and goes back and forth as RePaint says."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from methods.test_contract import STATS, TRAIN
from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.denoising import tiny_denoiser
from nofinding.methods.pixel_diffusion.autoddpm import AutoDDPM, AutoDDPMConfig
from nofinding.training import TrainConfig, TrainingRun

QUICK = tiny_denoiser(train=TrainConfig(steps=2, batch_size=2, warmup=1, ema=0.0))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def detector(**changes: object) -> AutoDDPM:
    return AutoDDPM(AutoDDPMConfig(net=QUICK, perceptual_size=32, **changes), STATS)  # type: ignore[arg-type]


def sees_grey(output: AutoDDPM) -> list[tuple[int, Tensor]]:
    """Has its denoiser see an even grey film in everything; gives what it is asked."""
    asked: list[tuple[int, Tensor]] = []

    def look(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        asked.append((k, x))
        return x / (1 - output.abar[k]).sqrt().float(), torch.zeros_like(x)

    output.look = look  # type: ignore[method-assign]
    return asked


def left_half(like: Tensor) -> Tensor:
    mask = torch.zeros_like(like)
    mask[..., : like.shape[-1] // 2] = 1
    return mask


def test_the_film_stays_outside_the_mask_and_is_repaired_inside() -> None:
    output = detector()
    asked = sees_grey(output)
    image = torch.full((2, 1, 32, 32), 0.8)
    mask = left_half(image)
    result = output.stitched(image, -image, mask, generators(0, range(2)))
    assert torch.equal(result[..., 16:], image[..., 16:])
    torch.testing.assert_close(result[..., :16], torch.zeros(2, 1, 32, 16), rtol=0, atol=1e-5)
    assert [k for k, _ in asked] == [50, 50, 50, 25, 25, 25]
    assert output.network_calls == 5 + 6 + 2


def test_it_begins_at_both_films_under_noise_of_the_first_level() -> None:
    output = detector()
    asked = sees_grey(output)
    image, repaired = torch.full((1, 1, 8, 8), 0.8), torch.full((1, 1, 8, 8), -0.4)
    mask = left_half(image)
    output.stitched(image, repaired, mask, generators(3, [0]))
    rows = generators(3, [0])
    inside = add_noise(repaired, gaussian((1, 8, 8), rows), output.abar[50])
    outside = add_noise(image, gaussian((1, 8, 8), rows), output.abar[50])
    assert torch.equal(asked[0][1], torch.where(mask > 0, inside, outside))


def test_going_back_up_gives_as_much_noise_as_the_level_has() -> None:
    output = detector(stitch_steps=2, resamplings=4)
    asked = sees_grey(output)
    flat = torch.zeros(4, 1, 64, 64)
    output.stitched(flat, flat, left_half(flat), generators(0, range(4)))
    for k, x in asked:  # films of zeros: all that is there is noise
        for half in (x[..., :32], x[..., 32:]):
            assert float(half.var()) == pytest.approx(float(1 - output.abar[k]), rel=0.06)


def test_the_mask_is_what_exceeds_the_threshold_grown() -> None:
    output = detector(dilate=1)
    output.scales = {"threshold": torch.tensor(0.5)}
    calls = torch.full((1, 1, 9, 9), 0.5)
    calls[..., 4, 4] = 0.51
    output.discrepancy = lambda x, normal: calls  # type: ignore[method-assign]
    expected = torch.zeros(1, 1, 9, 9)
    expected[..., 3:6, 3:6] = 1
    assert torch.equal(output.mask(calls, calls), expected)


def test_the_program_s_mask_is_as_large_in_every_film() -> None:
    output = detector(mask_from="film", dilate=0)
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[1] *= 0.01  # nearly what it is compared with
    output.distance = lambda x, normal: torch.ones_like(x)  # type: ignore[method-assign]
    repaired = torch.zeros_like(x)
    soft = output.soft_map(x, repaired)
    assert soft.amax((1, 2, 3)).tolist() == [1, 1, 1]  # a share of each film's own residuals
    top = (x.abs() / 2)[0].quantile(0.95)
    torch.testing.assert_close(soft[0], (x[0].abs() / 2 / top).clamp_max(1))
    output.distance = lambda x, normal: x.abs()  # type: ignore[method-assign]
    shares = output.mask(x, repaired).mean((1, 2, 3))
    torch.testing.assert_close(shares, torch.full((3,), 0.05), rtol=0, atol=2e-3)
    assert output.measure(x, generators(0, range(3))) == {}


def test_the_program_stitches_from_the_first_repair_and_weighs_by_its_first_map() -> None:
    output = detector(mask_from="film")
    asked = sees_grey(output)
    image, repaired = torch.full((1, 1, 8, 8), 0.8), torch.full((1, 1, 8, 8), -0.4)
    output.stitched(image, repaired, left_half(image), generators(3, [0]))
    inside = add_noise(repaired, gaussian((1, 8, 8), generators(3, [0])), output.abar[50])
    assert torch.equal(asked[0][1], inside)
    output = detector(mask_from="film")
    output.fit(Films(TRAIN[:4], STATS, 32), job=TrainingRun(progress=False, accelerator="cpu"))
    batch = Films(TRAIN[:2], STATS, 32).batch(range(2))
    rows = generators(0, batch.ids)
    with torch.no_grad():
        first = output.first_repair(batch.image, rows)
        soft, scores = output.soft_map(batch.image, first), output.score(batch)
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    gap = (batch.image - scores.reconstruction).abs() / 2
    torch.testing.assert_close(scores.anomaly_map, soft * gap, rtol=0, atol=1e-5)


def test_the_discrepancy_is_residual_times_perceptual_distance() -> None:
    output = detector()
    x = Films(TRAIN[:2], STATS, 32).batch(range(2)).image
    y = x.flip(-1)
    with torch.no_grad():
        expected = (x - y).abs() / 2 * output.perceptual.map(x, y)
        torch.testing.assert_close(output.discrepancy(x, y), expected)
    assert float(expected.max()) > 0


def test_few_pixels_of_normal_films_are_beyond_and_the_map_ends_at_the_mask() -> None:
    films = Films(TRAIN[:4], STATS, 32)
    output = detector(percentile=90.0, dilate=0)
    output.fit(films, job=TrainingRun(progress=False, accelerator="cpu"))
    places = torch.randperm(4, generator=generators(0, ["measured"])[0]).tolist()
    image = films.batch(places).image
    with torch.no_grad():
        rows = generators(0, [f"measured/{place}" for place in places])
        repaired = output.first_repair(image, rows)
        share = float(output.mask(image, repaired).mean())
    assert share == pytest.approx(0.1, abs=1e-3)
    batch = films.batch(range(4))
    scores = output.score(batch)
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    outside = scores.anomaly_map == 0
    assert outside.float().mean() > 0.5
    assert torch.equal(scores.reconstruction[outside], batch.image[outside])
    torch.testing.assert_close(scores.score, scores.anomaly_map.mean((1, 2, 3)))


def test_impossible_settings_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="stitch_start: 2 levels from 1 down; give 1 to 1"):
        detector(stitch_start=1)
    with pytest.raises(UserError, match="percentile 100"):
        detector(percentile=100.0)
    with pytest.raises(UserError, match="resamplings 0"):
        detector(resamplings=0)
