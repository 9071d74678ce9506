"""ChestNet: ImageNet's blocks stay, their copies learn, and films do not mix."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from nofinding.functional.noise import generators, uniform
from nofinding.nets.backbone import film_to_rgb
from nofinding.nets.chest import FIRST, LAST, MIDDLE, STRIDE, ChestNet

SIDE = 64


def build(side: int = SIDE, seed: int = 0) -> ChestNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ChestNet(side, hidden=8)
        nn.init.normal_(net.position)  # nought at first
    return net


@pytest.fixture(scope="module")
def net() -> Iterator[ChestNet]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield build().eval()
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def films() -> Tensor:
    return uniform((1, SIDE, SIDE), generators(0, range(3)))


@torch.no_grad()
def test_forward_is_early_then_evidence(net: ChestNet, films: Tensor) -> None:
    early = net.early(films)
    assert early.shape == (3, 40, SIDE // 8, SIDE // 8)
    calls = net(films)
    for result, expected in zip(calls, net.evidence(early), strict=True):
        assert torch.equal(result, expected)
    side = SIDE // STRIDE
    assert calls.where.shape == (3, side, side) and calls.film.shape == (3,)
    assert calls.hidden.shape == (3, 8, side, side) and calls.deep.shape == (3, 320)


@torch.no_grad()
def test_both_sets_begin_as_imagenet_left_them(net: ChestNet, films: Tensor) -> None:
    early = net.early(films)
    expected = net.lite.features(film_to_rgb(films * 2 - 1), (FIRST - 1, MIDDLE, LAST))
    torch.testing.assert_close(early, expected[FIRST - 1], rtol=1e-4, atol=1e-5)
    prediction = net.imagenet(early, (MIDDLE, LAST))
    assert list(prediction) == [MIDDLE, LAST]
    for block, maps in prediction.items():
        torch.testing.assert_close(maps, expected[block], rtol=1e-4, atol=1e-4)
    deep = net.evidence(early).deep
    torch.testing.assert_close(deep, prediction[LAST].mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_head_by_hand(net: ChestNet, films: Tensor) -> None:
    """Both blocks' maps, the place, what lies around; then two answers."""
    early = net.early(films)
    maps = net.imagenet(early, (MIDDLE, LAST))  # the taught blocks are still the same
    across = nn.functional.interpolate(net.from_last(maps[LAST]), scale_factor=2, mode="bilinear")
    hidden = net.norm(net.from_middle(maps[MIDDLE]) + across + net.position)
    hidden = nn.functional.gelu(hidden)
    hidden = hidden + nn.functional.gelu(net.around(hidden))
    features = net.evidence(early)
    torch.testing.assert_close(features.hidden, hidden, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.where, net.where(hidden)[:, 0], rtol=1e-4, atol=1e-4)
    pooled = torch.cat([hidden.mean((2, 3)), hidden.amax((2, 3)), features.deep], 1)
    torch.testing.assert_close(features.film, net.whole(pooled)[:, 0], rtol=1e-4, atol=1e-4)


def test_training_moves_what_is_taught_and_nothing_else(films: Tensor) -> None:
    net = build()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.train()
    assert net.training
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    descent = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        calls = net(films)
        descent.zero_grad()
        (calls.where.square().mean() + calls.film.square().mean()).backward()
        descent.step()
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert not any(k.startswith("lite.") for k in moved)
    assert not any("running" in k or "tracked" in k for k in moved)
    taught = {name for name, p in net.named_parameters() if not name.startswith("lite.")}
    assert {name for name, p in net.named_parameters() if p.requires_grad} == taught
    # A block without a ReLU behind it may have a weight that does not matter; hardly any.
    assert len(moved) > 0.95 * len(taught)
    for part in ("taught.0.", "taught.10.", "from_middle", "from_last", "position", "whole"):
        assert any(k.startswith(part) for k in moved), part


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_a_film_alone_gives_what_it_gives_in_company(
    net: ChestNet, films: Tensor, training: bool
) -> None:
    together = net.train(training)(films)
    for row in range(3):
        alone = net(films[row : row + 1])
        for result, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(result[0], expected[row], rtol=1e-4, atol=1e-4)
    net.eval()


@torch.no_grad()
def test_it_knows_where_it_looks(net: ChestNet, films: Tensor) -> None:
    other = build()
    nn.init.zeros_(other.position)
    assert not torch.allclose(other(films).where, net(films).where, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_what_was_learnt_survives(net: ChestNet, films: Tensor, precision: torch.dtype) -> None:
    learnt = {k: v.to(precision) if v.is_floating_point() else v for k, v in net.learnt().items()}
    assert not any(k.startswith("lite.") for k in learnt)
    assert len(learnt) + len(net.lite.state_dict()) == len(net.state_dict())
    other = build(seed=1)
    assert not torch.equal(other(films).where, net(films).where)
    other.load_learnt(learnt)
    assert all(v.dtype == torch.float32 for v in other.parameters())
    atol = 0.0 if precision == torch.float32 else 0.05
    target = net(films)
    for result, there in zip(other(films), target, strict=True):
        scale = float(there.abs().max())
        torch.testing.assert_close(result, there, rtol=0, atol=atol * scale)


def test_weights_of_another_size_or_half_of_them_are_refused(net: ChestNet) -> None:
    with pytest.raises(RuntimeError, match="position"):
        build(side=96).load_learnt(net.learnt())
    half = {k: v for k, v in net.learnt().items() if not k.startswith("taught.")}
    with pytest.raises(RuntimeError, match="Missing"):
        build().load_learnt(half)
