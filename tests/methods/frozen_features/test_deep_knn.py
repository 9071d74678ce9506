"""deep-knn's views, Siamese loss and geometric mean."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from nofinding.errors import UserError
from nofinding.functional.noise import generators
from nofinding.methods.frozen_features.deep_knn import DeepKNN, DeepKNNConfig, siamese
from nofinding.training import TrainingRun
from support.small_films import NO_RECORD, films

QUIET = TrainingRun(progress=False, accelerator="cpu")


@pytest.fixture(scope="module")
def detector() -> DeepKNN:
    return DeepKNN(DeepKNN.PRESETS["tiny"], NO_RECORD).fit(films(range(12)), seed=1, job=QUIET)


def test_the_loss_is_a_cosine_and_stops_at_the_other_view() -> None:
    p = torch.tensor([[3.0, 0.0], [0.0, 2.0]], requires_grad=True)
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = siamese(p, z)
    assert float(loss.detach()) == pytest.approx(-0.5)  # one alike, one at a right angle
    loss.backward()  # type: ignore[no-untyped-call]
    assert z.grad is None
    assert p.grad is not None and p.grad[1, 0] < 0  # towards the other view


def test_a_view_is_a_piece_of_the_film_of_its_own_and_may_be_mirrored() -> None:
    detector = DeepKNN(DeepKNNConfig(image_size=48, crop=0.5, layers=(3,)), NO_RECORD)
    image = torch.arange(48.0 * 48).reshape(1, 1, 48, 48).expand(20, -1, -1, -1)
    views = detector.view(image, generators(0, range(20)))
    assert views.shape == (20, 1, 24, 24)
    steps = views[:, 0, 0, 1] - views[:, 0, 0, 0]
    assert set(steps.tolist()) == {1.0, -1.0}
    assert len(views.flatten(1).amin(1).unique()) > 10
    alone = detector.view(image[:1], generators(0, [7]))
    assert torch.equal(alone[0], views[7])
    straight = DeepKNN(dataclasses.replace(detector.config, flip=False), NO_RECORD)
    pieces = straight.view(image, generators(0, range(20)))
    assert (pieces[:, 0, 0, 1] - pieces[:, 0, 0, 0] == 1).all()


def test_the_score_is_the_geometric_mean_of_squared_distances(detector: DeepKNN) -> None:
    batch = films(range(40, 44), square=(6, 30)).batch(range(4))
    scores = detector.score(batch, seed=5)
    memory = detector.learnt["memory"]
    assert memory.shape[0] == 24  # two views of twelve films
    torch.testing.assert_close(memory.norm(dim=1), torch.ones(24))
    squares = []
    for number in (0, 1):
        x = (detector.features(batch, number, 5) - detector.learnt["mean"]) / detector.learnt["std"]
        with torch.no_grad():
            unit = F.normalize(detector.net.predictor(detector.net.adaptor(x)), dim=1)
        squares.append(torch.cdist(unit, memory).amin(1).square())
        torch.testing.assert_close(
            scores.components[f"view_{number + 1}"], squares[-1], rtol=1e-3, atol=1e-5
        )
    expected = (squares[0] * squares[1]).sqrt()
    torch.testing.assert_close(scores.score, expected, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(squares[0], squares[1])


def test_two_views_of_a_film_come_closer_by_training(detector: DeepKNN) -> None:
    longer = dataclasses.replace(
        detector.config, train=dataclasses.replace(detector.config.train, steps=60)
    )
    taught = DeepKNN(longer, NO_RECORD).fit(films(range(12)), seed=1, job=QUIET)
    batch = films(range(40, 52)).batch(range(12))

    def alike(d: DeepKNN) -> float:
        one, other = (d.adapted(d.features(batch, n, 9)) for n in (0, 1))
        return float((one * other).sum(1).mean())

    fresh = DeepKNN(longer, NO_RECORD)
    fresh.learnt = {k: taught.learnt[k] for k in ("mean", "std")}
    fresh.net = fresh._new_net(1)
    assert alike(taught) > alike(fresh) + 0.01


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UserError, match="crop 0: give above 0 and up to 1"):
        DeepKNNConfig(crop=0)
    with pytest.raises(UserError, match="views 5: give 1 to 4"):
        DeepKNNConfig(views=5)
    with pytest.raises(UserError, match="2 normal films are too few for k = 5"):
        config = dataclasses.replace(DeepKNN.PRESETS["tiny"], k=5)
        DeepKNN(config, NO_RECORD).fit(films([1, 2]), job=QUIET)
