"""What tells the autoencoders apart: a distribution, a memory, a variance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.reconstruction.ae_u import AEU, FLOOR, split
from nofinding.methods.reconstruction.autoencoder import AE, AEConfig
from nofinding.methods.reconstruction.memae import MemAE, MemAEConfig
from nofinding.methods.reconstruction.vae import VAE, VAEConfig, kl_from_normal
from nofinding.nets.autoencoder import MemoryAutoencoder, VariationalAutoencoder
from nofinding.training import TrainingRun
from nofinding.types import Batch, Exam, Pixels

NO_RECORD = EhrStats.of([], [])
QUIET = TrainingRun(progress=False, accelerator="cpu")
SHAPE = {"image_size": 8, "channels": (4,), "hidden": 8, "latent": 3}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Restless:
    """Grey on the left; on the right a grey that changes from film to film and pixel to pixel."""

    seed: int

    def __call__(self) -> Pixels:
        film = np.full((8, 8), 0.5, np.float32)
        rng = np.random.default_rng(self.seed)
        film[:, 4:] += 0.3 * rng.standard_normal((8, 4)).clip(-1, 1)
        return film


def films(seeds: Sequence[int]) -> Films:
    exams = [Exam(image_id=str(i), patient_id=str(i), pixels=Restless(i), ehr={}) for i in seeds]
    return Films(exams, NO_RECORD, 8)


class Fixed(nn.Module):
    """Always the same output."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return self.output


def batch_of(image: Tensor) -> Batch:
    none = torch.zeros(len(image), 0)
    return Batch(image, none, none.bool(), tuple(str(i) for i in range(len(image))))


# --- vae


def test_the_divergence_is_that_of_the_distributions() -> None:
    torch.manual_seed(0)
    mean, logvar = torch.randn(5, 4), torch.randn(5, 4)
    apart = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl_from_normal(mean, logvar), apart)
    assert kl_from_normal(torch.zeros(1, 4), torch.zeros(1, 4)) == 0


def test_vae_learns_from_a_drawn_code_and_scores_by_the_mean() -> None:
    torch.manual_seed(0)
    detector = VAE(VAEConfig(**SHAPE, kl=0.25), NO_RECORD)
    net = detector.new_net().eval()
    batch = films(range(4)).batch(range(4))
    result = detector.loss(net, batch, generators(3, batch.ids))
    mean, logvar = net.spread(batch.image)
    code = mean + logvar.exp().sqrt() * gaussian((3,), generators(3, batch.ids))
    residual = (net.decode(code) - batch.image).square().mean()
    torch.testing.assert_close(result["residual"], residual)
    torch.testing.assert_close(result["kl"], kl_from_normal(mean, logvar).mean())
    torch.testing.assert_close(result["loss"], residual + 0.25 * result["kl"])
    other = detector.loss(net, batch, generators(4, batch.ids))
    assert other["residual"] != result["residual"] and other["kl"] == result["kl"]
    torch.testing.assert_close(net(batch.image), net.decode(mean))


def test_a_heavy_divergence_makes_all_films_one() -> None:
    """With nothing but the divergence to please, the code is the standard normal for every film."""
    config = VAE.PRESETS["tiny"]
    config = replace(config, image_size=8, channels=(8,), hidden=16)
    batch = films(range(8)).batch(range(8))
    spread = {}
    for weight in (0.0, 10.0):
        detector = VAE(replace(config, kl=weight), NO_RECORD)
        detector.fit(films(range(16)), job=QUIET)
        assert isinstance(detector.net, VariationalAutoencoder)
        with torch.no_grad():
            mean, logvar = detector.net.spread(batch.image)
        spread[weight] = (float(mean.std(dim=0).mean()), float(logvar.mean().abs()))
    assert spread[10.0][0] < 0.3 * spread[0.0][0]
    assert spread[10.0][1] < 0.3


# --- memae


def test_memae_can_say_only_what_it_remembers() -> None:
    torch.manual_seed(0)
    net = MemoryAutoencoder(**SHAPE, memory=5, shrink=0.0).eval()
    x = torch.randn(6, 1, 8, 8)
    result, weights = net.recall(x)
    assert weights.shape == (6, 5)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(6))
    torch.testing.assert_close(result, net.decode(weights @ net.memory))
    torch.testing.assert_close(net(x), result)
    with torch.no_grad():
        net.memory[:] = net.memory[:1]  # it remembers one film, and gives it back for all
    same = net(x)
    torch.testing.assert_close(same, same[:1].expand_as(same))
    assert (net.encode(x).std(dim=0) > 1e-3).any()


def test_memae_of_the_published_programs_addresses_by_inner_products() -> None:
    assert MemAE.PRESETS["paper-program"].addressing == "dot"
    output = MemAE(replace(MemAE.PRESETS["tiny"], addressing="dot", shrink=0.0), NO_RECORD)
    net = output.new_net().eval()
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        code, (_, weights) = net.encode(x), net.recall(x)
    torch.testing.assert_close(weights, (code @ net.memory.T).softmax(1))


def test_memae_holds_the_entropy_of_its_weights_down() -> None:
    torch.manual_seed(0)
    detector = MemAE(MemAEConfig(**SHAPE, memory=5, shrink=0.1, entropy=0.5), NO_RECORD)
    net = detector.new_net().eval()
    batch = films(range(4)).batch(range(4))
    result = detector.loss(net, batch, [])
    output, weights = net.recall(batch.image)
    residual = (output - batch.image).square().mean()
    logs = torch.where(weights > 0, weights, 1.0).log()
    expected = residual - 0.5 * (weights * logs).sum(dim=1).mean()
    torch.testing.assert_close(result["loss"], expected)
    assert net.shrink == 0.1 and net.memory.shape == (5, 3)
    small = MemAE.PRESETS["small"]
    assert (small.memory, small.latent, small.shrink, small.entropy) == (25, 16, 1 / 25, 2e-4)


# --- ae-u


def test_the_log_variance_has_a_soft_floor() -> None:
    output = torch.tensor([0.3, -1e4]).reshape(1, 2, 1, 1).requires_grad_()
    mean, logvar = split(output)
    assert mean.item() == pytest.approx(0.3) and logvar.item() == pytest.approx(FLOOR)
    far = split(torch.tensor([0.3, -2.0]).reshape(1, 2, 1, 1))[1]
    assert far.item() == pytest.approx(-2.0, abs=1e-3)


def test_ae_u_loss_is_the_likelihood_of_a_normal_distribution() -> None:
    torch.manual_seed(0)
    x, output = torch.randn(3, 1, 4, 4), torch.randn(3, 2, 4, 4)
    result = AEU(AEConfig(**SHAPE), NO_RECORD).loss(Fixed(output), batch_of(x), [])
    mean, logvar = output.chunk(2, dim=1)
    likely = Normal(mean, (logvar / 2).exp()).log_prob(x).mean()
    expected = -2 * likely - np.log(2 * np.pi)  # twice the negative logarithm, but for a constant
    assert result["loss"].item() == pytest.approx(float(expected), abs=1e-3)


def test_ae_u_forgives_where_films_are_restless() -> None:
    """The same change of grey counts more where films are always alike than where they never
    are; to a plain autoencoder both are equal."""
    settings = {**SHAPE, "channels": (8,), "train": AE.PRESETS["tiny"].train}
    settings["train"] = replace(settings["train"], steps=150, lr=5e-3)
    some = films(range(100, 106)).batch(range(6))
    left, right = some.image.clone(), some.image.clone()
    left[:, :, :, :4] += 0.5
    right[:, :, :, 4:] += 0.5
    ratio = {}
    for kind in (AE, AEU):
        detector = kind(AEConfig(**settings), NO_RECORD).fit(films(range(32)), job=QUIET)
        scores = [detector.score(replace(some, image=x)) for x in (left, right)]
        ratio[kind] = float(scores[0].score.mean() / scores[1].score.mean())
    result = scores[0]
    assert result.anomaly_map is not None
    torch.testing.assert_close(result.score, result.anomaly_map.mean((1, 2, 3)))
    assert ratio[AEU] > 4 * ratio[AE]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="kl -1: give 0 or more"):
        VAE(VAEConfig(kl=-1), NO_RECORD)
    with pytest.raises(UserError, match="memory 0: give 1 or more"):
        MemAE(MemAEConfig(memory=0), NO_RECORD)
    with pytest.raises(UserError, match="shrink 1: give 0 or more and below 1"):
        MemAE(MemAEConfig(shrink=1), NO_RECORD)
    for kind in (VAE, MemAE, AEU):
        name = kind.name
        with pytest.raises(UserError, match=f"{name}: not fitted yet"):
            kind(kind.PRESETS["tiny"], NO_RECORD).score(films([0]).batch([0]))


def test_a_network_that_lies_in_the_shared_folder_is_taken_over(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(QUIET, shared=tmp_path)
    config = replace(AE.PRESETS["tiny"], image_size=8, channels=(4,), hidden=8)
    batch = films(range(4)).batch(range(4))
    first = AE(config, NO_RECORD).fit(films(range(8)), seed=1, job=job)
    assert first.borrowed_seconds == 0

    def refuse(*given: object, **named: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("nofinding.methods.reconstruction.autoencoder.train", refuse)
    second = AE(config, NO_RECORD).fit(films(range(8)), seed=1, job=job)
    assert second.borrowed_seconds > 0
    assert torch.equal(first.score(batch).score, second.score(batch).score)
    for other in (AE(config, NO_RECORD), AEU(config, NO_RECORD)):
        with pytest.raises(AssertionError, match="trained again"):
            other.fit(films(range(8)), seed=2 if type(other) is AE else 1, job=job)
