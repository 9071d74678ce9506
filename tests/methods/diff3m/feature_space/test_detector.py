"""`diff3m-f`: the score is made of the parts it says, each of what it says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.gaussian import distance, fit_gaussian, out_of_fold
from nofinding.functional.features.whiten import whitened
from nofinding.functional.noise import generators
from nofinding.functional.synthetic.acquisition import exposure, place, placement
from nofinding.methods.base import taught_weights
from nofinding.methods.diff3m.detection import detect_as_paper, encode_as_paper
from nofinding.methods.diff3m.feature_space import detector as detector_module
from nofinding.methods.diff3m.feature_space.config import PARTS, Diff3MFConfig
from nofinding.methods.diff3m.feature_space.detector import Diff3MF
from nofinding.methods.diff3m.feature_space.films import (
    FOLDS,
    FeatureFilms,
    features_of_films,
    folds,
)
from nofinding.methods.diff3m.feature_space.views import POOLED, Views, see
from nofinding.methods.diff3m.network import Diff3MNet
from nofinding.nets.chest import ChestNet
from nofinding.runtime import Runtime
from nofinding.storage import checkpoint
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Exam, Pixels

SIDE = 128
QUIET = TrainingRun(progress=False, accelerator="cpu")
BASE = Diff3MFConfig(
    focal="none",
    parts=PARTS,
    conditioning="none",
    image_size=SIDE,
    channels=8,
    width=8,
    train=TrainConfig(steps=4, batch_size=8, lr=1e-3, warmup=1),
)


@dataclass(frozen=True)
class Shade:
    """A body with lungs of random place and depth."""

    seed: int

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        film = 0.7 - 0.2 * x**2
        for side in (-0.45, 0.4):
            at, deep = side + 0.05 * rng.standard_normal(), 0.4 + 0.05 * rng.standard_normal()
            film -= deep * np.exp(-(((x - at) / 0.25) ** 4) - (y / 0.7) ** 4)
        return np.clip(film + 0.02 * rng.standard_normal(film.shape), 0.05, 1).astype(np.float32)


def exam(number: int) -> Exam:
    ehr = {"age": 20.0 + number, "sex": float(number % 2), "bmi": 20.0 + number % 7}
    if number % 4 == 0:
        del ehr["bmi"]
    return Exam(image_id=f"f{number}", patient_id=f"p{number}", pixels=Shade(number), ehr=ehr)


RECORDS = [exam(n) for n in range(22)]
STATS = EhrStats.of(RECORDS, [FIELDS[name] for name in ("age", "sex", "bmi")])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def learnt() -> dict[str, Tensor]:
    """A taught backbone; that its teacher was chance is no matter here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = ChestNet(SIDE, hidden=8)
        torch.nn.init.normal_(net.position, std=0.3)
    return net.learnt()


@pytest.fixture(scope="module")
def backbone(learnt: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a `synthetic` model."""
    folder = tmp_path_factory.mktemp("synthetic")
    checkpoint.save(folder / "model", learnt, {})
    return str(folder)


@pytest.fixture(scope="module")
def films() -> Films:
    return Films(RECORDS, STATS, SIDE)


@pytest.fixture(scope="module")
def fitted(backbone: str, films: Films) -> Diff3MF:
    return Diff3MF(replace(BASE, backbone=backbone), STATS).fit(films, seed=3, job=QUIET)


@pytest.fixture(scope="module")
def others() -> Batch:
    """Three films that nothing was fitted to; of the last one nothing is known."""
    batch = Films([exam(n) for n in (101, 103, 104)], STATS, SIDE).batch(range(3))
    batch.known[2] = False
    return batch


def like(fitted: Diff3MF, **changes: object) -> Diff3MF:
    """The same weights under other settings."""
    other = Diff3MF(replace(fitted.config, **changes), STATS)  # type: ignore[arg-type]
    other.load_state(fitted.state())
    return other


def seen_by(fitted: Diff3MF, batch: Batch) -> dict[str, Tensor]:
    network = Runtime().prepare(Views(fitted.networks.backbone, taught=True, mirror=True))
    return see(network, batch.image)


def features(
    fitted: Diff3MF, films: Films, indices: Sequence[int], seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return features_of_films(
        fitted.networks.see, films, indices, fitted.config, seed, maps=True, progress=False
    )


def repaired(fitted: Diff3MF, batch: Batch, *, inversion: bool = False) -> Tensor:
    """The squared change of every cell, written out: blind there, with the record back."""
    repair = fitted.repair
    assert repair.whitening is not None
    z = whitened(seen_by(fitted, batch)["maps"], repair.whitening)
    net = repair.network.eval()
    levels = repair.levels.float()
    context, _ = net.attend(z, batch.ehr, batch.known)
    assert context is not None

    def blind(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return net(x, levels[k].expand(len(x)), torch.zeros_like(context), regenerate=False)

    def look(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return net(x, levels[k].expand(len(x)), context)

    level = fitted.config.noise_level
    if inversion:
        return encode_as_paper(blind, z, repair.abar, level)[0].square().mean(1)
    return (z - detect_as_paper(look, blind, z, repair.abar, level)).square().mean(1)


@torch.no_grad()
def test_every_part_by_hand_and_the_score_is_their_mean(fitted: Diff3MF, others: Batch) -> None:
    calls, scale = seen_by(fitted, others), fitted.scale
    raw = {"repair": repaired(fitted, others).mean((1, 2)).log()}
    for name in POOLED:
        raw[name] = distance(calls[name], fitted.gaussians[name]).log()
    mean_cell = calls["where"].sigmoid().mean((1, 2, 3)).logit()
    raw["evidence"] = (calls["film"] + mean_cell) / 2
    expected = {k: (v - scale[f"{k}.mean"]) / scale[f"{k}.spread"] for k, v in raw.items()}
    scores = fitted.score(others)
    for name, value in expected.items():
        torch.testing.assert_close(scores.components[name], value, rtol=1e-3, atol=1e-3)
    mean = torch.stack([scores.components[name] for name in expected]).mean(0)
    torch.testing.assert_close(scores.score, mean)
    attention = {f"attention.{name}" for name in ("age", "sex", "bmi")}
    assert scores.components.keys() == expected.keys() | attention
    weights = torch.stack([scores.components[name] for name in sorted(attention)])
    torch.testing.assert_close(weights.sum(0), torch.tensor([1.0, 1.0, 0.0]))


@torch.no_grad()
def test_the_map_is_what_does_not_come_back_and_what_is_seen(
    fitted: Diff3MF, others: Batch
) -> None:
    calls, scale = seen_by(fitted, others), fitted.scale
    cells = (repaired(fitted, others) / scale["cells"] - 1).clamp_min(0)
    above = (calls["where"] - scale["where.mean"])[:, 0] / scale["where.spread"][0]
    expected = (cells + above.clamp_min(0)) / 2
    scores = fitted.score(others).anomaly_map
    assert scores is not None and scores.shape == others.image.shape and scores.min() >= 0
    shown = torch.nn.functional.interpolate(expected[:, None], size=(SIDE, SIDE), mode="bicubic")
    torch.testing.assert_close(scores, shown.clamp_min(0), rtol=1e-3, atol=1e-3)
    distances = like(fitted, parts=("texture", "context"), backbone=fitted.config.backbone)
    assert distances.score(others).anomaly_map is not None  # the evidence still shows where


@torch.no_grad()
def test_scales_are_of_the_training_films_distances_out_of_fold(
    fitted: Diff3MF, films: Films
) -> None:
    scores = fitted.score(films.batch(range(22))).components
    for name in ("repair", "evidence"):
        assert float(scores[name].mean()) == pytest.approx(0, abs=0.02)
        assert float(scores[name].std()) == pytest.approx(1, abs=0.03)
    order = torch.randperm(22, generator=generators(3, ["films"])[0])
    calls, moved = features(fitted, films, order.tolist(), 3)
    assert len(moved["texture"]) == 22
    for name in POOLED:
        far = out_of_fold(calls[name], moved[name], torch.arange(22) % FOLDS).log()
        torch.testing.assert_close(fitted.scale[f"{name}.mean"], far.mean(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fitted.scale[f"{name}.spread"], far.std(), rtol=1e-3, atol=1e-4)
        # Within its own Gaussian a film is nearer.
        assert scores[name].mean() < 0
        own, expected = fitted.gaussians[name], fit_gaussian(calls[name], moved[name])
        batch = calls[name] + moved[name]
        torch.testing.assert_close(
            distance(batch, own), distance(batch, expected), rtol=1e-3, atol=1e-3
        )
    torch.testing.assert_close(fitted.scale["where.mean"], calls["where"].mean(0))
    spread = calls["where"].std(0).clamp_min(0.3)  # a cell that never moves is not all of the map
    torch.testing.assert_close(fitted.scale["where.spread"], spread)
    assert calls["where"].std(0).min() < 0.3


def test_another_exposure_and_position_of_the_same_film_is_the_nuisance(
    fitted: Diff3MF, films: Films
) -> None:
    calls, moved = features(fitted, films, [4, 9], 3)
    batch = films.batch([4, 9])
    rows = generators(3, ["copy/f4", "copy/f9"])
    other = exposure(place((batch.image + 1) / 2, placement(rows)), rows) * 2 - 1
    copies = seen_by(fitted, replace(batch, image=other))
    times = fitted.config.nuisance
    assert times > 1
    for name in POOLED:
        change = times * (copies[name] - calls[name])
        torch.testing.assert_close(moved[name], change, rtol=1e-3, atol=1e-3)
    # Cells must stay where they are: another exposure alone.
    there = exposure((batch.image + 1) / 2, rows) * 2 - 1
    change = times * (seen_by(fitted, replace(batch, image=there))["maps"] - calls["maps"])
    torch.testing.assert_close(moved["maps"].float(), change, rtol=1e-2, atol=2e-2)
    again = features(fitted, films, [9], 3)[1]
    torch.testing.assert_close(again["texture"][0], moved["texture"][1], rtol=1e-3, atol=1e-3)
    assert (moved["texture"].abs().mean(1) > 0.01 * calls["texture"].abs().mean(1)).all()
    otherwise = features(fitted, films, [9], 4)[1]
    assert not torch.allclose(otherwise["texture"], again["texture"], atol=1e-3)
    none = features(like(fitted, copied=0), films, [4, 9], 3)
    assert none[1] == {}
    torch.testing.assert_close(none[0]["texture"], calls["texture"])
    assert calls["maps"].dtype == torch.float16  # they are many


def test_a_mirrored_film_is_the_same_to_all_but_the_repair(fitted: Diff3MF, others: Batch) -> None:
    scores = fitted.score(others).components
    turned = fitted.score(replace(others, image=others.image.flip(-1))).components
    for name in (*POOLED, "evidence"):
        torch.testing.assert_close(turned[name], scores[name], rtol=1e-3, atol=2e-3)
    assert not torch.allclose(turned["repair"], scores["repair"], atol=1e-2)
    one = like(fitted, mirror=False)
    there = one.score(replace(others, image=others.image.flip(-1))).components
    assert not torch.allclose(there["texture"], one.score(others).components["texture"], atol=1e-2)


def calls_of(detector: Diff3MF, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a film goes through a network when it is scored."""
    count = 0
    for cls, name in ((Views, "once"), (Diff3MNet, "forward")):
        whole = getattr(cls, name)

        def counted(self, *given, whole=whole, **named):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            return whole(self, *given, **named)

        monkeypatch.setattr(cls, name, counted)
    detector.score(batch)
    monkeypatch.undo()
    return count


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, 2 + 6),
        ({"detect": "inversion"}, 2 + 3),
        ({"noise_level": 2, "mirror": False}, 1 + 4),
        ({"parts": ("texture", "evidence")}, 2),
    ],
)
def test_network_calls_are_those_that_are_made(
    fitted: Diff3MF,
    others: Batch,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    calls: int,
) -> None:
    detector = like(fitted, **changes)
    assert detector.network_calls == calls
    assert calls_of(detector, others, monkeypatch) == calls


@torch.no_grad()
def test_inversion_is_the_size_of_the_latent(fitted: Diff3MF, others: Batch) -> None:
    scores = like(fitted, detect="inversion", parts=("repair",)).score(others)
    raw = repaired(fitted, others, inversion=True).mean((1, 2)).log()
    expected = (raw - fitted.scale["repair.mean"]) / fitted.scale["repair.spread"]
    torch.testing.assert_close(scores.score, expected, rtol=1e-3, atol=1e-3)


def test_the_record_reaches_the_repair_and_nothing_else(fitted: Diff3MF, others: Batch) -> None:
    message, without_ehr = (
        fitted.score(others).components,
        fitted.score(_unknown(others)).components,
    )
    assert not torch.equal(message["repair"][:2], without_ehr["repair"][:2])
    torch.testing.assert_close(message["repair"][2], without_ehr["repair"][2])
    for name in (*POOLED, "evidence"):
        torch.testing.assert_close(message[name], without_ehr[name])
    without = like(fitted, parts=POOLED)
    assert not without.uses_ehr and without.fields_used == ()
    assert fitted.uses_ehr and fitted.fields_used == ("age", "sex", "bmi")
    demographic = Diff3MF(replace(BASE, backbone="imagenet", record="demographics"), STATS)
    assert demographic.fields_used == ("age", "sex")
    assert not Diff3MF(replace(BASE, backbone="imagenet", record="none"), STATS).uses_ehr


@pytest.mark.parametrize("blind", [True, False])
def test_blind_encoding_is_not_told_of_the_record(
    fitted: Diff3MF, others: Batch, blind: bool
) -> None:
    detector = like(fitted, detect="inversion", parts=("repair",), blind_encoding=blind)
    message, without_ehr = detector.score(others).score, detector.score(_unknown(others)).score
    assert torch.equal(message, without_ehr) == blind


def _unknown(batch: Batch) -> Batch:
    return replace(batch, known=torch.zeros_like(batch.known))


def test_rules_and_fewer_steps(fitted: Diff3MF, others: Batch) -> None:
    with_rule, config = Diff3MF.with_rule, fitted.config
    assert with_rule(config, None, 0) == config
    assert with_rule(config, "all", 10) == config
    halved = with_rule(config, None, 5)
    assert (halved.respacing, halved.noise_level) == ("ddim5", 2)
    assert with_rule(config, None, 2).noise_level == 1  # at least one
    with pytest.raises(UserError, match="steps 998"):
        with_rule(config, None, 998)  # no stride keeps so many
    names = {
        "repair": ("repair",),
        "inversion": ("repair",),
        "distances": POOLED,
        "evidence": ("evidence",),
    }
    assert Diff3MF.RULES.keys() == names.keys() | {"all", "focal", "record"}
    whole = fitted.score(others)
    for rule, parts in names.items():
        other = Diff3MF(with_rule(config, rule, 0), STATS)
        other.load_state(fitted.state())
        scores = other.score(others)
        assert {name for name in scores.components if "." not in name} == set(parts)
        mean = torch.stack([scores.components[name] for name in parts]).mean(0)
        torch.testing.assert_close(scores.score, mean)
        if rule != "inversion":
            for name in parts:
                torch.testing.assert_close(scores.components[name], whole.components[name])


def test_imagenet_has_neither_taught_features_nor_evidence(films: Films, others: Batch) -> None:
    detector = Diff3MF(replace(BASE, backbone="imagenet"), STATS).fit(films, job=QUIET)
    scores = detector.score(others)
    remaining = ("repair", "texture", "context")
    assert {name for name in scores.components if "." not in name} == set(remaining)
    mean = torch.stack([scores.components[name] for name in remaining]).mean(0)
    torch.testing.assert_close(scores.score, mean)
    assert not any(k.startswith(("eyes", "chest")) for k in detector.state())
    distances = Diff3MF(replace(detector.config, parts=("texture",)), STATS)
    distances.load_state(detector.state())
    assert distances.score(others).anomaly_map is None  # a distance of the whole film is nowhere


def test_films_that_are_repeated_share_a_fold() -> None:
    ids = ["a", "b", "c", "a", "d", "e", "f", "b"]
    assert folds(ids).tolist() == [0, 1, 2, 0, 3, 4, 0, 1]


def test_features_stand_in_for_films_in_training(films: Films) -> None:
    maps = torch.arange(3 * 2 * 4 * 4).reshape(3, 2, 4, 4).half()
    message = FeatureFilms(maps, films, [7, 4, 9])
    assert len(message) == 3 and message.size == 4
    batch = message.batch([2, 0])
    assert batch.ids == ("f9", "f7") and batch.image.dtype == torch.float32
    assert torch.equal(batch.image, maps[[2, 0]].float())
    whole = films.batch([9, 7])
    assert torch.equal(batch.ehr, whole.ehr) and torch.equal(batch.known, whole.known)


def test_no_more_films_than_most_are_kept(
    films: Films, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EnoughError(Exception):
        pass

    remaining: list[Sequence[int]] = []

    def note(see: object, films: Films, indices: Sequence[int], *given: object, **named: bool):  # type: ignore[no-untyped-def]
        remaining.append(indices)
        raise EnoughError

    monkeypatch.setattr(detector_module, "features_of_films", note)
    for seed in (0, 0, 1):
        with pytest.raises(EnoughError):
            Diff3MF(replace(BASE, backbone=backbone, most=20), STATS).fit(films, seed=seed)
    assert len(set(remaining[0])) == 20 and remaining[0] == remaining[1] != remaining[2]


def test_a_shipped_backbone_is_named_by_its_hash(
    fitted: Diff3MF,
    learnt: dict[str, Tensor],
    others: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = taught_weights.resources.files  # ImageNet's weights lie in another package
    monkeypatch.setattr(
        taught_weights.resources,
        "files",
        lambda name: tmp_path if name == "nofinding" else files(name),
    )
    detector = Diff3MF(replace(BASE, backbone="chest"), STATS)
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "chest.safetensors"
    save_file(learnt, file)
    _, sha = taught_weights.chest_weights("chest")
    state = {k: v for k, v in fitted.state().items() if not k.startswith("eyes.")}
    state["chest"] = torch.tensor(list(bytes.fromhex(sha)), dtype=torch.uint8)
    detector.load_state(state)
    torch.testing.assert_close(detector.score(others).score, fitted.score(others).score)
    remaining = detector.state()
    assert torch.equal(remaining["chest"], state["chest"])
    assert not any(k.startswith("eyes.") for k in remaining)
    assert any(k.startswith("eyes.") for k in fitted.state())  # any other is in the model itself

    save_file({k: v + 1 for k, v in learnt.items()}, file)
    with pytest.raises(UserError, match="another chest backbone"):
        detector.load_state(state)


def test_a_backbone_that_does_not_fit_is_refused(
    learnt: dict[str, Tensor], backbone: str, films: Films, tmp_path: Path
) -> None:
    small = {k: v[..., :4, :4] if k == "position" else v for k, v in learnt.items()}
    for number, tensors in enumerate((small, {"mean": torch.zeros(3)})):
        folder = tmp_path / str(number)
        checkpoint.save(folder / "model", tensors, {})
        with pytest.raises(UserError, match="another image_size than 128, or is no synthetic"):
            Diff3MF(replace(BASE, backbone=str(folder)), STATS).fit(films, job=QUIET)
    with pytest.raises(UserError, match="give chest, imagenet or the folder"):
        Diff3MF(replace(BASE, backbone=str(tmp_path)), STATS).fit(films, job=QUIET)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 96}, "image_size 96: give a multiple of 32, 128 or more"),
        ({"image_size": 144}, "image_size 144"),
        ({"parts": ()}, "give some of repair, texture"),
        ({"parts": ("mood",)}, "mood.*give some of repair, texture"),
        ({"parts": ("evidence",)}, "need a taught backbone, this is imagenet"),
        ({"most": 5}, "most 5: give 20 to"),
        ({"copied": -1}, "copied -1: give 0 to"),
        ({"batch_size": 0}, "batch_size 0: give 1 to"),
        ({"respacing": "ddim998"}, "respacing 'ddim998'"),
        ({"noise_level": 0}, "noise_level 0: give 1 to 9"),
        ({"noise_level": 10}, "noise_level 10: give 1 to 9"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Diff3MF(replace(BASE, backbone="imagenet", **changes), STATS)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_few_films_or_none_are_refused(fitted: Diff3MF, others: Batch) -> None:
    config = replace(BASE, backbone="imagenet")
    repeated = Films([exam(n % 19) for n in range(40)], STATS, SIDE)
    with pytest.raises(UserError, match="diff3m-f: 19 normal films; give 20 or more"):
        Diff3MF(config, STATS).fit(repeated)
    unfitted = Diff3MF(config, STATS)
    with pytest.raises(UserError, match="diff3m-f: not fitted yet"):
        unfitted.score(others)
    assert unfitted.state() == {}


def test_another_runtime_is_used_from_the_next_film_on(fitted: Diff3MF, others: Batch) -> None:
    expected = fitted.score(others)
    fitted.runtime = Runtime(precision="bfloat16")
    low = fitted.score(others)
    fitted.runtime = Runtime()
    for name in ("repair", "texture"):  # both networks
        assert not torch.equal(low.components[name], expected.components[name])
    torch.testing.assert_close(low.score, expected.score, rtol=0, atol=0.5)
    assert torch.equal(fitted.score(others).score, expected.score)
