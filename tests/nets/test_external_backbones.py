"""Backbones from folders: what is refused, how tokens become a grid, and tiny random networks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nofinding.errors import UserError
from nofinding.methods.frozen_features.patchcore import PatchCore, PatchCoreConfig
from nofinding.nets.external_backbones import TimmMaps, TransformersMaps, as_grid, load_features
from nofinding.training import TrainingRun
from support.outside import vision_library
from support.small_films import NO_RECORD, films

SIDE = 56
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


class Stages(nn.Module):
    """Speaks as a timm network does: two maps, and which were asked for."""

    feature_info = ({"num_chs": 3}, {"num_chs": 6})

    def forward_intermediates(self, x: Tensor, indices: list[int], **_: Any) -> list[Tensor]:
        return [(x, torch.cat([x, -x], 1)[:, :, ::2, ::2])[i] for i in indices]


def image(count: int = 2) -> Tensor:
    return torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_films_get_the_networks_own_mean_and_spread() -> None:
    maps = TimmMaps(Stages(), (0,), MEAN, STD)
    (result,) = maps(image())
    grey = (image() + 1) / 2
    for colour in range(3):
        torch.testing.assert_close(result[:, colour], (grey[:, 0] - MEAN[colour]) / STD[colour])
    assert maps.widths == (3,)


def test_maps_come_in_the_order_asked_for() -> None:
    maps = TimmMaps(Stages(), (1, 0), MEAN, STD)
    assert [x.shape[1] for x in maps(image())] == [6, 3] == list(maps.widths)
    with pytest.raises(UserError, match=r"layers \(2,\): this backbone has 0 to 1"):
        TimmMaps(Stages(), (2,), MEAN, STD)


def test_tokens_become_a_grid_and_those_in_front_are_dropped() -> None:
    patches = torch.arange(6.0).reshape(1, 6, 1)
    tokens = torch.cat([torch.full((1, 2, 1), -9.0), patches], 1)
    result = as_grid(tokens, (2, 3))
    assert result[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    already = torch.zeros(1, 4, 2, 3)
    assert as_grid(already, (2, 3)) is already
    with pytest.raises(UserError, match="8 tokens for 3 x 3 patches"):
        as_grid(tokens, (3, 3))


@pytest.mark.parametrize("name", ["resnet18", "timm:", "torchvision:resnet18"])
def test_an_unknown_backbone_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(UserError, match="give efficientnet-lite0, timm:NAME-or-FOLDER or"):
        load_features(name, (0,))


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    timm = vision_library("timm")
    folder = tmp_path_factory.mktemp("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("resnet10t", num_classes=5)
    about = {"mean": MEAN, "std": STD, "classifier": "fc", "num_classes": 5}
    metadata = {"architecture": "resnet10t", "pretrained_cfg": about}
    (folder / "config.json").write_text(json.dumps(metadata))
    save_file(net.state_dict(), folder / "model.safetensors")
    return folder


def test_a_timm_network_from_a_folder(timm_folder: Path) -> None:
    before = torch.get_rng_state()
    maps = load_features(f"timm:{timm_folder}", (1, 3))
    assert torch.equal(torch.get_rng_state(), before)
    result = maps(image())
    sides = (SIDE // 4, SIDE // 14)  # strides 4 and 16, rounded up
    assert [tuple(x.shape[1:]) for x in result] == [
        (width, side, side) for width, side in zip(maps.widths, sides, strict=True)
    ]
    timm = vision_library("timm")
    net = timm.create_model("resnet10t", num_classes=5, features_only=True).eval()
    from safetensors.torch import load_file

    net.load_state_dict(load_file(timm_folder / "model.safetensors"), strict=False)
    mean, std = (torch.tensor(x).reshape(1, 3, 1, 1) for x in (MEAN, STD))
    with torch.no_grad():
        target = net(((image() + 1) / 2 - mean) / std)
    torch.testing.assert_close(result[0], target[1])
    torch.testing.assert_close(result[1], target[3])
    assert not any(p.requires_grad for p in maps.parameters())


def test_a_method_looks_through_it_and_refuses_other_weights(
    timm_folder: Path, tmp_path: Path
) -> None:
    config = PatchCoreConfig(
        image_size=48, backbone=f"timm:{timm_folder}", layers=(1, 2), candidates=200
    )
    job = TrainingRun(progress=False, accelerator="cpu")
    state = PatchCore(config, NO_RECORD).fit(films(range(6)), job=job).state()
    again = PatchCore(config, NO_RECORD)
    again.load_state(state)
    assert again.score(films([9]).batch([0])).score.isfinite().all()
    state["backbone"] = state["backbone"] + 1
    with pytest.raises(UserError, match="its weights are not those that this model was"):
        again.load_state(state)


def test_weights_that_do_not_fit_and_files_that_are_missing_are_refused(
    timm_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_features(f"timm:{tmp_path}", (0,))
    (tmp_path / "config.json").write_text((timm_folder / "config.json").read_text())
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="does not fit the network"):
        load_features(f"timm:{tmp_path}", (0,))
    with pytest.raises(UserError, match="neither in the local Hugging Face cache nor in a folder"):
        load_features("timm:no-such-network-anywhere", (0,))


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = vision_library("transformers")
    folder = tmp_path_factory.mktemp("vit")
    settings = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Dinov2Model(settings).save_pretrained(folder)
    metadata = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(metadata))
    return folder


def test_a_transformer_from_a_folder(vit_folder: Path) -> None:
    before = torch.get_rng_state()
    maps = load_features(f"transformers:{vit_folder}", (1, 3))
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(maps, TransformersMaps) and maps.widths == (24, 24)
    result = maps(image())
    assert [tuple(x.shape) for x in result] == [(2, 24, 4, 4)] * 2
    out = maps.net(maps.colours(image()), output_hidden_states=True).hidden_states
    torch.testing.assert_close(result[1][1, :, 2, 3], out[3][1, 1 + 2 * 4 + 3])
    torch.testing.assert_close(result[0][0, :, 0, 0], out[1][0, 1])
    with pytest.raises(UserError, match=r"image_size 30: .* give a multiple of 14"):
        maps(torch.zeros(1, 1, 30, 30))


def test_a_transformer_without_its_normalisation_or_weights_is_refused(
    vit_folder: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((vit_folder / name).read_bytes())
    with pytest.raises(UserError, match=r"has no preprocessor_config\.json"):
        load_features(f"transformers:{tmp_path}", (0,))
    with pytest.raises(UserError, match="not to be had here"):
        load_features("transformers:no-such/network-anywhere", (0,))
