"""`focal`: what is painted is what is asked for, where it was moved to; look-alikes are not."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.noise import generators
from nofinding.methods.base.lung_network import load_lungs
from nofinding.methods.frozen_features import focal
from nofinding.methods.frozen_features.focal import (
    FocalConfig,
    FocalLesions,
    local_losses,
    lung_field,
)
from nofinding.nets.focal import FAMILIES, LUNGS
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Exam, Pixels

STATS = EhrStats.of([], [])
TINY = FocalLesions.PRESETS["tiny"]


@dataclass(frozen=True)
class Body:
    """A bright chest with two dark lungs."""

    seed: int

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[-1:1:96j, -1:1:96j]
        film = 0.75 - 0.2 * x**2
        for at in (-0.42, 0.42):
            wide, high = 0.3 + 0.02 * rng.standard_normal(2)
            film -= 0.4 / (
                1 + np.exp(-12 * (1 - ((x - at) / wide) ** 2 - (y / (high + 0.35)) ** 2))
            )
        return np.clip(film + 0.01 * rng.standard_normal(film.shape), 0, 1).astype(np.float32)


RECORDS = [Exam(image_id=f"f{n}", patient_id=f"p{n}", pixels=Body(n), ehr={}) for n in range(12)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def films() -> Films:
    return Films(RECORDS, STATS, 96)


def logits(target: Tensor, inside: float, outside: float) -> Tensor:
    return torch.where(target > 0, torch.tensor(inside), torch.tensor(outside))


def test_every_lesion_weighs_the_same_and_hard_clean_places_more() -> None:
    small, large = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    small[..., 4:6, 4:6] = 1
    large[..., 4:20, 4:20] = 1
    missed = [float(local_losses(logits(t, -3.0, -9.0), t)[0]) for t in (small, large)]
    assert missed[0] == pytest.approx(missed[1], rel=1e-4) and missed[0] > 2
    easy = local_losses(torch.full((1, 1, 32, 32), -6.0), torch.zeros(1, 1, 32, 32))[1]
    hard = torch.full((1, 1, 32, 32), -6.0)
    hard[..., 0, 0] = 3
    assert local_losses(hard, torch.zeros(1, 1, 32, 32))[1] > 100 * easy
    perfect = local_losses(logits(small, 12.0, -12.0), small)
    assert all(float(x) < 0.02 for x in perfect)


def test_the_answer_lies_where_the_film_was_moved_to(
    films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = FocalLesions(replace(TINY, families=("device",)), STATS)

    def lit(film: Tensor, lung: Tensor, rows: object, families: object) -> tuple[Tensor, Tensor]:
        masks = torch.zeros(len(film), len(FAMILIES), *film.shape[-2:])
        masks[:, 0, 40:56, 20:36] = 1
        film = film.clone()
        film[:, 0, 40:56, 20:36] = 1
        return film, masks

    monkeypatch.setattr(focal, "paint_lesions", lit)
    monkeypatch.setattr(focal, "exposure", lambda film, rows: film)
    monkeypatch.setattr(focal, "reprocessed", lambda film, lung, rows: film)
    film, target = detector.prepare(films.batch(range(8)).image, generators(0, range(8)))
    assert target.shape == (8, len(FAMILIES) + 1, 48, 48)
    fine = torch.nn.functional.avg_pool2d(film, 2)[:, 0]
    for one, mask in zip(fine, target[:, 0], strict=True):
        assert mask.sum() > 20
        assert one[mask > 0].median() > one[mask == 0].median() + 0.2
    assert target[:, 1:LUNGS].sum() == 0


def test_a_film_is_prepared_the_same_whatever_stands_beside_it(films: Films) -> None:
    detector = FocalLesions(TINY, STATS)
    image = films.batch(range(4)).image
    both = detector.prepare(image, generators(0, range(4)))
    alone = detector.prepare(image[2:3], generators(0, [2]))
    for a, b in zip(both, alone, strict=True):
        torch.testing.assert_close(a[2:3], b)


def test_of_a_film_that_shows_lungs_alone_all_that_it_shows_is_lung() -> None:
    film = torch.zeros(1, 1, 96, 96)
    film[..., 20:70, 15:40] = 0.4
    field = lung_field(film, load_lungs())
    assert field[..., 25:65, 20:35].min() == 1 and field[..., :10, :].max() == 0


def test_fitting_lowers_the_loss_and_the_score_is_the_highest_place(films: Films) -> None:
    config = replace(TINY, train=TrainConfig(steps=30, batch_size=6, lr=4e-3, warmup=2, ema=0.5))
    detector = FocalLesions(config, STATS)
    batch, rows = films.batch(range(12)), generators(7, range(12))
    before = float(detector.loss(detector.net.eval(), batch, rows)["loss"].detach())
    detector.fit(films, seed=1, job=TrainingRun(progress=False, accelerator="cpu"))
    after = float(
        detector.loss(detector.net.eval(), batch, generators(7, range(12)))["loss"].detach()
    )
    assert after < 0.8 * before
    scores = detector.score(batch)
    families = torch.stack([scores.components[name] for name in FAMILIES])
    assert (scores.score <= families.amax(0) + 1e-5).all()
    assert scores.anomaly_map is not None and scores.anomaly_map.shape == batch.image.shape
    torch.testing.assert_close(
        scores.anomaly_map.amax(dim=(1, 2, 3)), scores.score.sigmoid(), rtol=0.2, atol=0.1
    )
    flipped = replace(batch, image=batch.image.flip(-1))
    torch.testing.assert_close(detector.score(flipped).score, scores.score, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 100}, "image_size 100"),
        ({"widths": (8, 8)}, "widths"),
        ({"families": ("mood",)}, "families mood: give some of"),
        ({"families": ()}, r"families \(none\): give some of"),
        ({"lookalikes": 1.5}, "lookalikes 1.5"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        FocalLesions(replace(FocalConfig(), **changes), STATS)  # type: ignore[arg-type]


def test_training_begins_with_the_network_that_is_named(films: Films, tmp_path: Path) -> None:
    """A step of next to no length from a fitted model leaves what it was; another begins anew."""
    first = FocalLesions(TINY, STATS)
    with torch.no_grad():
        for weight in first.net.learnt().values():
            weight += 0.25 if weight.is_floating_point() else 0
    save_file(first.net.learnt(), tmp_path / "model.safetensors")
    train = TrainConfig(steps=1, batch_size=2, lr=1e-12, ema=0.0)
    for begin, same in ((str(tmp_path), True), ("imagenet", False)):
        other = FocalLesions(replace(TINY, begin=begin, train=train), STATS)
        other.fit(films, job=TrainingRun(progress=False))
        name = "unet.out.weight"
        assert torch.allclose(other.net.state_dict()[name], first.net.state_dict()[name]) == same
    for begin, said in (("nowhere", "give shipped"), ("shipped", "other widths")):
        with pytest.raises(UserError, match=said):
            FocalLesions(replace(TINY, begin=begin, train=train), STATS).fit(films)


def test_unfitted_it_says_so(films: Films) -> None:
    with pytest.raises(UserError, match="not fitted yet"):
        FocalLesions(TINY, STATS).score(films.batch([0]))
