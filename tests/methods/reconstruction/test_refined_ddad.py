"""The refinement: what it is taught, how, and what it reads."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.noise import generators
from nofinding.methods.reconstruction.autoencoder import Image
from nofinding.methods.reconstruction.refined_ddad import (
    DDADASR,
    DDADASRConfig,
    DDADASRIntra,
    blend_squares,
    focal,
)
from nofinding.training import TrainingRun
from nofinding.types import Exam, Pixels

NO_RECORD = EhrStats.of([], [])
QUIET = TrainingRun(progress=False, accelerator="cpu")
TINY = DDADASR.PRESETS["tiny"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Grey:
    """All of one grey."""

    seed: int

    def __call__(self) -> Pixels:
        return np.full((16, 16), np.random.default_rng(self.seed).random(), np.float32)


class Sees(DDADASRIntra):
    """Its modules disagree wherever a film is not as grey as in most places."""

    def maps(self, nets: nn.ModuleDict, image: Image) -> dict[str, Image]:
        usual = image.flatten(1).median(dim=1).values[:, None, None, None]
        return {"intra": (image - usual).abs(), "normal": image}


def films(seeds: Sequence[int]) -> Films:
    exams = [Exam(image_id=f"{i}", patient_id=str(i), pixels=Grey(i), ehr={}) for i in seeds]
    return Films(exams, NO_RECORD, 16)


def test_squares_of_another_film_are_blended_into_half_of_the_films() -> None:
    count, side = 600, 40
    rows = generators(0, range(count))
    film, other = torch.zeros(count, 1, side, side), torch.ones(count, 1, side, side)
    result, mask = blend_squares(film, other, rows)
    marked = mask.amax((1, 2, 3)) > 0
    assert 0.42 < marked.float().mean() < 0.58
    assert result[mask == 0].abs().max() == 0  # nothing else changes
    alphas = (result.amax((1, 2, 3)))[marked]
    one = result[marked][0]  # and within a square the weight is one number
    assert one[mask[marked][0] > 0].unique().numel() == 1
    assert alphas.min() < 0.1 and alphas.max() > 0.9 and 0.4 < alphas.mean() < 0.6
    wide = mask[marked].amax(2).sum((1, 2))  # columns that the square covers
    assert 0.05 * side <= wide.min() and wide.max() <= 0.4 * side + 1
    assert wide.max() > 0.35 * side and wide.min() < 0.15 * side
    calls = mask.mean(0)[0]
    assert calls[side // 2, side // 2] > 2 * calls[0, 0]  # centres lie in the middle
    again = blend_squares(film[:5], other[:5], generators(0, range(5)))[0]
    assert torch.equal(again, result[:5])  # a row's square is its own


def test_the_focal_loss_by_hand() -> None:
    logits = torch.tensor([math.log(0.8), math.log(0.2)]).reshape(1, 2, 1, 1).expand(1, 2, 1, 2)
    mask = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    expected = (-(0.2**2) * math.log(0.8) - 0.8**2 * math.log(0.2)) / 2
    assert focal(logits, mask).item() == pytest.approx(expected, abs=1e-6)


def test_it_is_taught_to_find_squares_in_what_it_reads() -> None:
    config = replace(TINY, train=replace(TINY.train, steps=1))
    detector = Sees(config, NO_RECORD).fit(films(range(24)), seed=2, job=QUIET)
    batch = films(range(100, 140)).batch(range(40))
    other = films(range(200, 240)).batch(range(40)).image
    painted, mask = blend_squares(batch.image, other, generators(1, batch.ids), share=1.0)
    scores = detector.score(replace(batch, image=painted))
    assert scores.anomaly_map is not None
    assert scores.anomaly_map.max() <= 1
    torch.testing.assert_close(scores.score, scores.anomaly_map.mean((1, 2, 3)))
    inside, outside = scores.anomaly_map[mask > 0].mean(), scores.anomaly_map[mask == 0].mean()
    assert inside > 3 * outside
    assert (scores.score > detector.score(batch).score).float().mean() > 0.8


def test_it_reads_the_maps_that_it_names() -> None:
    for kind, inputs, modules in ((DDADASR, 2, "ab"), (DDADASRIntra, 1, "b")):
        detector = kind(TINY, NO_RECORD)
        nets = detector.new_net()
        assert nets["refine"][0].weight.shape[1] == inputs
        assert set(nets) == {f"{m}{k}" for m in modules for k in range(2)} | {"refine"}
        assert detector.network_calls == 2 * len(modules) + 1
        image = films(range(3)).batch(range(3)).image
        maps = detector.maps(nets, image)
        names = ("inter", "intra")[-inputs:]
        torch.testing.assert_close(
            detector.read(nets, image), torch.cat([maps[name] for name in names], dim=1)
        )
        detector.net = nets
        scores = detector.score(films(range(3)).batch(range(3)))
        assert scores.anomaly_map is not None
        expected = nets["refine"](detector.read(nets, image)).softmax(dim=1)[:, 1:]
        torch.testing.assert_close(scores.anomaly_map, expected.detach())


def test_the_published_refinement() -> None:
    paper = DDADASR.PRESETS["paper"]
    assert (paper.refine_width, paper.refine_epochs, paper.refine.lr) == (128, 100, 1e-4)
    assert (paper.refine.batch_size, paper.refine.weight_decay) == (8, 1e-4)
    net = DDADASR(paper, NO_RECORD).new_net()["refine"]
    shapes = [tuple(p.shape) for p in net.parameters() if p.ndim == 4]
    assert shapes == [(128, 2, 3, 3), (128, 128, 3, 3), (2, 128, 3, 3)]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="refine_width 0: give 1 or more"):
        DDADASR(DDADASRConfig(refine_width=0), NO_RECORD)
    with pytest.raises(UserError, match=r"refine\.batch_size 1: give 2 or more"):
        bad = replace(TINY, refine=replace(TINY.refine, batch_size=1))
        DDADASR(bad, NO_RECORD)
    with pytest.raises(UserError, match="ddad-asr-intra: not fitted yet"):
        DDADASRIntra(TINY, NO_RECORD).score(films([0]).batch([0]))
