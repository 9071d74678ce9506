"""`diff3m-f`: the score is made of the parts it says, each of what it says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nofinding import checkpoint
from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.errors import UserError
from nofinding.functional.acquisition import exposure, place, placement
from nofinding.functional.gaussian import distance, fit_gaussian, out_of_fold
from nofinding.functional.whiten import whitened
from nofinding.methods import diff3m_f, views
from nofinding.methods.detection import detect_as_paper, encode_as_paper
from nofinding.methods.diff3m import Diff3MNet
from nofinding.methods.diff3m_f import FOLDS, Diff3MF, Diff3MFConfig, FeatureFilms
from nofinding.methods.views import POOLED, Views, see
from nofinding.nets.chest import ChestNet
from nofinding.runtime import Runtime
from nofinding.training import Job, TrainConfig
from nofinding.types import Batch, Pixels, Record

SIDE = 128
QUIET = Job(progress=False, accelerator="cpu")
BASE = Diff3MFConfig(
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


def record(number: int) -> Record:
    ehr = {"age": 20.0 + number, "sex": float(number % 2), "bmi": 20.0 + number % 7}
    if number % 4 == 0:
        del ehr["bmi"]
    return Record(image_id=f"f{number}", patient_id=f"p{number}", pixels=Shade(number), ehr=ehr)


RECORDS = [record(n) for n in range(22)]
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
    batch = Films([record(n) for n in (101, 103, 104)], STATS, SIDE).batch(range(3))
    batch.known[2] = False
    return batch


def like(fitted: Diff3MF, **changes: object) -> Diff3MF:
    """The same weights under other settings."""
    other = Diff3MF(replace(fitted.config, **changes), STATS)  # type: ignore[arg-type]
    other.load_state(fitted.state())
    return other


def seen_by(fitted: Diff3MF, batch: Batch) -> dict[str, Tensor]:
    network = Runtime().prepare(Views(fitted.eyes, taught=fitted.taught, mirror=True))
    return see(network, batch.image)


def repaired(fitted: Diff3MF, batch: Batch, *, inversion: bool = False) -> Tensor:
    """The squared change of every cell, written out: blind there, with the record back."""
    assert fitted.whitening is not None
    z = whitened(seen_by(fitted, batch)["maps"], fitted.whitening)
    net = fitted.repair.eval()
    levels = fitted.levels.float()
    context, _ = net.attend(z, batch.ehr, batch.known)
    assert context is not None

    def blind(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return net(x, levels[k].expand(len(x)), torch.zeros_like(context), regenerate=False)

    def told(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return net(x, levels[k].expand(len(x)), context)

    level = fitted.config.noise_level
    if inversion:
        return encode_as_paper(blind, z, fitted.abar, level)[0].square().mean(1)
    return (z - detect_as_paper(told, blind, z, fitted.abar, level)).square().mean(1)


@torch.no_grad()
def test_every_part_by_hand_and_the_score_is_their_mean(fitted: Diff3MF, others: Batch) -> None:
    seen, scale = seen_by(fitted, others), fitted.scale
    raw = {"repair": repaired(fitted, others).mean((1, 2)).log()}
    for name in POOLED:
        raw[name] = distance(seen[name], fitted.gaussians[name]).log()
    mean_cell = seen["where"].sigmoid().mean((1, 2, 3)).logit()
    raw["evidence"] = (seen["film"] + mean_cell) / 2
    wanted = {k: (v - scale[f"{k}.mean"]) / scale[f"{k}.spread"] for k, v in raw.items()}
    found = fitted.score(others)
    for name, value in wanted.items():
        torch.testing.assert_close(found.parts[name], value, rtol=1e-3, atol=1e-3)
    mean = torch.stack([found.parts[name] for name in wanted]).mean(0)
    torch.testing.assert_close(found.score, mean)
    attention = {f"attention.{name}" for name in ("age", "sex", "bmi")}
    assert found.parts.keys() == wanted.keys() | attention
    weights = torch.stack([found.parts[name] for name in sorted(attention)])
    torch.testing.assert_close(weights.sum(0), torch.tensor([1.0, 1.0, 0.0]))


@torch.no_grad()
def test_the_map_is_what_does_not_come_back_and_what_is_seen(
    fitted: Diff3MF, others: Batch
) -> None:
    seen, scale = seen_by(fitted, others), fitted.scale
    cells = (repaired(fitted, others) / scale["cells"] - 1).clamp_min(0)
    above = (seen["where"] - scale["where.mean"])[:, 0] / scale["where.spread"][0]
    wanted = (cells + above.clamp_min(0)) / 2
    found = fitted.score(others).map
    assert found is not None and found.shape == others.image.shape and found.min() >= 0
    shown = torch.nn.functional.interpolate(wanted[:, None], size=(SIDE, SIDE), mode="bicubic")
    torch.testing.assert_close(found, shown.clamp_min(0), rtol=1e-3, atol=1e-3)
    distances = like(fitted, parts=("texture", "context"), backbone=fitted.config.backbone)
    assert distances.score(others).map is not None  # the evidence still shows where


@torch.no_grad()
def test_scales_are_of_the_training_films_distances_out_of_fold(
    fitted: Diff3MF, films: Films
) -> None:
    found = fitted.score(films.batch(range(22))).parts
    for name in ("repair", "evidence"):
        assert float(found[name].mean()) == pytest.approx(0, abs=0.02)
        assert float(found[name].std()) == pytest.approx(1, abs=0.03)
    order = torch.randperm(22, generator=diff3m_f.generators(3, ["films"])[0])
    seen, moved = fitted._features(films, order.tolist(), 3, progress=False)
    assert len(moved["texture"]) == 22
    for name in POOLED:
        far = out_of_fold(seen[name], moved[name], torch.arange(22) % FOLDS).log()
        torch.testing.assert_close(fitted.scale[f"{name}.mean"], far.mean(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fitted.scale[f"{name}.spread"], far.std(), rtol=1e-3, atol=1e-4)
        # Within its own Gaussian a film is nearer.
        assert found[name].mean() < 0
        own, wanted = fitted.gaussians[name], fit_gaussian(seen[name], moved[name])
        batch = seen[name] + moved[name]
        torch.testing.assert_close(
            distance(batch, own), distance(batch, wanted), rtol=1e-3, atol=1e-3
        )
    torch.testing.assert_close(fitted.scale["where.mean"], seen["where"].mean(0))
    spread = seen["where"].std(0).clamp_min(0.3)  # a cell that never moves is not all of the map
    torch.testing.assert_close(fitted.scale["where.spread"], spread)
    assert seen["where"].std(0).min() < 0.3


def test_another_exposure_and_position_of_the_same_film_is_the_nuisance(
    fitted: Diff3MF, films: Films
) -> None:
    seen, moved = fitted._features(films, [4, 9], 3, progress=False)
    batch = films.batch([4, 9])
    rows = diff3m_f.generators(3, ["copy/f4", "copy/f9"])
    other = exposure(place((batch.image + 1) / 2, placement(rows)), rows) * 2 - 1
    copies = seen_by(fitted, replace(batch, image=other))
    times = fitted.config.nuisance
    assert times > 1
    for name in POOLED:
        change = times * (copies[name] - seen[name])
        torch.testing.assert_close(moved[name], change, rtol=1e-3, atol=1e-3)
    # Cells must stay where they are: another exposure alone.
    there = exposure((batch.image + 1) / 2, rows) * 2 - 1
    change = times * (seen_by(fitted, replace(batch, image=there))["maps"] - seen["maps"])
    torch.testing.assert_close(moved["maps"].float(), change, rtol=1e-2, atol=2e-2)
    again = fitted._features(films, [9], 3, progress=False)[1]
    torch.testing.assert_close(again["texture"][0], moved["texture"][1], rtol=1e-3, atol=1e-3)
    assert (moved["texture"].abs().mean(1) > 0.01 * seen["texture"].abs().mean(1)).all()
    otherwise = fitted._features(films, [9], 4, progress=False)[1]
    assert not torch.allclose(otherwise["texture"], again["texture"], atol=1e-3)
    none = like(fitted, copied=0)._features(films, [4, 9], 3, progress=False)
    assert none[1] == {}
    torch.testing.assert_close(none[0]["texture"], seen["texture"])
    assert seen["maps"].dtype == torch.float16  # they are many


def test_a_mirrored_film_is_the_same_to_all_but_the_repair(fitted: Diff3MF, others: Batch) -> None:
    found = fitted.score(others).parts
    turned = fitted.score(replace(others, image=others.image.flip(-1))).parts
    for name in (*POOLED, "evidence"):
        torch.testing.assert_close(turned[name], found[name], rtol=1e-3, atol=2e-3)
    assert not torch.allclose(turned["repair"], found["repair"], atol=1e-2)
    one = like(fitted, mirror=False)
    there = one.score(replace(others, image=others.image.flip(-1))).parts
    assert not torch.allclose(there["texture"], one.score(others).parts["texture"], atol=1e-2)


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
    found = like(fitted, detect="inversion", parts=("repair",)).score(others)
    raw = repaired(fitted, others, inversion=True).mean((1, 2)).log()
    wanted = (raw - fitted.scale["repair.mean"]) / fitted.scale["repair.spread"]
    torch.testing.assert_close(found.score, wanted, rtol=1e-3, atol=1e-3)


def test_the_record_reaches_the_repair_and_nothing_else(fitted: Diff3MF, others: Batch) -> None:
    told, untold = fitted.score(others).parts, fitted.score(_unknown(others)).parts
    assert not torch.equal(told["repair"][:2], untold["repair"][:2])
    torch.testing.assert_close(told["repair"][2], untold["repair"][2])
    for name in (*POOLED, "evidence"):
        torch.testing.assert_close(told[name], untold[name])
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
    told, untold = detector.score(others).score, detector.score(_unknown(others)).score
    assert torch.equal(told, untold) == blind


def _unknown(batch: Batch) -> Batch:
    return replace(batch, known=torch.zeros_like(batch.known))


def test_rules_and_fewer_steps(fitted: Diff3MF, others: Batch) -> None:
    ruled, config = Diff3MF.ruled, fitted.config
    assert ruled(config, None, 0) == config
    assert ruled(config, "all", 10) == config
    halved = ruled(config, None, 5)
    assert (halved.respacing, halved.noise_level) == ("ddim5", 2)
    assert ruled(config, None, 2).noise_level == 1  # at least one
    with pytest.raises(UserError, match="steps 998"):
        ruled(config, None, 998)  # no stride keeps so many
    names = {
        "repair": ("repair",),
        "inversion": ("repair",),
        "distances": POOLED,
        "evidence": ("evidence",),
    }
    assert Diff3MF.RULES.keys() == names.keys() | {"all"}
    whole = fitted.score(others)
    for rule, parts in names.items():
        other = Diff3MF(ruled(config, rule, 0), STATS)
        other.load_state(fitted.state())
        found = other.score(others)
        assert {name for name in found.parts if "." not in name} == set(parts)
        mean = torch.stack([found.parts[name] for name in parts]).mean(0)
        torch.testing.assert_close(found.score, mean)
        if rule != "inversion":
            for name in parts:
                torch.testing.assert_close(found.parts[name], whole.parts[name])


def test_imagenet_has_neither_taught_features_nor_evidence(films: Films, others: Batch) -> None:
    detector = Diff3MF(replace(BASE, backbone="imagenet"), STATS).fit(films, job=QUIET)
    found = detector.score(others)
    kept = ("repair", "texture", "context")
    assert {name for name in found.parts if "." not in name} == set(kept)
    mean = torch.stack([found.parts[name] for name in kept]).mean(0)
    torch.testing.assert_close(found.score, mean)
    assert not any(k.startswith(("eyes", "chest")) for k in detector.state())
    distances = Diff3MF(replace(detector.config, parts=("texture",)), STATS)
    distances.load_state(detector.state())
    assert distances.score(others).map is None  # a distance of the whole film is nowhere


def test_films_that_are_repeated_share_a_fold() -> None:
    ids = ["a", "b", "c", "a", "d", "e", "f", "b"]
    assert diff3m_f._folds(ids).tolist() == [0, 1, 2, 0, 3, 4, 0, 1]


def test_features_stand_in_for_films_in_training(films: Films) -> None:
    maps = torch.arange(3 * 2 * 4 * 4).reshape(3, 2, 4, 4).half()
    told = FeatureFilms(maps, films, [7, 4, 9])
    assert len(told) == 3 and told.size == 4
    batch = told.batch([2, 0])
    assert batch.ids == ("f9", "f7") and batch.image.dtype == torch.float32
    assert torch.equal(batch.image, maps[[2, 0]].float())
    whole = films.batch([9, 7])
    assert torch.equal(batch.ehr, whole.ehr) and torch.equal(batch.known, whole.known)


def test_no_more_films_than_most_are_kept(
    films: Films, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EnoughError(Exception):
        pass

    kept: list[Sequence[int]] = []

    def note(self: Diff3MF, films: Films, chosen: Sequence[int], *given: int, **named: bool):  # type: ignore[no-untyped-def]
        kept.append(chosen)
        raise EnoughError

    monkeypatch.setattr(Diff3MF, "_features", note)
    for seed in (0, 0, 1):
        with pytest.raises(EnoughError):
            Diff3MF(replace(BASE, backbone=backbone, most=20), STATS).fit(films, seed=seed)
    assert len(set(kept[0])) == 20 and kept[0] == kept[1] != kept[2]


def test_a_shipped_backbone_is_named_by_its_hash(
    fitted: Diff3MF,
    learnt: dict[str, Tensor],
    others: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = views.resources.files  # ImageNet's weights lie in another package
    monkeypatch.setattr(
        views.resources, "files", lambda name: tmp_path if name == "nofinding" else files(name)
    )
    detector = Diff3MF(replace(BASE, backbone="chest"), STATS)
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "chest.safetensors"
    save_file(learnt, file)
    _, sha = views.chest_weights("chest")
    state = {k: v for k, v in fitted.state().items() if not k.startswith("eyes.")}
    state["chest"] = torch.tensor(list(bytes.fromhex(sha)), dtype=torch.uint8)
    detector.load_state(state)
    torch.testing.assert_close(detector.score(others).score, fitted.score(others).score)
    kept = detector.state()
    assert torch.equal(kept["chest"], state["chest"])
    assert not any(k.startswith("eyes.") for k in kept)
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
    repeated = Films([record(n % 19) for n in range(40)], STATS, SIDE)
    with pytest.raises(UserError, match="diff3m-f: 19 normal films; give 20 or more"):
        Diff3MF(config, STATS).fit(repeated)
    unfitted = Diff3MF(config, STATS)
    with pytest.raises(UserError, match="diff3m-f: not fitted yet"):
        unfitted.score(others)
    assert unfitted.state() == {}


def test_another_runtime_is_used_from_the_next_film_on(fitted: Diff3MF, others: Batch) -> None:
    wanted = fitted.score(others)
    fitted.runtime = Runtime(precision="bfloat16")
    low = fitted.score(others)
    fitted.runtime = Runtime()
    for name in ("repair", "texture"):  # both networks
        assert not torch.equal(low.parts[name], wanted.parts[name])
    torch.testing.assert_close(low.score, wanted.score, rtol=0, atol=0.5)
    assert torch.equal(fitted.score(others).score, wanted.score)
