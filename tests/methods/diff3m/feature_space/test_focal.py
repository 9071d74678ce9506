"""`diff3m-f` with the network that finds lesions: one clear place is enough, and said where."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.gaussian import distance
from nofinding.functional.image.combining import combined, quantiles, surprise
from nofinding.functional.image.equalise import equalise
from nofinding.methods.base import taught_weights
from nofinding.methods.diff3m.feature_space import repair
from nofinding.methods.diff3m.feature_space.config import PARTS, Diff3MFConfig
from nofinding.methods.diff3m.feature_space.detector import Diff3MF
from nofinding.methods.frozen_features.lesion_evidence import (
    above_normal,
    condensed,
    lesion_evidence,
    normal_lesions,
)
from nofinding.nets.focal import FAMILIES, LUNGS, FocalNet
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Exam, Pixels

SIDE = 128
QUIET = TrainingRun(progress=False, accelerator="cpu")


@dataclass(frozen=True)
class Shade:
    """A body with two lungs of random depth, and noise."""

    seed: int

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        film = 0.7 - 0.2 * x**2
        for side in (-0.45, 0.4):
            deep = 0.4 + 0.05 * rng.standard_normal()
            film -= deep * np.exp(-(((x - side) / 0.25) ** 4) - (y / 0.7) ** 4)
        film += 0.02 * rng.standard_normal(film.shape)
        return np.clip(film, 0.05, 1).astype(np.float32)


def exam(number: int) -> Exam:
    return Exam(
        image_id=f"f{number}", patient_id=f"p{number}", pixels=Shade(number), ehr={"age": 40.0}
    )


RECORDS = [exam(n) for n in range(24)]
STATS = EhrStats.of(RECORDS, [FIELDS["age"]])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `focal` model of narrow channels; that it was taught nothing is no matter here."""
    path = tmp_path_factory.mktemp("focal")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = FocalNet((8, 8, 12, 12))
        torch.nn.init.normal_(net.unet.out.weight, std=0.5)
    save_file({k: v.contiguous() for k, v in net.learnt().items()}, path / "model.safetensors")
    return str(path)


@pytest.fixture(scope="module")
def films() -> Films:
    return Films(RECORDS, STATS, SIDE)


@pytest.fixture(scope="module")
def fitted(folder: str, films: Films) -> Diff3MF:
    config = Diff3MFConfig(
        image_size=SIDE,
        backbone="imagenet",
        focal=folder,
        parts=PARTS,
        channels=8,
        width=8,
        train=TrainConfig(steps=4, batch_size=8, lr=1e-3, warmup=1),
    )
    return Diff3MF(config, STATS).fit(films, seed=3, job=QUIET)


@pytest.fixture(scope="module")
def others() -> Batch:
    return Films([exam(n) for n in (101, 102, 103)], STATS, SIDE).batch(range(3))


def like(fitted: Diff3MF, **changes: object) -> Diff3MF:
    other = Diff3MF(replace(fitted.config, **changes), STATS)  # type: ignore[arg-type]
    other.load_state(fitted.state())
    return other


@torch.no_grad()
def by_hand(fitted: Diff3MF, batch: Batch) -> tuple[Tensor, Tensor]:
    """The film's and the mirrored film's lesions and pattern, averaged at their own places."""
    focal = fitted.networks.focal
    assert focal is not None
    film = equalise((batch.image + 1) / 2)
    here, there = focal(film), focal(film.flip(-1))
    pooled = [torch.cat([c.mean((2, 3)), c.amax((2, 3))], 1) for c in (here.coarse, there.coarse)]
    return (here.where + there.where.flip(-1)) / 2, (pooled[0] + pooled[1]) / 2


@torch.no_grad()
def test_what_is_focal_by_hand(fitted: Diff3MF, others: Batch) -> None:
    lesions, pattern = by_hand(fitted, others)
    scores = fitted.score(others)
    families = lesions[:, : LUNGS - 1].flatten(2).sort(dim=2, descending=True).values  # no device
    means = [families[:, i, : 20 if i == 0 else 120].mean(1) for i in range(LUNGS - 1)]
    standard = torch.stack(means, 1) - fitted.scale["highest.mean"]
    raw = (standard / fitted.scale["highest.spread"]).exp().sum(1).log()
    expected = (raw - fitted.scale["focal.mean"]) / fitted.scale["focal.spread"]
    torch.testing.assert_close(scores.components["focal"], expected, rtol=1e-3, atol=1e-3)
    expected = (means[0] - fitted.scale["nodule.mean"]) / fitted.scale["nodule.spread"]
    torch.testing.assert_close(scores.components["nodule"], expected, rtol=1e-3, atol=1e-3)
    far = distance(pattern, fitted.gaussians["pattern"]).log()
    expected = (far - fitted.scale["pattern.mean"]) / fitted.scale["pattern.spread"]
    torch.testing.assert_close(scores.components["pattern"], expected, rtol=1e-3, atol=1e-3)


def test_the_score_combines_surprises_of_the_whole_film_and_of_what_is_focal(
    fitted: Diff3MF, others: Batch
) -> None:
    parts = fitted.score(others).components
    whole = torch.stack([parts[k] for k in ("repair", "texture", "context", "pattern")]).mean(0)
    both = torch.stack(
        [
            surprise(whole, fitted.scale["general.quantiles"]),
            surprise(parts["focal"], fitted.scale["focal.quantiles"]),
            surprise(parts["nodule"], fitted.scale["nodule.quantiles"]),
        ]
    )
    for how in ("fisher", "tippett", "harmonic"):
        score = like(fitted, combine=how).score(others).score
        torch.testing.assert_close(score, combined(both, how))  # type: ignore[arg-type]
    names = ("repair", "texture", "context", "pattern", "focal", "nodule")
    mean = torch.stack([parts[k] for k in names]).mean(0)
    torch.testing.assert_close(like(fitted, combine="mean").score(others).score, mean)


def test_quantiles_are_those_of_the_training_films(fitted: Diff3MF, films: Films) -> None:
    focal = fitted.score(films.batch(range(24))).components["focal"]
    torch.testing.assert_close(
        fitted.scale["focal.quantiles"], quantiles(focal), rtol=1e-3, atol=1e-3
    )


def test_a_lesion_in_one_place_is_surprising_and_shown_there() -> None:
    chance = torch.Generator().manual_seed(0)
    normal = torch.randn(60, len(FAMILIES) + 1, 32, 32, generator=chance) - 4
    scale = normal_lesions(*condensed(normal))
    film = normal[:2].clone()
    film[1, 0, 12:17, 20:25] = 3  # a nodule of five by five places
    places, highest = condensed(film)
    clean, ill = lesion_evidence(highest, scale).tolist()
    assert ill > clean + 4
    above = above_normal(places, scale)[1]
    row, column = divmod(int(above.argmax()), above.shape[1])
    assert (row, column) in {(3, 5), (3, 6), (4, 5), (4, 6)}
    film[1, LUNGS - 1 :] = 50  # neither a device nor the lung field is a lesion
    assert lesion_evidence(condensed(film)[1], scale)[1].item() == pytest.approx(ill)


@torch.no_grad()
def test_the_map_holds_both(fitted: Diff3MF, others: Batch) -> None:
    scores = fitted.score(others).anomaly_map
    assert scores is not None and scores.min() >= 0
    lesions, _ = by_hand(fitted, others)
    fine = above_normal(condensed(lesions)[0], fitted.scale).clamp_min(0)
    alone = like(fitted, parts=("focal",)).score(others).anomaly_map
    shown = F.interpolate(fine[:, None], size=(SIDE, SIDE), mode="bicubic").clamp_min(0)
    torch.testing.assert_close(alone, shown, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(scores, shown)


def test_a_shipped_network_is_named_by_its_hash_another_is_in_the_model(
    fitted: Diff3MF, folder: str, others: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(k.startswith("focal.unet") for k in fitted.state())
    detector = Diff3MF(replace(fitted.config, focal="shipped"), STATS)
    (tmp_path / "weights").mkdir()
    shipped = tmp_path / "weights" / "focal.safetensors"
    shipped.write_bytes((Path(folder) / "model.safetensors").read_bytes())
    monkeypatch.setattr(taught_weights.resources, "files", lambda _: tmp_path)
    _, sha = taught_weights.focal_weights("shipped")
    state = {k: v for k, v in fitted.state().items() if not k.startswith("focal.")}
    state["lesions"] = torch.tensor(list(bytes.fromhex(sha)), dtype=torch.uint8)
    detector.load_state(state)
    torch.testing.assert_close(detector.score(others).score, fitted.score(others).score)
    state["lesions"] = state["lesions"].flip(0)
    with pytest.raises(UserError, match="another focal network"):
        detector.load_state(state)


def test_what_is_no_focal_model_is_refused(films: Films, tmp_path: Path) -> None:
    config = Diff3MFConfig(image_size=SIDE, backbone="imagenet", focal=str(tmp_path))
    with pytest.raises(UserError, match="give shipped, none or the folder"):
        Diff3MF(config, STATS).fit(films, job=QUIET)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is no focal model"):
        Diff3MF(config, STATS).fit(films, job=QUIET)
    only = Diff3MFConfig(image_size=SIDE, backbone="imagenet", focal="none", parts=("focal",))
    with pytest.raises(UserError, match="parts"):
        Diff3MF(only, STATS)


def test_without_repair_none_is_trained_and_the_record_is_not_read(
    folder: str, films: Films, others: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing was to be trained")

    monkeypatch.setattr(repair, "train", never)
    config = Diff3MFConfig(image_size=SIDE, backbone="imagenet", focal=folder)
    detector = Diff3MF(config, STATS).fit(films, seed=3, job=QUIET)
    assert detector.parts == ["focal", "nodule"] and not detector.uses_ehr
    assert not any(k.startswith(("repair", "whitening")) for k in detector.state())
    other = like(detector, parts=PARTS)
    assert other.parts == ["texture", "context", "pattern", "focal", "nodule"]
    torch.testing.assert_close(
        like(detector).score(others).score, detector.score(others).score, rtol=0, atol=0
    )
    before = {k: v for k, v in detector.state().items() if not k.startswith("scale.nodule")}
    other.load_state(before)  # a model that was fitted when nodules were no part of their own
    assert other.parts == ["texture", "context", "pattern", "focal"]
    with pytest.raises(UserError, match="holds no repair"):
        like(detector, parts=("repair",))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DINOv2 of chance weights, as a user has one in a folder."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("vit")
    settings = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Dinov2Model(settings).save_pretrained(path)
    metadata = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    (path / "preprocessor_config.json").write_text(json.dumps(metadata))
    return path


@torch.no_grad()
def test_a_transformer_of_the_users_gives_the_features(
    vit: Path, folder: str, films: Films, others: Batch
) -> None:
    config = Diff3MFConfig(
        image_size=SIDE,
        backbone=f"transformers:{vit}",
        layers=(1, 2, 3),
        focal=folder,
        parts=("texture", "context", "focal"),
    )
    detector = Diff3MF(config, STATS).fit(films, job=QUIET)
    import transformers

    net = transformers.Dinov2Model.from_pretrained(vit).eval()
    collected = []
    for image in (others.image, others.image.flip(-1)):
        film = equalise((image + 1) / 2)
        own = detector.net["own"]
        colours = (film - own.mean) / own.std
        states = net(
            colours, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
        collected.append(states[3][:, 1:].mean(1))
    far = distance((collected[0] + collected[1]) / 2, detector.gaussians["context"]).log()
    expected = (far - detector.scale["context.mean"]) / detector.scale["context.spread"]
    scores = detector.score(others)
    torch.testing.assert_close(scores.components["context"], expected, rtol=1e-2, atol=1e-2)
    assert {k for k in scores.components if "." not in k} == {"texture", "context", "focal"}
    torch.testing.assert_close(like(detector).score(others).score, scores.score)
    state = detector.state()
    state["own"] = state["own"] + 1
    with pytest.raises(UserError, match="other weights than those"):
        Diff3MF(config, STATS).load_state(state)
