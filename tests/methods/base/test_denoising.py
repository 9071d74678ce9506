"""What the pixel diffusion methods share: the levels, both kinds of prediction, borrowed nets."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.diffusion.schedule import cosine_abar, linear_abar, scaled_linear_abar
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base import denoising
from nofinding.methods.base.denoising import DenoiserConfig, Denoising, compared, tiny_denoiser
from nofinding.methods.base.training_identity import training_identity
from nofinding.nets.denoiser import Denoiser
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Exam, Pixels, Scores

NO_RECORD = EhrStats.of([], [])


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    """As little as a method may have."""

    image_size: int = 16
    net: DenoiserConfig = field(
        default_factory=lambda: tiny_denoiser(
            train=TrainConfig(steps=4, batch_size=4, lr=2e-3, warmup=1, ema=0.5)
        )
    )
    strength: float = 1.0
    shown: int = 1


class Plain(Denoising):
    """Scores a film by the noise that the network sees in it."""

    name: ClassVar[str] = "plain"
    fits: ClassVar[int] = 0

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        self.require_fitted()
        eps, _ = self.look(batch.image.to(self.device), 100)
        return Scores(score=eps.abs().mean((1, 2, 3)).cpu())


class Sibling(Plain):
    """Trained as Plain is, told apart by its scoring alone."""

    name: ClassVar[str] = "sibling"


class Louder(Plain):
    """Trained otherwise."""

    name: ClassVar[str] = "louder"
    TRAINED_BY: ClassVar[tuple[str, ...]] = ("strength",)

    def noise(self, shape: Any, rows: Any) -> Tensor:
        return self.config.strength * gaussian(shape, rows)


@dataclass(frozen=True)
class Noise:
    seed: int

    def __call__(self) -> Pixels:
        return np.random.default_rng(self.seed).random((16, 16), dtype=np.float32)


def films(seeds: range = range(6)) -> Films:
    exams = [Exam(image_id=str(s), patient_id=str(s), pixels=Noise(s), ehr={}) for s in seeds]
    return Films(exams, NO_RECORD, 16)


def job(shared: Path | None = None) -> TrainingRun:
    return TrainingRun(progress=False, accelerator="cpu", shared=shared)


class Exact(nn.Module):
    """The best answer for independent Gaussian pixels, in closed form."""

    def __init__(self, abar: Tensor, mean: float, std: float, predicts: str) -> None:
        super().__init__()
        self.abar, self.mean, self.std, self.predicts = abar, mean, std, predicts
        self.place = nn.Parameter(torch.zeros(()))  # says on which device it lies

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a = self.abar[t.long()].reshape(-1, 1, 1, 1).float()
        eps = (1 - a).sqrt() * (x - a.sqrt() * self.mean) / (a * self.std**2 + 1 - a)
        return eps if self.predicts == "eps" else (x - (1 - a).sqrt() * eps) / a.sqrt()


def exact(predicts: str, **changes: Any) -> Plain:
    output = Plain(PlainConfig(net=tiny_denoiser(predicts=predicts, **changes)), NO_RECORD)
    output.net = Exact(output.abar, 0.3, 0.4, predicts)
    return output


@pytest.mark.parametrize(
    ("schedule", "table"),
    [("linear", linear_abar), ("cosine", cosine_abar), ("scaled-linear", scaled_linear_abar)],
)
def test_the_schedule_is_the_one_named(schedule: Any, table: Callable[[int], Tensor]) -> None:
    config = DenoiserConfig(schedule=schedule, diffusion_steps=200)
    assert torch.equal(config.abar, table(200))
    assert torch.equal(Plain(PlainConfig(net=config), NO_RECORD).abar, table(200))


@pytest.mark.parametrize("step", [0, 300, 999])
def test_eps_and_x0_are_two_ways_of_saying_the_same(step: int) -> None:
    by_eps, by_x0 = exact("eps"), exact("x0")
    x = gaussian((1, 16, 16), generators(0, range(3)))
    films_used = by_eps.look(x, step)
    for one, other in zip(films_used, by_x0.look(x, step), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(
        add_noise(films_used[1], films_used[0], by_eps.abar[step]), x, atol=1e-4, rtol=0
    )


def test_the_network_is_told_the_step_of_the_whole_schedule() -> None:
    output = Plain(PlainConfig(), NO_RECORD)
    values: list[Tensor] = []
    output.net.register_forward_pre_hook(lambda _, given: values.append(given[1]))
    output.look(torch.zeros(2, 1, 16, 16), 740)
    assert [t.tolist() for t in values] == [[740.0]]


def test_ddim_there_and_back_is_the_identity_for_an_exact_denoiser() -> None:
    output = exact("eps")
    x0 = 0.3 + 0.4 * gaussian((1, 16, 16), generators(0, range(4)))
    up = range(501)
    top, noises = output.denoise(x0, up)
    assert len(noises) == len(up) - 1
    assert (output.denoise(top, up[::-1])[0] - x0).abs().max() < 0.01
    a = output.abar[500].item()  # between, it had the spread of the marginal of x_500
    assert top.std().item() == pytest.approx((a * 0.16 + 1 - a) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("predicts", "expected"), [("eps", 1.0), ("x0", 0.25)])
def test_the_loss_asks_for_what_the_network_is_to_give(predicts: Any, expected: float) -> None:
    output = Plain(PlainConfig(net=tiny_denoiser(predicts=predicts)), NO_RECORD)
    batch = Batch(torch.full((64, 1, 16, 16), 0.5), *[torch.zeros(64, 0)] * 2, ("a",) * 64)
    zero = lambda x, t: torch.zeros_like(x)  # noqa: E731
    loss = output.loss(zero, batch, generators(0, range(64)))["loss"]  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected, rel=0.03)  # E eps^2, or the film's square


def test_the_loss_noises_each_film_at_a_step_of_its_own() -> None:
    output = Plain(PlainConfig(), NO_RECORD)
    rows, calls = generators(0, range(3)), []
    batch = Batch(torch.full((3, 1, 16, 16), 0.5), *[torch.zeros(3, 0)] * 2, ("a",) * 3)

    def net(x: Tensor, t: Tensor) -> Tensor:
        calls.append((x, t))
        return x

    output.loss(net, batch, rows)  # type: ignore[arg-type]
    ((x, t),) = calls
    again = generators(0, range(3))
    steps = torch.stack([torch.randint(0, 1000, (), generator=row) for row in again])
    assert t.tolist() == steps.tolist() and len(set(t.tolist())) == 3
    assert torch.equal(x, add_noise(batch.image, gaussian((1, 16, 16), again), output.abar[steps]))


def test_the_error_is_squared_or_absolute() -> None:
    gap = torch.tensor([0.5, -1.0])
    for loss, expected in (("mse", 0.625), ("l1", 0.75)):
        output = Plain(PlainConfig(net=tiny_denoiser(loss=loss)), NO_RECORD)
        assert output.error(gap, torch.zeros(2)).item() == expected


def test_a_borrowed_network_scores_bit_for_bit_as_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    real = denoising.train
    monkeypatch.setattr(denoising, "train", lambda *a, **k: trained.append(1) or real(*a, **k))
    normal, batch = films(), films(range(20, 24)).batch(range(4))
    alone = Sibling(PlainConfig(), NO_RECORD).fit(normal, seed=3, job=job()).score(batch).score
    assert len(trained) == 1
    first = Plain(PlainConfig(), NO_RECORD).fit(normal, seed=3, job=job(tmp_path))
    assert len(trained) == 2 and first.borrowed_seconds == 0
    taken = Sibling(PlainConfig(), NO_RECORD).fit(normal, seed=3, job=job(tmp_path))
    assert len(trained) == 2 and taken.borrowed_seconds > 0
    assert torch.equal(taken.score(batch).score, alone)
    assert not taken.net.training
    taken.fit(normal, seed=4, job=job())
    assert len(trained) == 3 and taken.borrowed_seconds == 0  # what it borrowed before is past
    assert len(list(tmp_path.iterdir())) == 2  # one network: tensors and their JSON


def identity(kind: type[Plain] = Plain, seed: int = 3, seeds: range = range(6), **k: Any) -> str:
    output = kind(replace(PlainConfig(), **k), NO_RECORD)
    return training_identity(*output.trainings(output.config), films(seeds), seed)


def test_only_equal_trainings_are_shared() -> None:
    own = identity()
    assert own == identity() == identity(Sibling)
    net = PlainConfig().net
    others = {
        identity(seed=4),
        identity(seeds=range(7)),
        identity(seeds=range(1, 7)),
        identity(net=replace(net, loss="l1")),
        identity(net=replace(net, predicts="x0")),
        identity(net=replace(net, schedule="cosine")),
        identity(net=replace(net, train=replace(net.train, lr=1e-3))),
        identity(Louder),
        identity(Louder, strength=2.0),
    }
    assert len(others | {own}) == 10  # all different
    assert own == identity(shown=2)  # how a film is scored changes nothing of the training
    assert own == identity(strength=2.0)  # nor an option that this method's noise does not read

    class Deeper(Plain):
        def new_net(self) -> nn.Module:
            return Denoiser(self.shape)

    assert identity(Deeper) != own


def test_films_of_another_size_do_not_share() -> None:
    exams = [Exam(image_id=str(s), patient_id="", pixels=Noise(s), ehr={}) for s in range(6)]
    (description,) = Plain.trainings(PlainConfig(image_size=32))
    assert training_identity(description, Films(exams, NO_RECORD, 32), 3) != identity()


def test_what_is_compared_are_greys_of_0_to_1() -> None:
    image = torch.zeros(2, 1, 12, 12)
    normal = image.clone()
    normal[1, 0, 3, 4] = -3.0  # out of range: compared as it is, shown as black
    drifted = compared(image, normal, "max_abs")
    assert drifted.score.tolist() == [0.0, 1.5]
    assert drifted.anomaly_map is not None and drifted.anomaly_map[1, 0, 3, 4] == 1.5
    assert drifted.reconstruction is not None and drifted.reconstruction[1, 0, 3, 4] == -1
    assert drifted.components["mae"][1].item() == pytest.approx(1.5 / 144)
    assert drifted.components["mse"][1].item() == pytest.approx(2.25 / 144)
    assert torch.equal(compared(image, normal, "mae").score, drifted.components["mae"])


def test_state_of_the_unfitted_is_empty_and_comes_back() -> None:
    output = Plain(PlainConfig(), NO_RECORD)
    assert output.state() == {}
    with pytest.raises(UserError, match="plain: not fitted yet"):
        output.score(films().batch([0]))

    def fitted(seed: int) -> Self | Plain:
        return Plain(PlainConfig(), NO_RECORD).fit(films(), seed=seed, job=job())

    one, other = fitted(0), fitted(1)
    batch = films().batch(range(3))
    assert not torch.equal(one.score(batch).score, other.score(batch).score)
    other.load_state(one.state())
    assert torch.equal(one.score(batch).score, other.score(batch).score)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"multipliers": ()}, "multipliers"), ({"heads": 3}, "heads 3"), ({"width": 0}, "heads")],
)
def test_impossible_networks_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Plain(PlainConfig(net=tiny_denoiser(**changes)), NO_RECORD)
    with pytest.raises(UserError, match="image_size 18: give a multiple of 4"):
        Plain(PlainConfig(image_size=18, net=DenoiserConfig()), NO_RECORD)
