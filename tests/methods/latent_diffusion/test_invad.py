"""InvAD: inversion to noise, and its two ingredients, by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.noise import generators
from nofinding.methods.base.feature_maps import MapFilms, unpacked
from nofinding.methods.latent_diffusion.invad import InvAD, ingredients
from nofinding.training import TrainingRun
from nofinding.types import Exam

STATS = EhrStats.of([], [])
TINY = replace(InvAD.PRESETS["tiny"], train=replace(InvAD.PRESETS["tiny"].train, steps=2))
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


@pytest.fixture(scope="module")
def detector(films: Films) -> InvAD:
    return InvAD(TINY, STATS).fit(films, job=QUIET)


class Perfect(nn.Module):
    """What a denoiser of Gaussian features of spread `s` would learn at best."""

    def __init__(self, abar: Tensor, s: float) -> None:
        super().__init__()
        self.abar, self.s = abar, s
        self.asked: list[int] = []

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.asked.append(int(t[0]))
        a = float(self.abar[int(t[0])])
        return z * (1 - a) ** 0.5 / (a * self.s**2 + 1 - a)


@pytest.mark.parametrize("s", [0.5, 2.0])
def test_inversion_turns_normal_features_into_white_noise(s: float) -> None:
    """Of Gaussian features the flow to noise is known: it divides by their spread."""
    detector = InvAD(replace(TINY, inversion_steps=500), STATS)
    detector.net["denoiser"] = Perfect(detector.abar, s)
    z = s * torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(detector.invert(z), z / s, rtol=0.03, atol=0.01)


def test_it_takes_three_ddim_steps_to_t_333_666_and_999() -> None:
    detector = InvAD(TINY, STATS)
    perfect = Perfect(detector.abar, 0.7)
    detector.net["denoiser"] = perfect
    z = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    result = detector.invert(z)
    assert perfect.asked == [0, 333, 666]
    assert detector.levels == [0, 333, 666, 999] and detector.network_calls == 4
    for here, there in ((0, 333), (333, 666), (666, 999)):
        a, b = float(detector.abar[here]), float(detector.abar[there])
        eps = z * (1 - a) ** 0.5 / (a * 0.49 + 1 - a)
        z = b**0.5 * (z - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps
    torch.testing.assert_close(result, z, rtol=1e-4, atol=1e-5)


def test_ingredients_are_the_gaussians_log_density_and_the_range_of_lengths() -> None:
    z = torch.zeros(2, 2, 1, 2)
    z[1, :, 0, 0] = torch.tensor([3.0, 4.0])
    z[1, :, 0, 1] = torch.tensor([0.0, -1.0])
    result = ingredients(z)
    constant = 0.5 * 4 * math.log(2 * math.pi)
    torch.testing.assert_close(result["nll"], torch.tensor([constant, constant + 13.0]))
    torch.testing.assert_close(result["range"], torch.tensor([0.0, 4.0]))
    normal = torch.distributions.Normal(0, 1)
    noise = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = -normal.log_prob(noise).sum((1, 2, 3))
    torch.testing.assert_close(ingredients(noise)["nll"], expected)


def test_parts_are_in_standard_deviations_of_training_films(films: Films, detector: InvAD) -> None:
    scores = detector.score(films.batch(range(6)))
    for name in ("nll", "range"):
        part = scores.components[name]
        assert float(part.mean()) == pytest.approx(0, abs=0.02)
        assert float(part.std()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(scores.score, scores.components["nll"] + scores.components["range"])


def test_the_map_is_the_length_of_the_noise_at_each_position(films: Films, detector: InvAD) -> None:
    batch = films.batch([2])
    z = detector.invert(detector.standardised(detector.teacher(batch.image)[0]))
    expected = nn.functional.interpolate(
        z.square().sum(1, keepdim=True).sqrt(), (64, 64), mode="bilinear"
    )
    scores = detector.score(batch).anomaly_map
    assert scores is not None
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_the_denoiser_learns_the_noise_of_standardised_features(
    films: Films, detector: InvAD
) -> None:
    batch = MapFilms(films, detector.teacher, QUIET).batch(range(6))
    z = detector.standardised(unpacked(batch.image, detector.shapes)[0])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(z.shape[1]), rtol=0, atol=1e-3)
    torch.testing.assert_close(
        z.std((0, 2, 3), correction=0), torch.ones(z.shape[1]), rtol=0, atol=1e-2
    )

    class Knows(nn.Module):
        """Takes the noise out of z_t, knowing z_0."""

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            a = detector.abar[t.long()].float()[:, None, None, None]
            return (x - a.sqrt() * z) / (1 - a).sqrt()

    rows = generators(0, range(6))
    assert float(detector.loss(Knows(), batch, rows)["loss"]) < 1e-3
    silent = detector.new_denoiser(0).requires_grad_(
        False
    )  # gives zeros: the loss is the noise's own square
    assert float(detector.loss(silent, batch, generators(0, range(6)))["loss"]) == pytest.approx(
        1, abs=0.1
    )


def test_published_settings_and_what_is_kept(detector: InvAD) -> None:
    paper = InvAD.PRESETS["paper"]
    assert (paper.width, paper.depth, paper.inversion_steps) == (2048, 16, 3)
    assert (paper.train.lr, paper.train.batch_size, paper.epochs) == (5e-5, 8, 1000)
    assert {name.split(".")[0] for name in detector.state()} == {"denoiser", "scale"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 30}, "width 30: give a multiple of 4"),
        ({"heads": 3}, "heads 3: give a number that divides 32"),
        ({"depth": 0}, "depth 0: give 1 or more"),
        ({"inversion_steps": 0}, "inversion_steps 0: give 1 or more"),
        ({"image_size": 16}, "layer 10 has a side of 1, and 2 or more are needed"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        InvAD(replace(TINY, **changes), STATS)


def test_it_wants_to_be_fitted_on_two_films_or_more(films: Films) -> None:
    detector = InvAD(TINY, STATS)
    with pytest.raises(UserError, match="invad: not fitted yet"):
        detector.score(films.batch([0]))
    one = Films([Exam(image_id="a", patient_id="a", pixels=Noise(0), ehr={})], STATS, 64)
    with pytest.raises(UserError, match="invad: 1 normal films; give 2 or more"):
        detector.fit(one, job=QUIET)
    assert detector.state() == {}
