"""ldm-ood and ldm-kl: what makes each what it is, on films and on volumes."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.divergence import posterior
from nofinding.functional.diffusion.sampler import add_noise, predict_x0
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.latent_diffusion import LatentDiffusion
from nofinding.methods.base.restarts import held_out
from nofinding.methods.latent_diffusion.ldm_kl import LDMKL, repaint, smooth_mask
from nofinding.methods.latent_diffusion.ldm_ood import LDMOOD
from nofinding.storage import checkpoint
from nofinding.training import TrainingRun
from nofinding.types import Batch, Exam, Pixels, Scores

NO_RECORD = EhrStats.of([], [])
QUIET = TrainingRun(progress=False, accelerator="cpu")
METHODS = (LDMOOD, LDMKL)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclasses.dataclass(frozen=True)
class Body:
    """A bright ball with two dark holes, of any number of dimensions; with or without a lump."""

    seed: int
    dimensions: int
    lump: bool = False

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        axes = np.meshgrid(*[np.linspace(-1, 1, 16)] * self.dimensions, indexing="ij")
        radius = np.sqrt(sum(a**2 for a in axes))
        body = 0.7 / (1 + np.exp(20 * (radius - 0.85)))
        for side in (-1, 1):
            far = sum(
                (a - (side * 0.4 if i == self.dimensions - 1 else 0)) ** 2
                for i, a in enumerate(axes)
            )
            body -= 0.5 * np.exp(-far / (0.06 + 0.01 * rng.random()))
        if self.lump:
            body[(slice(9, 13),) * self.dimensions] = 1.0
        return np.clip(body + 0.01 * rng.standard_normal(body.shape), 0, 1).astype(np.float32)


def films(rows: range, dimensions: int, *, lump: bool = False) -> Films:
    exams = [
        Exam(image_id=f"v{i}", patient_id=f"p{i}", pixels=Body(i, dimensions, lump), ehr={})
        for i in rows
    ]
    return Films(exams, NO_RECORD, 16, dimensions=dimensions)


def tiny(kind: Any, dimensions: int, **changes: Any) -> Any:
    return dataclasses.replace(
        kind.PRESETS["tiny"], image_size=16, dimensions=dimensions, **changes
    )


@pytest.fixture(scope="module", params=METHODS, ids=lambda kind: kind.name)
def volumes(request: pytest.FixtureRequest) -> tuple[LatentDiffusion, Batch]:
    """Fitted to volumes, and six others."""
    config = tiny(request.param, 3)
    steps = 20 if request.param is LDMOOD else 140
    unet = dataclasses.replace(
        config.unet, train=dataclasses.replace(config.unet.train, steps=steps)
    )
    detector = request.param(dataclasses.replace(config, unet=unet), NO_RECORD)
    detector.fit(films(range(16), 3), seed=1, job=QUIET)
    return detector, films(range(50, 56), 3).batch(range(6))


def rows_of(batch: Batch, indices: list[int]) -> Batch:
    ids = tuple(batch.ids[i] for i in indices)
    return Batch(batch.image[indices], batch.ehr[indices], batch.known[indices], ids)


def test_volumes_keep_the_contract(volumes: tuple[Any, Batch], tmp_path: Path) -> None:
    detector, batch = volumes
    assert batch.image.shape == (6, 1, 16, 16, 16)
    before = torch.get_rng_state()
    scores: Scores = detector.score(batch, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert scores.score.shape == (6,) and scores.score.isfinite().all()
    assert scores.anomaly_map is not None and scores.anomaly_map.shape == batch.image.shape
    assert scores.anomaly_map.min() >= 0
    assert scores.reconstruction is not None and scores.reconstruction.abs().max() <= 1
    assert scores.reconstruction.shape == batch.image.shape
    spread = float(scores.score.max() - scores.score.min())
    assert spread > 0
    for selection in ([4], [2, 5, 0]):
        result = detector.score(rows_of(batch, selection), seed=3).score
        torch.testing.assert_close(result, scores.score[selection], rtol=0, atol=1e-5 * spread)
    checkpoint.save(tmp_path / "model", detector.state(), {})
    again = type(detector)(detector.config, NO_RECORD)
    again.load_state(checkpoint.load(tmp_path / "model")[0])
    assert torch.equal(again.score(batch, seed=3).score, scores.score)


def test_a_lump_in_a_volume_stands_out(volumes: tuple[Any, Batch]) -> None:
    detector, batch = volumes
    scores = detector.score(films(range(60, 64), 3, lump=True).batch(range(4)))
    assert scores.score.min() > detector.score(batch).score.median()


def test_a_film_is_no_volume_and_a_volume_no_film() -> None:
    with pytest.raises(UserError, match=r"'v0': has 2 dimensions, not 3; .* takes volumes"):
        Films(
            [Exam(image_id="v0", patient_id="p", pixels=Body(0, 2), ehr={})],
            NO_RECORD,
            16,
            dimensions=3,
        ).batch([0])
    with pytest.raises(UserError, match=r"'v0': has 3 dimensions, not 2; .* takes films"):
        Films(
            [Exam(image_id="v0", patient_id="p", pixels=Body(0, 3), ehr={})], NO_RECORD, 16
        ).batch([0])


@pytest.mark.parametrize("kind", METHODS)
def test_statistics_are_of_films_that_neither_network_saw(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata: dict[str, list[str]] = {"train": [], "judge": []}

    def train(net: nn.Module, loss: object, films: Films, *given: object, **named: object) -> Any:
        metadata["train"] += films.ids
        return type("Trained", (), {"seconds": 0.0})

    monkeypatch.setattr("nofinding.methods.base.latent_diffusion.train", train)
    detector = kind(tiny(kind, 2), NO_RECORD)
    real = detector.calibrated

    def calibrated(held: Iterator[Batch], seed: int) -> dict[str, Tensor]:
        remaining = list(held)
        metadata["judge"] += [i for batch in remaining for i in batch.ids]
        return real(iter(remaining), seed)

    detector.calibrated = calibrated
    detector.fit(films(range(20), 2), seed=4)
    learn, judge = held_out(20, 0.25, 4, "x")
    assert metadata["judge"] == [f"v{i}" for i in judge]
    assert metadata["train"] == [f"v{i}" for i in learn] * 2


def test_the_two_methods_share_their_networks(tmp_path: Path) -> None:
    quick = dataclasses.replace(tiny(LDMOOD, 2).codec.train, steps=2)
    parts: dict[str, Any] = {
        name: dataclasses.replace(getattr(tiny(LDMOOD, 2), name), train=quick)
        for name in ("codec", "unet")
    }
    job = dataclasses.replace(QUIET, shared=tmp_path)
    first = LDMOOD(tiny(LDMOOD, 2, **parts), NO_RECORD).fit(films(range(12), 2), job=job)
    other = LDMKL(tiny(LDMKL, 2, **parts), NO_RECORD).fit(films(range(12), 2), job=job)
    assert first.borrowed_seconds == 0 < other.borrowed_seconds
    mine = {k: v for k, v in first.state().items() if k.startswith("net.")}
    theirs = other.state()
    assert all(torch.equal(v, theirs[k]) for k, v in mine.items())
    LDMKL(tiny(LDMKL, 2, **parts), NO_RECORD).fit(films(range(13), 2), job=job)
    assert len(list(tmp_path.glob("*.json"))) == 2


@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_the_autoencoder_learns_the_films(kind: str) -> None:
    config = tiny(LDMOOD, 2)
    codec = dataclasses.replace(config.codec, kind=kind, norm_groups=4)
    unet = dataclasses.replace(config.unet, train=dataclasses.replace(config.unet.train, steps=1))
    detector = LDMOOD(dataclasses.replace(config, codec=codec, unet=unet), NO_RECORD)
    normal = films(range(16), 2)
    detector.fit(normal, job=QUIET)
    batch = films(range(50, 54), 2).batch(range(4))
    assert detector.net is not None
    with torch.no_grad():
        back = detector.net.decode(detector.net.encode(batch.image))
    mean = normal.batch(range(16)).image.mean()
    assert (back - batch.image).abs().mean() < 0.6 * (mean - batch.image).abs().mean()


def test_the_loss_of_the_autoencoder_is_the_weighted_sum_of_its_parts() -> None:
    config = tiny(LDMOOD, 2)
    codec = dataclasses.replace(config.codec, perceptual_weight=0.001, spectral_weight=0.5)
    detector = LDMOOD(dataclasses.replace(config, codec=codec), NO_RECORD)
    batch = films(range(3), 2).batch(range(3))

    class Brighter(nn.Module):
        def forward(self, x: Tensor, rows: object) -> tuple[Tensor, Tensor]:
            return x + 0.25, torch.tensor(0.75)

    parts = detector.codec_loss(Brighter(), batch, [])
    assert float(parts["l1"]) == pytest.approx(0.25)
    assert float(parts["spectral"]) > 0 and float(parts["perceptual"]) > 0
    expected = 0.25 + 0.75 + 0.5 * parts["spectral"] + 0.001 * parts["perceptual"]
    torch.testing.assert_close(parts["loss"], expected)


class FakePair(nn.Module):
    """Latents are films averaged over 2 pixels; the U-Net knows one film and sees the rest."""

    def __init__(self, healthy: Tensor, abar: Tensor) -> None:
        super().__init__()
        self.healthy, self.abar = healthy, abar
        self.mean = torch.zeros(1)
        self.asked: list[int] = []

    def encode(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 2)

    def decode(self, z: Tensor) -> Tensor:
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2).clamp(-1, 1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.asked.append(int(t[0]))
        a = self.abar[int(t[0])]
        return ((z - a.sqrt() * self.healthy) / (1 - a).sqrt()).float()


@pytest.fixture
def one_lump() -> tuple[LDMKL, Batch, FakePair]:
    """A method whose model knows flat films, and two films with a lump at a known place."""
    detector = LDMKL(tiny(LDMKL, 2), NO_RECORD)
    image = torch.zeros(2, 1, 16, 16)
    image[0, :, 4:8, 8:12] = 0.8
    pair = FakePair(torch.zeros(1, 1, 8, 8), detector.abar)
    detector.net = pair  # type: ignore[assignment]
    detector.learnt = {"limit": torch.tensor([1e-4])}
    return (
        detector,
        Batch(image, torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), ("a", "b")),
        pair,
    )


def test_surprise_is_the_divergence_of_the_step_back_averaged_over_the_levels(
    one_lump: tuple[LDMKL, Batch, FakePair],
) -> None:
    detector, batch, pair = one_lump
    z0 = pair.encode(batch.image)
    difference = detector.surprise(z0, generators(5, batch.ids))
    assert pair.asked == [400, 500, 600] == detector.levels
    rows, expected = generators(5, batch.ids), torch.zeros(2, 1, 8, 8)
    for t in (400, 500, 600):
        noise = gaussian(z0.shape[1:], rows)
        z = add_noise(z0, noise, detector.abar[t])
        here, there = float(detector.abar[t]), float(detector.abar[t - 1])
        mean, variance = posterior(z, z0, here, there)
        other, _ = posterior(
            z, predict_x0(z, pair(z, torch.tensor([t])), detector.abar[t]), here, there
        )
        expected += kl_divergence(Normal(mean, variance**0.5), Normal(other, variance**0.5)) / 3
    torch.testing.assert_close(difference, expected, rtol=1e-3, atol=1e-6)
    assert difference[0, 0, 2:4, 4:6].min() > 3e-4 > 1e-5 > difference[1].max()


def test_only_what_is_flagged_is_painted_anew(one_lump: tuple[LDMKL, Batch, FakePair]) -> None:
    detector, batch, pair = one_lump
    scores = detector.score(batch, seed=5)
    assert pair.asked == [400, 500, 600, 500, 250, 0]
    assert len(pair.asked) == detector.network_calls
    torch.testing.assert_close(scores.components["flagged"], torch.tensor([4 / 64, 0.0]))
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    torch.testing.assert_close(
        scores.reconstruction, torch.zeros_like(scores.reconstruction), atol=1e-3, rtol=0
    )
    lump = scores.anomaly_map[0, 0, 4:8, 8:12]
    assert (
        lump.max() > 0.15
        and scores.anomaly_map[0, 0, :2].max() == 0
        and scores.anomaly_map[1].max() == 0
    )
    assert scores.score[0] > scores.score[1]


def test_painting_copies_the_original_wherever_nothing_is_flagged() -> None:
    """Told the wrong film, the model still changes nothing outside the mask; and what it sees
    there at each step is the original under noise."""
    abar = LDMKL(tiny(LDMKL, 2), NO_RECORD).abar
    z0 = torch.full((1, 2, 8, 8), 3.0)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :2] = 1
    calls: list[tuple[int, Tensor]] = []

    def look(z: Tensor, k: int) -> Tensor:
        calls.append((k, z))
        return (z - abar[k].sqrt().float() * -3.0) / (1 - abar[k]).sqrt().float()  # "it is -3"

    changed = repaint(look, z0, mask, [600, 300, 0], abar, generators(0, ["a"]))
    assert torch.equal(changed[..., 2:], z0[..., 2:])
    torch.testing.assert_close(
        changed[..., :2], torch.full((1, 2, 8, 2), -3.0), rtol=1e-3, atol=1e-3
    )
    for k, z in calls:
        level = float(abar[k].sqrt())
        assert abs(float(z[..., 2:].mean()) - 3 * level) < 0.3
        if k < 600:
            assert abs(float(z[..., :2].mean()) + 3 * level) < 0.6


def test_the_limit_is_a_percentile_of_held_out_positions(
    one_lump: tuple[LDMKL, Batch, FakePair],
) -> None:
    detector, batch, pair = one_lump
    limit = detector.calibrated(iter([batch]), 7)["limit"]
    every = detector.surprise(pair.encode(batch.image), generators(7, batch.ids)).flatten()
    torch.testing.assert_close(limit[0], every.quantile(0.975), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_mask_is_smoothed_and_enlarged(dimensions: int) -> None:
    mask = torch.zeros(1, 1, *(8,) * dimensions)
    mask[(..., *(slice(3, 6),) * dimensions)] = 1
    soft = smooth_mask(mask, (32,) * dimensions)
    assert soft.shape == (1, 1, *(32,) * dimensions)
    assert soft.min() == 0 and 0.8 < soft.max() <= 1
    inside = soft[(0, 0, *(18,) * dimensions)]
    border = soft[(0, 0, *(18,) * (dimensions - 1), 12)]
    assert 0 < border < inside
    whole = smooth_mask(torch.ones_like(mask), (32,) * dimensions)
    torch.testing.assert_close(whole, torch.ones_like(whole))


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (LDMOOD, {"image_size": 18}, "image_size 18"),
        (LDMOOD, {"grid": 1}, "grid 1"),
        (LDMOOD, {"slice_stride": 0}, "slice_stride 0"),
        (LDMKL, {"lowest": 600, "highest": 400}, "lowest 600 and highest 400"),
        (LDMKL, {"start": 1000}, "start 1000"),
        (LDMKL, {"kl_stride": 0}, "kl_stride 0"),
        (LDMKL, {"paint_stride": 0}, "paint_stride 0"),
        (LDMKL, {"percentile": 100.0}, "percentile 100"),
        (LDMKL, {"dimensions": 4}, "dimensions 4"),
    ],
)
def test_bad_settings_are_refused(kind: Any, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        kind(dataclasses.replace(kind.PRESETS["tiny"], **change), NO_RECORD)


@pytest.mark.parametrize("kind", METHODS)
def test_too_few_films_no_fit_and_an_averaged_autoencoder_are_refused(kind: Any) -> None:
    with pytest.raises(UserError, match="3 normal films, of which 1"):
        kind(tiny(kind, 2), NO_RECORD).fit(films(range(3), 2), job=QUIET)
    with pytest.raises(UserError, match="not fitted yet"):
        kind(tiny(kind, 2), NO_RECORD).score(films(range(1), 2).batch([0]))
    codec = kind.PRESETS["tiny"].codec
    averaged = dataclasses.replace(codec, train=dataclasses.replace(codec.train, ema=0.9))
    with pytest.raises(UserError, match=r"codec\.train\.ema"):
        kind(tiny(kind, 2, codec=averaged), NO_RECORD)
