"""CFA's spheres, descriptor, centres and weighted distance, by hand."""

import dataclasses

import pytest
import torch

from nofinding.errors import UserError
from nofinding.functional.features.neighbourhoods import rows
from nofinding.methods.frozen_features.cfa import CFA, Descriptor, clustered, coupled_hypersphere
from nofinding.training import TrainConfig, TrainingRun
from support.small_films import NO_RECORD, films

QUIET = TrainingRun(progress=False, accelerator="cpu")
CENTRES = torch.tensor([[0.0], [1.0], [3.0], [6.0]])


def test_patches_are_drawn_to_the_nearest_and_kept_from_the_next() -> None:
    patch = torch.tensor([[[0.5]]])  # squared distances .25, .25, 6.25, 30.25
    given = {"attract": 2, "repel": 2, "margin": 0.5}
    pull, push = coupled_hypersphere(patch, CENTRES, torch.tensor([0.1]), **given)
    assert float(pull) == pytest.approx(0.25 - 0.01)
    assert float(push) == 0  # far outside the foreign spheres
    pull, push = coupled_hypersphere(patch, CENTRES, torch.tensor([3.0]), **given)
    assert float(pull) == 0  # inside both
    assert float(push) == pytest.approx((9 - 6.25 - 0.5) / 2)  # inside one foreign sphere


def test_the_gradient_draws_in_and_pushes_out() -> None:
    patch = torch.tensor([[[0.5]]], requires_grad=True)
    given = {"attract": 1, "repel": 1, "margin": 0.0}
    near, far = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.5], [1.5]])
    pull, _ = coupled_hypersphere(patch, near, torch.tensor([0.1]), **given)
    assert torch.autograd.grad(pull, patch)[0] > 0  # down the gradient is towards 0
    _, push = coupled_hypersphere(patch, far, torch.tensor([2.0]), **given)
    assert torch.autograd.grad(push, patch)[0] > 0  # and away from 1.5


def test_the_descriptor_knows_where_it_is() -> None:
    net = Descriptor(2, 1, 0.0)
    with torch.no_grad():
        net.mix.weight[:] = torch.tensor([0.0, 0, 10, 1])[None, :, None, None]
        net.mix.bias[:] = 0  # type: ignore[index]
    prediction = net(torch.zeros(1, 2, 3, 5))[0, 0]
    rows_, columns = torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 5)
    torch.testing.assert_close(prediction, 10 * rows_[:, None] + columns)


def test_centres_are_the_mean_of_each_place_before_training() -> None:
    still = TrainConfig(steps=1, batch_size=2, lr=1e-12, warmup=0, ema=0.0, precision="32")
    config = dataclasses.replace(CFA.PRESETS["tiny"], compression=1, train=still, batch_size=5)
    normal = films(range(12))
    detector = CFA(config, NO_RECORD).fit(normal, seed=3, job=QUIET)
    with torch.no_grad():
        calls = detector.patches(detector.maps(normal.batch(range(12)).image))
        expected = rows(detector._new_descriptor(3)(calls)).mean(0)
    torch.testing.assert_close(detector.learnt["centres"], expected, rtol=1e-4, atol=1e-5)


def test_training_brings_patches_closer_and_the_score_is_softmin_times_distance() -> None:
    normal = films(range(12))
    detector = CFA(CFA.PRESETS["tiny"], NO_RECORD).fit(normal, seed=3, job=QUIET)
    batch = normal.batch(range(6))
    centres = detector.learnt["centres"]
    assert len(centres) == 12 * 12 // 2  # stride 4 is the finest, compression 2

    def near(net: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            prediction = rows(net(detector.patches(detector.maps(batch.image))))
        return torch.cdist(prediction, centres).topk(3, largest=False).values

    before, after = near(detector._new_descriptor(3)), near(detector.net)
    assert after.mean() < 0.97 * before.mean()
    weight = torch.exp(-after[..., 0]) / torch.exp(-after).sum(-1)
    side = int(after.shape[1] ** 0.5)
    expected = (weight * after[..., 0]).reshape(6, 1, side, side)
    sharp = CFA(dataclasses.replace(detector.config, sigma=0.0), NO_RECORD)
    sharp.load_state(detector.state())
    scores = sharp.score(batch)
    grown = torch.nn.functional.interpolate(expected, size=(48, 48), mode="bilinear")
    torch.testing.assert_close(scores.anomaly_map, grown, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scores.score, grown.amax((1, 2, 3)), rtol=1e-3, atol=1e-4)


def test_clusters_are_means_and_follow_their_seed() -> None:
    points = torch.tensor([[0.0], [1], [10], [11]])
    assert sorted(clustered(points, 2, 0).flatten().tolist()) == [0.5, 10.5]


def test_too_few_centres_are_refused() -> None:
    config = dataclasses.replace(CFA.PRESETS["tiny"], compression=1000)
    with pytest.raises(UserError, match="attract 3 and repel 3: there are 1 centres"):
        CFA(config, NO_RECORD).fit(films(range(4)), job=QUIET)
    with pytest.raises(UserError, match="softness 0: give above 0"):
        dataclasses.replace(config, softness=0)
