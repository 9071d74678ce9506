"""The steering pulls a repair towards its film by as much as the formula says."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from methods.test_contract import STATS, TRAIN
from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, predict_x0
from nofinding.functional.image.blur import gaussian_blur
from nofinding.functional.noise import generators
from nofinding.methods.base.denoising import tiny_denoiser
from nofinding.methods.pixel_diffusion.conditioned_ddad import (
    ConditionedDDAD,
    ConditionedDDADConfig,
    apart,
    conditioned,
)
from nofinding.storage import checkpoint
from nofinding.training import TrainConfig, TrainingRun

QUICK = tiny_denoiser(train=TrainConfig(steps=2, batch_size=2, warmup=1, ema=0.0))
QUIET = TrainingRun(progress=False, accelerator="cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def films() -> Films:
    return Films(TRAIN[:4], STATS, 32)


def detector(**changes: object) -> ConditionedDDAD:
    return ConditionedDDAD(ConditionedDDADConfig(net=QUICK, **changes), STATS)  # type: ignore[arg-type]


def all_black(output: ConditionedDDAD) -> None:
    """Has its denoiser see a black film in everything."""

    def look(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        a = output.abar[k]
        x0 = torch.full_like(x, -1.0)
        return (x - a.sqrt().float() * x0) / (1 - a).sqrt().float(), x0

    output.look = look  # type: ignore[method-assign]


@pytest.mark.parametrize("w", [0.0, 0.7, 3.0])
def test_the_clean_film_comes_w_times_1_minus_abar_of_the_way_to_the_film(w: float) -> None:
    rows = generators(0, range(3))
    calls, y, eps = (torch.randn(3, 1, 8, 8, generator=rows[i]) for i in range(3))
    abar = torch.tensor(0.6, dtype=torch.float64)
    x = add_noise(calls, eps, abar)
    steered = predict_x0(x, conditioned(eps, x, y, abar, w), abar)
    torch.testing.assert_close(steered, calls + w * 0.4 * (y - calls), rtol=0, atol=1e-5)


def test_the_repair_ends_where_the_last_level_leaves_it() -> None:
    image = films().batch(range(2)).image
    for w in (0.0, 3.0):
        output = detector(guidance=w)
        all_black(output)
        last = float(1 - output.abar[25])  # the last of 250, 225, ..., 25
        expected = -1 + w * last * (image + 1)
        result = output.repair(image, generators(0, range(2)))
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


def test_ten_calls_from_250_down() -> None:
    output = detector()
    asked: list[int] = []
    whole = output.look
    output.look = lambda x, k: asked.append(k) or whole(x, k)  # type: ignore
    with torch.no_grad():
        output.repair(films().batch([0]).image, generators(0, [0]))
    assert asked == [250, 225, 200, 175, 150, 125, 100, 75, 50, 25]
    assert output.network_calls == 10 + 2  # and the feature network, twice


def test_the_map_adds_both_distances_by_the_scale_of_the_training_films() -> None:
    output = detector(pixel_weight=2.0, blur=0.8).fit(films(), job=QUIET)
    batch = films().batch(range(4))
    with torch.no_grad():
        places = torch.randperm(4, generator=generators(0, ["measured"])[0]).tolist()
        image = batch.image[places]
        rows = generators(0, [f"measured/{place}" for place in places])
        features, greys = output.distances(image, output.repair(image, rows))
        ratio = features.quantile(0.99) / greys.quantile(0.99)
        torch.testing.assert_close(output.scales["ratio"], ratio)
        rows = generators(5, batch.ids)
        features, greys = output.distances(batch.image, output.repair(batch.image, rows))
    expected = gaussian_blur(features + 2 * ratio * greys, 0.8)
    scores = output.score(batch, seed=5)
    assert scores.anomaly_map is not None
    torch.testing.assert_close(scores.anomaly_map, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.score, scores.anomaly_map.amax((1, 2, 3)))


def test_features_are_compared_by_their_direction_alone() -> None:
    a = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    b = torch.tensor([0.0, 5.0]).view(1, 2, 1, 1)
    collected = [float(apart([a], [other])[0]) for other in (3 * a, b, -a)]
    assert collected == pytest.approx([0, 1, 2], abs=1e-6)


def test_adaptation_makes_a_normal_film_and_its_repair_alike(tmp_path) -> None:  # type: ignore[no-untyped-def]
    output = detector(adapt_steps=6, adapt_batch=4, stride=125, feature_size=32).fit(
        films(), job=QUIET
    )
    image = films().batch(range(4)).image
    before = {n: v.clone() for n, v in output.original.state_dict().items()}
    with torch.no_grad():
        repaired = output.repair(image, generators(1, range(4))).clamp(-1, 1)
        far = [
            sum(float(d.mean()) for d in apart(net(image), net(repaired)))
            for net in (output.original, output.features)
        ]
    assert far[1] < 0.8 * far[0]
    fresh = detector().original.state_dict()
    assert all(torch.equal(before[n], fresh[n]) for n in fresh)  # the original is left alone
    checkpoint.save(tmp_path / "model", output.state(), {})
    other = detector(adapt_steps=6, adapt_batch=4, stride=125, feature_size=32)
    other.load_state(checkpoint.load(tmp_path / "model")[0])
    batch = films().batch(range(4))
    torch.testing.assert_close(other.score(batch).score, output.score(batch).score)


def test_impossible_settings_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="stride 0: give 1 or more"):
        detector(stride=0)
    with pytest.raises(UserError, match="start 1000: give 1 to 999"):
        detector(start=1000)
    with pytest.raises(UserError, match="guidance -1: give 0 or more"):
        detector(guidance=-1.0)
    with pytest.raises(UserError, match="not fitted yet"):
        detector().score(films().batch([0]))
