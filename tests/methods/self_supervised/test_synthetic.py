"""`synthetic`: what it is taught, from what, and what it says."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.image.equalise import equalise
from nofinding.functional.noise import generators
from nofinding.functional.synthetic.anomalies import ANOMALIES, changed
from nofinding.methods.self_supervised import synthetic
from nofinding.methods.self_supervised.synthetic import FOUND, Synthetic, SyntheticConfig
from nofinding.nets.chest import Evidence
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Exam, Pixels

NO_RECORD = EhrStats.of([], [])
SIDE = 64
CONFIG = SyntheticConfig(
    image_size=SIDE, hidden=8, train=TrainConfig(steps=3, batch_size=4, lr=1e-3, warmup=1)
)


@dataclass(frozen=True)
class Shade:
    """A grey slope with a brighter half; never black."""

    seed: int

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        film = np.linspace(0.2, 0.6, SIDE)[:, None] + 0.03 * rng.standard_normal((SIDE, SIDE))
        film[:, : SIDE // 3] += 0.2
        return np.clip(film, 0.1, 0.9).astype(np.float32)


def shades(count: int = 6) -> Films:
    exams = [
        Exam(image_id=str(i), patient_id=str(i), pixels=Shade(i), ehr={}) for i in range(count)
    ]
    return Films(exams, NO_RECORD, SIDE)


@pytest.fixture(scope="module")
def films() -> Films:
    return shades()


@pytest.fixture(scope="module")
def fitted(films: Films) -> Iterator[Synthetic]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    detector = Synthetic(CONFIG, NO_RECORD)
    yield detector.fit(films, seed=5, job=TrainingRun(progress=False, accelerator="cpu"))
    torch.set_num_threads(before)


class Answers(nn.Module):
    """Remembers what it was shown, and answers with logits that `say` makes of it."""

    def __init__(self, say) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.say = say

    def forward(self, film: Tensor) -> Evidence:
        self.film = film
        where, whole = self.say(film)
        return Evidence(where, whole, film, film)


def silent(film: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(len(film), SIDE // 16, SIDE // 16), torch.zeros(len(film))


def unchanged(film: Tensor, rows: Sequence[Generator]) -> Tensor:
    return film


def square(film: Tensor, rows: Sequence[Generator]) -> Tensor:
    """A gross anomaly in the middle of the upper left quarter."""
    out = film.clone()
    out[..., 8:24, 8:24] += 0.3
    return out


def loss_of(answers: Answers, batch: Batch, *, kinds: tuple[str, ...] = ("opacity",), seed: int = 0,
            weight: float = 0.5) -> dict[str, Tensor]:  # fmt: skip
    config = replace(CONFIG, kinds=kinds, film_weight=weight)
    detector = Synthetic.__new__(Synthetic)  # its loss needs no network of its own
    detector.config = config
    return detector.loss(answers, batch, generators(seed, batch.ids))


def test_where_nothing_is_painted_both_films_are_the_same(
    films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, position and exposure are shared: they cannot tell painted from clean."""
    monkeypatch.setitem(ANOMALIES, "opacity", unchanged)
    batch, answers = films.batch(range(6)), Answers(silent)
    result = loss_of(answers, batch)
    clean, painted = answers.film.chunk(2)
    assert torch.equal(clean, painted)
    assert not torch.allclose(clean, equalise((batch.image + 1) / 2), atol=0.1)
    # No cell counts as painted, and nought for a logit costs log 2 each.
    torch.testing.assert_close(result["where"], torch.tensor(math.log(2)))
    torch.testing.assert_close(result["film"], torch.tensor(math.log(2)))


def test_the_answer_is_what_changed_where_it_was_moved_to(
    films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANOMALIES, "opacity", square)
    for name in ("exposure", "labels"):
        monkeypatch.setattr(synthetic, name, unchanged)
    monkeypatch.setattr(synthetic, "equalise", lambda film: film)

    def right(both: Tensor) -> tuple[Tensor, Tensor]:
        clean, painted = both.chunk(2)
        cells = changed(clean, painted, SIDE // 16).float()
        assert 0.05 < cells.mean() < 0.6 and len(cells.unique(dim=0)) > 1  # the film was moved
        logits = torch.cat([torch.zeros_like(cells), cells]) * 40 - 20
        return logits, logits.amax((1, 2))

    batch = films.batch(range(6))
    assert loss_of(Answers(right), batch)["loss"] < 1e-6

    def mirrored(both: Tensor) -> tuple[Tensor, Tensor]:
        where, film = right(both)
        return where.flip(-1), film

    assert loss_of(Answers(mirrored), batch)["where"] > 1

    def the_other_film(both: Tensor) -> tuple[Tensor, Tensor]:
        where, film = right(both)
        return where, film.roll(len(film) // 2)

    assert loss_of(Answers(the_other_film), batch)["film"] > 1
    # A painted cell counts FOUND times; the loss is where + weight * film.
    share = {}

    def ask(both: Tensor) -> tuple[Tensor, Tensor]:
        share["painted"] = changed(*both.chunk(2), SIDE // 16).float().mean() / 2
        return silent(both)

    result = loss_of(Answers(ask), batch, weight=0.25)
    expected = math.log(2) * (1 + (FOUND - 1) * share["painted"])
    torch.testing.assert_close(result["where"], expected)
    torch.testing.assert_close(result["loss"], result["where"] + 0.25 * result["film"])


def test_a_film_is_painted_the_same_whatever_stands_beside_it(films: Films) -> None:
    answers, kinds = Answers(silent), tuple(ANOMALIES)
    loss_of(answers, films.batch(range(6)), kinds=kinds)
    together = answers.film
    loss_of(answers, films.batch([3]), kinds=kinds)
    # A grey on the edge of a bin may round to the next one.
    far = (answers.film - together[[3, 9]]).abs()
    assert far.mean() < 1e-3
    loss_of(answers, films.batch([3]), kinds=kinds, seed=1)
    assert (answers.film - together[[3, 9]]).abs().mean() > 0.05


def test_fitting_teaches_the_copies_and_leaves_imagenet(fitted: Synthetic) -> None:
    fresh = fitted.new_net(5).state_dict()
    moved = {k for k, v in fitted.net.state_dict().items() if not torch.equal(v, fresh[k])}
    assert moved and not any(k.startswith("lite.") or "running" in k for k in moved)
    assert any(k.startswith("taught.0.") for k in moved)
    # It began from the first weights that its seed gives.
    for seed, near in ((5, True), (6, False)):
        step = fitted.net.from_last.weight - fitted.new_net(seed).from_last.weight
        assert (float(step.detach().abs().max()) < 0.02) == near
    assert not any(k.startswith("lite.") for k in fitted.state())


def test_the_score_is_the_mean_of_film_and_mirrored_film(fitted: Synthetic, films: Films) -> None:
    batch = films.batch(range(3))
    scores = fitted.score(batch)
    with torch.no_grad():
        film = equalise((batch.image + 1) / 2)
        here, there = fitted.net(film), fitted.net(film.flip(-1))
    where = (here.where.sigmoid() + there.where.flip(-1).sigmoid()) / 2
    torch.testing.assert_close(scores.score, where.mean((1, 2)))
    torch.testing.assert_close(scores.components["mean"], scores.score)
    torch.testing.assert_close(scores.components["max"], where.amax((1, 2)))
    torch.testing.assert_close(scores.components["film"], (here.film + there.film) / 2)
    assert scores.anomaly_map is not None and scores.anomaly_map.shape == batch.image.shape
    assert scores.anomaly_map.min() >= 0 and scores.anomaly_map.max() <= 1
    # Of each 16 x 16 pixels, the middle shows the cell.
    middle = (scores.anomaly_map[:, 0, 7::16, 7::16] + scores.anomaly_map[:, 0, 8::16, 8::16]) / 2
    torch.testing.assert_close(middle, where, rtol=0, atol=0.1 * float(where.max() - where.min()))
    turned = fitted.score(replace(batch, image=batch.image.flip(-1)))
    assert turned.anomaly_map is not None
    torch.testing.assert_close(turned.score, scores.score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        turned.anomaly_map.flip(-1), scores.anomaly_map, rtol=1e-4, atol=1e-5
    )


def test_exposure_is_of_no_matter(fitted: Synthetic, films: Films) -> None:
    batch = films.batch(range(3))
    curved = ((batch.image + 1) / 2) ** 0.6 * 2 - 1
    scores = fitted.score(replace(batch, image=curved)).score
    torch.testing.assert_close(scores, fitted.score(batch).score, rtol=0, atol=0.01)


def test_bad_settings_and_an_unfitted_method_are_refused(films: Films) -> None:
    for size in (0, 40, 100):
        with pytest.raises(UserError, match=f"image_size {size}: give a multiple of 32"):
            Synthetic(SyntheticConfig(image_size=size), NO_RECORD)
    with pytest.raises(UserError, match="kinds tumour: give some of opacity"):
        Synthetic(SyntheticConfig(kinds=("opacity", "tumour")), NO_RECORD)
    with pytest.raises(UserError, match=r"kinds \(none\): give some of"):
        Synthetic(SyntheticConfig(kinds=()), NO_RECORD)
    with pytest.raises(UserError, match="synthetic: not fitted yet"):
        Synthetic(CONFIG, NO_RECORD).score(films.batch([0]))
