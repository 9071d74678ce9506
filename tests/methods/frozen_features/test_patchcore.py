"""PatchCore's memory, distance, map and weight, by hand and against scikit-learn."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from nofinding.errors import UserError
from nofinding.functional.features.neighbourhoods import rows
from nofinding.functional.features.neighbours import nearest
from nofinding.methods.frozen_features.patchcore import PatchCore, PatchCoreConfig, reweighting
from nofinding.training import TrainingRun
from support.small_films import NO_RECORD, films

QUIET = TrainingRun(progress=False, accelerator="cpu")


def learnt(count: int = 12, **changes: object) -> PatchCore:
    config = dataclasses.replace(PatchCore.PRESETS["tiny"], **changes)
    return PatchCore(config, NO_RECORD).fit(films(range(count)), seed=1, job=QUIET)


def every_patch(detector: PatchCore, count: int) -> Tensor:
    with torch.no_grad():
        maps = detector.maps(films(range(count)).batch(range(count)).image)
    return rows(detector.patches(maps)).flatten(0, 1)


@pytest.fixture(scope="module")
def detector() -> PatchCore:
    return learnt()


def test_score_and_map_are_distances_to_the_memory(detector: PatchCore) -> None:
    new = films(range(50, 54), square=(6, 30))
    scores = detector.score(new.batch(range(4)))
    memory = detector.state()["memory"]
    with torch.no_grad():
        grid = detector.patches(detector.maps(new.batch(range(4)).image))
    query = rows(grid)
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(memory)
    expected = torch.tensor(index.kneighbors(query.flatten(0, 1))[0].reshape(4, -1))
    torch.testing.assert_close(
        scores.components["distance"], expected.amax(1).float(), rtol=1e-4, atol=0
    )
    product = scores.components["distance"] * scores.components["weight"]
    torch.testing.assert_close(scores.score, product)
    sharp = dataclasses.replace(detector.config, sigma=0.0)
    detector_without_blur = PatchCore(sharp, NO_RECORD)
    detector_without_blur.load_state(detector.state())
    result = detector_without_blur.score(new.batch(range(4))).anomaly_map
    assert result is not None
    side = grid.shape[-1]
    step = 48 // side
    at_cells = result[:, 0].unfold(1, step, step).unfold(2, step, step).mean((3, 4)).flatten(1)
    assert np.corrcoef(at_cells.flatten(), expected.flatten())[0, 1] > 0.95
    # The square lies at rows 6 to 15 and columns 30 to 39.
    place = scores.anomaly_map.flatten(1).argmax(1)  # type: ignore[union-attr]
    assert ((place // 48 < 24) & (place % 48 > 24)).all()


def test_the_weight_is_equation_7() -> None:
    memory = torch.tensor([[0.0, 0], [1, 0], [0, 2], [5, 5], [6, 5]])
    patch = torch.tensor([[-1.0, 0.0], [5.5, 9.0]])
    place = nearest(patch, memory)[1][:, 0]
    assert place.tolist() == [0, 3] or place.tolist() == [0, 4]
    result = reweighting(patch, place, memory, 3)
    for row, near in enumerate(([0, 1, 2], [3, 4, 1])):
        m = [int(place[row]), *[i for i in near if i != int(place[row])]]
        if row == 1:  # the three nearest to m* itself
            m = NearestNeighbors(n_neighbors=3).fit(memory).kneighbors(memory[place[1:2]])[1][0]
        apart = np.exp([float((patch[row] - memory[i]).norm()) for i in m])
        assert float(result[row]) == pytest.approx(1 - apart[0] / apart.sum(), rel=1e-4)
    assert torch.equal(reweighting(patch, place, memory, 1), torch.ones(2))


def test_a_lonely_neighbour_weighs_more_than_one_in_a_crowd() -> None:
    crowd = torch.cat([torch.zeros(9, 2) + 0.01 * torch.arange(9)[:, None], torch.full((1, 2), 9)])
    near_crowd, near_lonely = torch.tensor([[-1.0, 0]]), torch.tensor([[10.0, 9]])
    weights = [
        float(reweighting(p, nearest(p, crowd)[1][:, 0], crowd, 5)[0])
        for p in (near_crowd, near_lonely)
    ]
    assert weights[0] == pytest.approx(0.8, abs=0.01)  # five alike: one share of five is taken
    assert weights[1] > 0.99


def test_the_memory_is_chosen_farthest_first() -> None:
    whole = learnt(candidates=10_000, projection=0)
    patches, memory = every_patch(whole, 12), whole.state()["memory"]
    assert (nearest(memory, patches)[0] == 0).all()  # it holds patches, not mixtures
    radius = float(nearest(patches, memory)[0].max())
    # Whatever is remembered was farther from all before it than anything is from it now.
    assert float(torch.pdist(memory).min()) >= radius * (1 - 1e-5)
    draw = torch.Generator().manual_seed(0)
    chance = patches[torch.randperm(len(patches), generator=draw)[: len(memory)]]
    assert radius < 0.85 * float(nearest(patches, chance)[0].max())


def test_memory_is_bounded_however_many_films_and_patches() -> None:
    assert len(learnt(candidates=100, coreset=1.0).state()["memory"]) == 12 * 9  # 100 / 12, up
    assert len(learnt(candidates=120, coreset=0.1).state()["memory"]) == 12
    assert len(learnt(candidates=120, coreset=1.0, memory=7).state()["memory"]) == 7
    assert len(learnt(candidates=1, coreset=1.0).state()["memory"]) == 12  # one a film at least


def test_without_neighbours_the_score_is_the_distance(detector: PatchCore) -> None:
    plain = PatchCore(dataclasses.replace(detector.config, neighbours=0), NO_RECORD)
    plain.load_state(detector.state())
    scores = plain.score(films([60, 61]).batch([0, 1]))
    assert torch.equal(scores.score, scores.components["distance"])


def test_the_papers_dimension_is_the_same_for_each_layer() -> None:
    result = learnt(dimension=32)
    assert result.state()["memory"].shape[1] == 32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"coreset": 0.0}, "coreset 0: give above 0 and up to 1"),
        ({"neighbours": 1}, "neighbours 1: give 0, or 2 or more"),
        ({"neighbourhood": 2}, "neighbourhood 2: give 1, 3, 5"),
        ({"candidates": 0}, "candidates 0: give 1 or more"),
        ({"layers": (10, 4)}, "give each once, finest first"),
        ({"layers": (16,)}, "give some of 0 to 15"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        PatchCore(dataclasses.replace(PatchCoreConfig(), **changes), NO_RECORD)


def test_unfitted_is_refused() -> None:
    with pytest.raises(UserError, match="patchcore: not fitted yet"):
        PatchCore(PatchCore.PRESETS["tiny"], NO_RECORD).score(films([1]).batch([0]))
