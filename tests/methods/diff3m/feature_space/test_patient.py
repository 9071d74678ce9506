"""`diff3m-f` given the record: normal films decide whether it counts, and then it must count."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.gaussian import distance
from nofinding.functional.features.normative import expected, record_columns
from nofinding.functional.image.combining import combined, surprise
from nofinding.methods.diff3m.feature_space.config import Diff3MFConfig
from nofinding.methods.diff3m.feature_space.detector import Diff3MF
from nofinding.model.bundle import load_model, save_model
from nofinding.training import TrainingRun
from nofinding.types import Batch, Exam, Pixels

QUIET = TrainingRun(progress=False, accelerator="cpu")
CONFIG = Diff3MFConfig(
    image_size=128,
    backbone="imagenet",
    focal="none",
    parts=("texture", "context", "record"),
    mirror=False,
    copied=0,
)


@dataclass(frozen=True)
class Heart:
    """Lungs, and between them a heart whose width is given."""

    seed: int
    width: float

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        film = 0.7 - 0.2 * x**2
        for side in (-0.5, 0.5):
            film -= 0.4 * np.exp(-(((x - side) / 0.3) ** 4) - (y / 0.8) ** 4)
        film += 0.5 * np.exp(-((x / self.width) ** 4) - ((y - 0.3) / 0.3) ** 4)
        return np.clip(film + 0.02 * rng.standard_normal(film.shape), 0.05, 1).astype(np.float32)


def exam(number: int, *, related: bool) -> Exam:
    """Where `related`, the heart is as wide as blood pressure says, but for a little."""
    rng = np.random.default_rng(1000 + number)
    pressure, own = rng.standard_normal(2)
    width = 0.35 + 0.06 * (pressure if related else own)
    ehr = {"systolic": 120 + 15 * pressure, "age": 50 + 10 * own, "sex": float(number % 2)}
    if number % 7 == 0:
        del ehr["age"]
    film = Heart(number, float(np.clip(width, 0.15, 0.6)))
    return Exam(image_id=f"f{number}", patient_id=f"p{number}", pixels=film, ehr=ehr)


NAMES = ("systolic", "sex")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fitted_to(*, related: bool, conditioning: str = "auto") -> Diff3MF:
    exams = [exam(n, related=related) for n in range(60)]
    stats = EhrStats.of(exams, [FIELDS[name] for name in NAMES])
    config = replace(CONFIG, conditioning=conditioning)  # type: ignore[arg-type]
    return Diff3MF(config, stats).fit(Films(exams, stats, 128), seed=1, job=QUIET)


@pytest.fixture(scope="module")
def fitted() -> Diff3MF:
    return fitted_to(related=True)


@pytest.fixture(scope="module")
def others(fitted: Diff3MF) -> Batch:
    """Twenty films that nothing was fitted to."""
    exams = [exam(n, related=True) for n in range(200, 220)]
    return Films(exams, fitted.stats, 128).batch(range(20))


def swapped(batch: Batch) -> Batch:
    """Each film with a pressure half the distribution away; what is normal of each stays so."""
    ehr = batch.ehr.clone()
    ehr[:, 0] -= 2 * ehr[:, 0].sign()
    return replace(batch, ehr=ehr)


def withheld(batch: Batch) -> Batch:
    return replace(batch, known=torch.zeros_like(batch.known))


def auroc(normal: Tensor, abnormal: Tensor) -> float:
    return float((abnormal[:, None] > normal).float().mean())


def test_a_record_that_fits_the_films_is_used_and_one_of_another_patient_is_noticed(
    fitted: Diff3MF, others: Batch
) -> None:
    assert fitted.decided["conditioning"] == "normative" and fitted.uses_ehr
    assert fitted.fields_used == NAMES
    assert fitted.decided["gain_nats"] > 1.96 * fitted.decided["gain_error"] > 0
    own, another = fitted.score(others), fitted.score(swapped(others))
    assert auroc(own.components["record"], another.components["record"]) > 0.9
    assert auroc(own.score, another.score) > 0.8
    hidden = fitted.score(withheld(others)), fitted.score(withheld(swapped(others)))
    assert torch.equal(hidden[0].score, hidden[1].score)


def test_the_score_by_hand(fitted: Diff3MF, others: Batch) -> None:
    features, scale = fitted.networks.see(others.image), fitted.scale
    columns, known = record_columns(others.ehr, others.known, [0, 2])
    parts = {}
    for name in ("texture", "context"):
        x = features[name]
        if name in fitted.decided["conditioned"]:
            by = fitted.patient.normative[name]
            x = x - (expected(by, columns, known) - by.mean)
        raw = distance(x, fitted.gaussians[name]).log()
        parts[name] = (raw - scale[f"{name}.mean"]) / scale[f"{name}.spread"]
    scores = fitted.score(others)
    for name, part in parts.items():
        torch.testing.assert_close(scores.components[name], part, rtol=1e-3, atol=1e-3)
    general = (parts["texture"] + parts["context"]) / 2
    both = [
        surprise(general, scale["general.quantiles"]),
        surprise(scores.components["record"], scale["record.quantiles"]),
    ]
    expected_score = combined(torch.stack(both), "fisher")
    torch.testing.assert_close(scores.score, expected_score, rtol=1e-3, atol=1e-3)
    assert fitted.decided["conditioned"], "some feature follows the record"


def test_each_film_and_each_missing_entry_is_judged_by_itself(
    fitted: Diff3MF, others: Batch
) -> None:
    known = others.known.clone()
    known[1, 0], known[2] = False, False
    some = replace(others, known=known)
    whole = fitted.score(some)
    for i in (0, 1, 2):
        one = Batch(some.image[[i]], some.ehr[[i]], known[[i]], (some.ids[i],))
        torch.testing.assert_close(fitted.score(one).score, whole.score[[i]], rtol=1e-4, atol=1e-4)
    features = {k: fitted.networks.see(some.image)[k] for k in ("texture", "context")}
    assert float(fitted.patient.misfit(features, some)[2]) == 0


def test_a_record_that_says_nothing_of_the_films_is_left_out() -> None:
    detector = fitted_to(related=False)
    assert detector.decided["conditioning"] == "none" and not detector.uses_ehr
    assert detector.parts == ["texture", "context"] and detector.fields_used == ()
    assert "not clearly likelier" in detector.decided["said"]
    exams = [exam(n, related=False) for n in range(300, 304)]
    batch = Films(exams, detector.stats, 128).batch(range(4))
    assert torch.equal(detector.score(batch).score, detector.score(swapped(batch)).score)
    # It is as if it had never been asked for.
    plain = fitted_to(related=False, conditioning="none")
    assert torch.equal(detector.score(batch).score, plain.score(batch).score)


def test_it_is_stored_with_the_model_and_said_on_its_card(
    fitted: Diff3MF, others: Batch, tmp_path: Path
) -> None:
    meta = {"calibration": {"scores": [], "ids": [], "from": "none"}, "aspect": "pad"}
    save_model(tmp_path / "model", fitted, meta)
    model = load_model(tmp_path / "model")
    torch.testing.assert_close(model.detector.score(others).score, fitted.score(others).score)
    assert model.meta["decided"]["conditioning"] == "normative"
    assert model.meta["uses_ehr"] is True
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"likelier given it, by {fitted.decided['gain_nats']:.2f} nats" in card


def test_adapting_moves_the_distances_of_what_the_record_leaves(
    fitted: Diff3MF, others: Batch
) -> None:
    features = fitted.features_of(others)
    assert set(features) == {"texture", "context", "record"}
    components = fitted.components_of(features)
    torch.testing.assert_close(
        fitted.score_of(components), fitted.score(others).score, rtol=1e-4, atol=1e-4
    )


def test_the_record_alone_as_a_rule(fitted: Diff3MF, others: Batch) -> None:
    config = Diff3MF.with_rule(fitted.config, "record", 0)
    alone = Diff3MF(config, fitted.stats)
    alone.load_state(fitted.state())
    scores = alone.score(others)
    torch.testing.assert_close(scores.score, fitted.score(others).components["record"])
    exams = [exam(n, related=False) for n in range(20)]
    with pytest.raises(UserError, match="no held-out film likelier"):
        Diff3MF(config, fitted.stats).fit(Films(exams, fitted.stats, 128), job=QUIET)
