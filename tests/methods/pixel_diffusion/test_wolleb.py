"""The way back ends at the film, unless the classifier bends it, and then towards healthy."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.test_contract import STATS, TRAIN, exam
from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.denoising import tiny_denoiser
from nofinding.methods.base.protocol import LearnsFromOthers
from nofinding.methods.pixel_diffusion.wolleb import DISEASED, HEALTHY, Wolleb, WollebConfig
from nofinding.training import TrainConfig, Trained, TrainingRun

QUICK = tiny_denoiser(train=TrainConfig(steps=2, batch_size=2, warmup=1, ema=0.0))
LEARNS = TrainConfig(steps=25, batch_size=8, lr=3e-3, warmup=2, ema=0.0)
QUIET = TrainingRun(progress=False, accelerator="cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normals() -> Films:
    return Films(TRAIN[:12], STATS, 32)


def diseased() -> Films:
    return Films([exam(n, blob=True) for n in range(300, 304)], STATS, 32)


@pytest.fixture(scope="module")
def fitted() -> Wolleb:
    detector = Wolleb(WollebConfig(net=QUICK, classifier=LEARNS, stride=250), STATS)
    detector.set_auxiliary(diseased())
    return detector.fit(normals(), job=QUIET)


def bare(**changes: object) -> Wolleb:
    return Wolleb(WollebConfig(net=QUICK, **changes), STATS)  # type: ignore[arg-type]


def test_exactness_undoes_the_errors_of_few_steps_and_costs_no_call(fitted: Wolleb) -> None:
    image = normals().batch(range(2)).image
    far, calls = {}, []
    for exact in (True, False):
        output = bare(gradient_scale=0.0, exact=exact, stride=250)
        output.net.load_state_dict(fitted.net.state_dict())
        torch.nn.init.normal_(
            output.net.head.conv.weight, generator=torch.Generator().manual_seed(0)
        )
        whole, asked = output.look, []
        output.look = lambda x, k: asked.append(k) or whole(x, k)  # type: ignore  # noqa: B023
        with torch.no_grad():
            result = output.decode(*output.encode(image))
        far[exact] = float((result - image).abs().max())
        calls.append(asked)
    assert far[True] < 1e-2 < far[False]
    assert calls == [[0, 250, 500, 250]] * 2 and output.network_calls == 4


def sees_noise(detector: Wolleb, eps: Tensor) -> list[int]:
    """Has its denoiser see this noise in everything, and its classifier pull every pixel by 1."""
    asked: list[int] = []

    def look(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        asked.append(k)
        a = detector.abar[k]
        return eps, (x - (1 - a).sqrt().float() * eps) / a.sqrt().float()

    detector.look = look  # type: ignore[method-assign]
    detector.towards_healthy = lambda x, k: torch.ones_like(x)  # type: ignore[method-assign]
    return asked


def test_without_a_classifier_the_way_back_ends_at_the_film() -> None:
    output = bare(gradient_scale=0.0)
    image = normals().batch(range(2)).image
    asked = sees_noise(output, torch.full_like(image, 0.3))
    result = output.decode(*output.encode(image))
    torch.testing.assert_close(result, image, rtol=0, atol=1e-5)
    assert asked == [0, 125, 250, 375, 500, 375, 250, 125]
    assert output.network_calls == 8


def test_the_gradient_is_taken_from_the_noise_times_s_and_root_1_minus_abar() -> None:
    output = bare(gradient_scale=2.0, start=500, stride=250)
    image = normals().batch(range(2)).image
    eps = torch.full_like(image, 0.3)
    sees_noise(output, eps)
    result = output.decode(*output.encode(image))
    x = output.encode(image)[0].double()
    for k, to in pairwise([500, 250, 0]):
        a, b = output.abar[k], output.abar[to]
        bent = 0.3 - 2.0 * (1 - a).sqrt()
        x = b.sqrt() * (x - (1 - a).sqrt() * bent) / a.sqrt() + (1 - b).sqrt() * bent
    torch.testing.assert_close(result.double(), x, rtol=0, atol=1e-5)
    assert (result > image).all()  # brighter is where this classifier says health lies


def test_the_gradient_is_that_of_each_film_alone(fitted: Wolleb) -> None:
    x = normals().batch(range(3)).image
    gradient = fitted.towards_healthy(x, 250)
    for i in range(3):
        alone = fitted.towards_healthy(x[i : i + 1], 250)
        torch.testing.assert_close(alone, gradient[i : i + 1], rtol=1e-3, atol=1e-6)
    t, step = torch.full((1,), 250.0), 1e-2
    direction = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    with torch.no_grad():
        ahead, behind = (
            fitted.classifier(x + s * direction, t).log_softmax(1)[:, HEALTHY]
            for s in (step, -step)
        )
    slope = (ahead - behind) / (2 * step)
    torch.testing.assert_close(slope, gradient.flatten(1).norm(dim=1), rtol=0.05, atol=1e-4)


def test_the_classifier_learns_who_is_diseased_and_the_decoding_looks_healthier(
    fitted: Wolleb,
) -> None:
    clean = normals().batch(range(12)).image
    ill = diseased().batch(range(4)).image
    t = torch.full((1,), 50.0)
    with torch.no_grad():

        def chance(image: Tensor) -> Tensor:
            noise = gaussian(image.shape[1:], generators(0, range(len(image))))
            x = add_noise(image, noise, fitted.abar[50])
            return fitted.classifier(x, t).softmax(1)[:, DISEASED]

        assert chance(ill).min() > chance(clean).max()
        decoded = fitted.decode(*fitted.encode(ill))
        assert chance(decoded).mean() < chance(ill).mean()


def test_both_classes_weigh_alike_and_labels_go_by_film(fitted: Wolleb) -> None:
    assert isinstance(fitted, LearnsFromOthers)
    assert fitted._weights == pytest.approx((16 / 24, 16 / 8))
    ill, clean = diseased().batch([0]), normals().batch([0])

    class Sure(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.tensor([[0.0, 20.0]]).expand(len(x), 2)  # always: diseased

    for batch, expected in ((ill, 0.0), (clean, 20 * 16 / 24)):
        loss = fitted.classifier_loss(Sure(), batch, generators(0, [0]))["loss"]
        assert float(loss) == pytest.approx(expected, abs=1e-3)


def test_the_denoiser_learns_from_both_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    indices: list[int] = []

    def train(*given: Any, **named: Any) -> Trained:
        indices.append(len(given[2]))
        return Trained(0, 0.0, 0.0, ())

    monkeypatch.setattr("nofinding.methods.base.denoising.train", train)
    monkeypatch.setattr(
        "nofinding.methods.pixel_diffusion.wolleb.train", lambda *given, **named: None
    )
    for films in ("normal", "both"):
        output = bare(denoiser_films=films)
        output.set_auxiliary(diseased())
        output.fit(normals(), job=QUIET)
    assert indices == [12, 16]


def test_what_cannot_be_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="wolleb: needs diseased films"):
        bare().fit(normals(), job=QUIET)
    output = bare()
    output.set_auxiliary(normals())
    with pytest.raises(UserError, match="is both among the normal and the diseased"):
        output.fit(normals(), job=QUIET)
    with pytest.raises(UserError, match="stride 300: give a divisor of start, 500"):
        bare(stride=300)
    with pytest.raises(UserError, match="start 1000"):
        bare(start=1000)
