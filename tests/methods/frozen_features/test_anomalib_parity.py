"""patchcore, padim and cfa against anomalib 2.7 on shared random weights.

Needs `nofinding[second-opinion]`; skipped where that is not installed. ResNet18 is filled at
random, so that nothing is fetched; both sides load the same file.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from nofinding.functional.features.neighbourhoods import rows
from nofinding.methods.frozen_features.cfa import coupled_hypersphere
from nofinding.methods.frozen_features.padim import PaDiM, PaDiMConfig
from nofinding.methods.frozen_features.patchcore import PatchCore, PatchCoreConfig
from nofinding.training import TrainingRun
from support.outside import vision_library
from support.small_films import NO_RECORD, films

QUIET = TrainingRun(progress=False, accelerator="cpu")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIDE, NORMAL, NEW = 64, range(16), range(40, 46)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vision_library("anomalib")
    timm = vision_library("timm")
    at = tmp_path_factory.mktemp("resnet18")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("resnet18", pretrained=False)
        net(torch.rand(64, 3, SIDE, SIDE))  # batch statistics that are not 0 and 1
    about = {"mean": MEAN, "std": STD, "classifier": "fc"}
    metadata = {"architecture": "resnet18", "pretrained_cfg": about}
    (at / "config.json").write_text(json.dumps(metadata))
    save_file(net.state_dict(), at / "model.safetensors")
    return at


def theirs(model: Any, folder: Path) -> Any:
    """Their model with our weights; layers that they cut off are left out."""
    weights = load_file(folder / "model.safetensors")
    missing = model.feature_extractor.feature_extractor.load_state_dict(weights, strict=False)
    assert not missing.missing_keys
    return model.eval()


def colours(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(x).reshape(1, 3, 1, 1) for x in (MEAN, STD))
    return ((image + 1) / 2 - mean) / std


def new_films() -> Any:
    half = len(NEW) // 2
    return films(NEW[:half], SIDE).batch(range(half)), films(
        NEW[half:], SIDE, square=(6, 30)
    ).batch(range(half))


def test_patchcore_is_anomalibs(folder: Path) -> None:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    config = PatchCoreConfig(
        image_size=SIDE, backbone=f"timm:{folder}", layers=(2, 3), coreset=0.2, candidates=2000
    )
    ours = PatchCore(config, NO_RECORD).fit(films(NORMAL, SIDE), seed=1, job=QUIET)
    model = theirs(
        PatchcoreModel(layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False), folder
    )
    model.memory_bank = ours.state()["memory"]
    for batch in new_films():
        scores = ours.score(batch)
        with torch.no_grad():
            expected = model(colours(batch.image))
        torch.testing.assert_close(scores.score, expected.pred_score, rtol=1e-3, atol=1e-4)
        assert scores.anomaly_map is not None
        # They repeat the cells of the map where we interpolate: alike, not equal.
        pair = torch.stack([scores.anomaly_map.flatten(), expected.anomaly_map.flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.99


def test_the_coreset_covers_as_well_as_anomalibs(folder: Path) -> None:
    from anomalib.models.components import KCenterGreedy

    config = PatchCoreConfig(
        image_size=SIDE, backbone=f"timm:{folder}", layers=(2, 3), coreset=0.1, projection=0
    )
    ours = PatchCore(config, NO_RECORD).fit(films(NORMAL, SIDE), seed=1, job=QUIET)
    with torch.no_grad():
        maps = ours.maps(films(NORMAL, SIDE).batch(NORMAL).image)
    patches = rows(ours.patches(maps)).flatten(0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs_ = KCenterGreedy(embedding=patches, sampling_ratio=0.1).sample_coreset()
    radius = [
        float(torch.cdist(patches, m).amin(1).max()) for m in (ours.state()["memory"], theirs_)
    ]
    assert len(theirs_) == pytest.approx(len(ours.state()["memory"]), abs=1)
    assert radius[0] < 1.1 * radius[1]


def test_padim_is_anomalibs(folder: Path) -> None:
    from anomalib.models.image.padim.torch_model import PadimModel

    config = PaDiMConfig(
        image_size=SIDE, backbone=f"timm:{folder}", layers=(1, 2, 3), channels=30, sigma=0.0
    )
    normal = films(NORMAL, SIDE)
    ours = PaDiM(config, NO_RECORD).fit(normal, seed=1, job=QUIET)
    model = theirs(
        PadimModel(
            backbone="resnet18",
            layers=["layer1", "layer2", "layer3"],
            pre_trained=False,
            n_features=30,
        ),
        folder,
    )
    model.idx = ours.state()["channels"]
    with torch.no_grad():
        image = colours(normal.batch(NORMAL).image)
        model.gaussian.fit(model.generate_embedding(model.feature_extractor(image)))
        for batch in new_films():
            scores = ours.score(batch)
            embedding = model.generate_embedding(model.feature_extractor(colours(batch.image)))
            apart = model.anomaly_map_generator.compute_distance(
                embedding, [model.gaussian.mean, model.gaussian.inv_covariance]
            )
            grown = F.interpolate(apart, size=(SIDE, SIDE), mode="bilinear")
            torch.testing.assert_close(
                scores.anomaly_map, grown, rtol=5e-3, atol=5e-3
            )  # they add 1e-5 more


def test_cfas_loss_is_anomalibs() -> None:
    vision_library("anomalib")
    from anomalib.models.image.cfa.loss import CfaLoss

    draw = torch.Generator().manual_seed(0)
    patches = torch.randn(2, 20, 8, generator=draw)
    centres = torch.randn(15, 8, generator=draw)
    radius = torch.tensor([2.5])
    squares = torch.cdist(patches, centres).square()
    loss = CfaLoss(num_nearest_neighbors=3, num_hard_negative_features=3, radius=2.5)
    pull, push = coupled_hypersphere(patches, centres, radius, attract=3, repel=3, margin=0.1)
    expected = loss(squares)
    assert float(pull) > 0 and float(push) > 0
    torch.testing.assert_close(
        (pull + push) * 1000, expected.detach().reshape(()), rtol=1e-4, atol=1e-3
    )
