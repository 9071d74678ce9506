"""What diff3m-f is shown: which blocks, how pooled, and mirrored films averaged in."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from nofinding.errors import UserError
from nofinding.functional.image.equalise import equalise
from nofinding.functional.noise import generators, uniform
from nofinding.methods.base import taught_weights
from nofinding.methods.base.taught_weights import chest_weights
from nofinding.methods.diff3m.feature_space.views import Views, see
from nofinding.nets.chest import ChestNet
from nofinding.runtime import Runtime
from nofinding.storage import checkpoint

SIDE = 64


@pytest.fixture(scope="module")
def net() -> Iterator[ChestNet]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ChestNet(SIDE, hidden=8).requires_grad_(False).eval()
        nn.init.normal_(net.position)
    yield net
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Films in [-1, 1]."""
    return uniform((1, SIDE, SIDE), generators(0, range(2))) * 2 - 1


def features_of(net: ChestNet, images: Tensor, *, taught: bool, mirror: bool) -> dict[str, Tensor]:
    return see(Runtime().prepare(Views(net, taught=taught, mirror=mirror)), images)


def test_films_are_equalised_and_each_feature_is_of_its_block(
    net: ChestNet, images: Tensor
) -> None:
    result = features_of(net, images, taught=True, mirror=False)
    early = net.early(equalise((images + 1) / 2))
    blocks = net.imagenet(early, (8, 10, 15))
    evidence = net.evidence(early)
    hidden = evidence.hidden
    texture = [f(blocks[b].flatten(2)) for b in (8, 10) for f in (lambda x: x.mean(2), _spread)]
    expected = {
        "maps": torch.cat([blocks[10], hidden], 1),
        "texture": torch.cat(texture, 1),
        "context": blocks[15].mean((2, 3)),
        "taught": torch.cat([hidden.mean((2, 3)), hidden.amax((2, 3)), evidence.deep], 1),
        "where": evidence.where[:, None],
        "film": evidence.film,
    }
    assert list(result) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-4)


def _spread(x: Tensor) -> Tensor:
    return ((x - x.mean(2, keepdim=True)).square().sum(2) / (x.shape[2] - 1)).sqrt()


def test_an_untaught_backbone_gives_imagenets_features_alone(net: ChestNet, images: Tensor) -> None:
    result = features_of(net, images, taught=False, mirror=False)
    assert list(result) == ["maps", "texture", "context"]
    assert result["maps"].shape == (2, 112, 4, 4)
    taught = features_of(net, images, taught=True, mirror=False)
    torch.testing.assert_close(result["maps"], taught["maps"][:, :112])


def test_the_mirrored_film_is_averaged_in_at_its_own_place(net: ChestNet, images: Tensor) -> None:
    both = features_of(net, images, taught=True, mirror=True)
    here = features_of(net, images, taught=True, mirror=False)
    there = features_of(net, images.flip(-1), taught=True, mirror=False)
    for name, value in both.items():
        turned = there[name].flip(-1) if name in ("maps", "where") else there[name]
        torch.testing.assert_close(value, (here[name] + turned) / 2, rtol=1e-4, atol=1e-4)
    flipped = features_of(net, images.flip(-1), taught=True, mirror=True)
    for name, value in both.items():
        turned = flipped[name].flip(-1) if name in ("maps", "where") else flipped[name]
        torch.testing.assert_close(turned, value, rtol=1e-4, atol=1e-4)
    # Alone, one side of the film is not treated as the other.
    assert not torch.allclose(there["where"].flip(-1), here["where"], atol=1e-3)


def test_weights_of_a_model_folder(net: ChestNet, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "model", net.learnt(), {})
    weights, sha = chest_weights(str(tmp_path))
    assert sha == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert weights.keys() == net.learnt().keys()
    for name, value in net.learnt().items():
        torch.testing.assert_close(weights[name], value.float(), rtol=0, atol=0)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give chest, imagenet or the folder of a fitted"):
        chest_weights(str(tmp_path / "nowhere"))
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"backbone .*: give chest, imagenet or the folder"):
        chest_weights(str(tmp_path))


def test_shipped_weights_are_read_in_32_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taught_weights.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"lacks weights/chest\.safetensors"):
        chest_weights("chest")
    data = save({"a": torch.tensor([0.5, 3.0], dtype=torch.bfloat16)})
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "chest.safetensors").write_bytes(data)
    weights, sha = chest_weights("chest")
    assert weights["a"].dtype == torch.float32 and weights["a"].tolist() == [0.5, 3.0]
    assert sha == hashlib.sha256(data).hexdigest()
