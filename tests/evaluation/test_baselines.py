from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from nofinding.data.ehr import FIELDS
from nofinding.errors import UserError
from nofinding.evaluation import baselines
from nofinding.evaluation.baselines import DETECTORS, detector_baseline, metadata_baseline
from nofinding.methods import METHODS
from nofinding.types import Batch, Exam, Scores, Supervision

ALL = tuple(FIELDS.values())


class Brightness:
    """Scores the mean grey and remembers what it was given."""

    PRESETS: ClassVar[dict[str, Any]] = {"small": "the default config"}
    network_calls = 3
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY
    image_size = 16
    calls: ClassVar[list[Any]] = []

    def __init__(self, config: Any, stats: Any) -> None:
        assert config == "the default config"

    def fit(self, normal: Any, *, seed: int, job: Any) -> "Brightness":
        self.calls[:] = [normal.ids, seed, job.folder]
        return self

    def score(self, batch: Batch, *, seed: int) -> Scores:
        assert batch.image.shape[1:] == (1, 16, 16)
        return Scores(score=batch.image.mean((1, 2, 3)))


class Absent(Brightness):
    def fit(self, normal: Any, *, seed: int, job: Any) -> "Absent":
        raise UserError("the weights are not installed")


def patients(n: int, *, informative: bool, seed: int = 0) -> tuple[list[Exam], np.ndarray]:
    rng = np.random.default_rng(seed)
    abnormal = rng.random(n) < 0.25
    age = rng.normal(50 + 20 * abnormal * informative, 10)
    exams = [
        Exam(
            image_id=str(i),
            patient_id=str(i),
            pixels=lambda: np.zeros((4, 4), np.float32),
            ehr={"age": age[i], "sex": float(i % 2)} if i % 5 else {},
        )
        for i in range(n)
    ]
    return exams, abnormal


def test_the_trivial_detectors_are_methods() -> None:
    assert set(DETECTORS) <= set(METHODS)


def test_a_detector_is_fitted_on_training_normals_and_scores_in_order(
    cohort: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "mean-grey", Brightness)
    train = [replace(r, image_id=f"train-{i}") for i, r in enumerate(cohort.exams[:6])]
    row = detector_baseline("mean-grey", train, cohort.exams, ALL, seed=5)
    assert Brightness.calls == [tuple(f"train-{i}" for i in range(6)), 5, None]
    expected = [2 * float(r.pixels().mean()) - 1 for r in cohort.exams]
    assert row.score == pytest.approx(np.array(expected), abs=0.01)
    assert row.supervision == Supervision.NORMAL_ONLY
    assert row.network_calls == 3
    assert row.seconds_per_film is not None and row.seconds_per_film > 0


def test_a_row_that_cannot_run_says_why(cohort: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "frozen-knn", Absent)
    row = detector_baseline("frozen-knn", cohort.exams[:2], cohort.exams, ALL)
    assert (row.score, row.skipped) == (None, "the weights are not installed")
    row = detector_baseline("mean-grey", [], cohort.exams, ALL)
    assert (row.score, row.skipped) == (None, "no normal training films were given")


@pytest.mark.parametrize("name", DETECTORS)
def test_the_real_detectors_score_every_film(name: str, cohort: Any) -> None:
    torch.set_num_threads(1)
    normal = [r for r in cohort.exams if not r.findings]
    row = detector_baseline(name, normal[:4], cohort.exams[:5], ALL, preset="tiny")
    assert row.skipped or (row.score is not None and row.score.shape == (5,))
    assert row.supervision != Supervision.EVALUATED_LABELS


def test_metadata_finds_a_record_that_tells() -> None:
    records, abnormal = patients(300, informative=True)
    row = metadata_baseline(records, abnormal, np.arange(300), ALL)
    assert row.supervision == Supervision.EVALUATED_LABELS
    assert row.score is not None
    assert roc_auc_score(abnormal, row.score) > 0.75


def test_metadata_without_information_is_near_one_half() -> None:
    areas = []
    for seed in range(8):
        records, abnormal = patients(200, informative=False, seed=seed)
        row = metadata_baseline(records, abnormal, np.arange(200), ALL, seed=seed)
        assert row.score is not None
        areas.append(roc_auc_score(abnormal, row.score))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.05)


def test_a_record_that_says_nothing_gives_even_odds_whatever_the_prevalence_of_a_fold() -> None:
    person = np.repeat(np.arange(18), 1 + np.arange(18) % 7)
    exams = [
        Exam(
            image_id=str(i),
            patient_id=str(p),
            pixels=lambda: np.zeros((4, 4), np.float32),
            ehr={"age": 50.0},
        )
        for i, p in enumerate(person)
    ]
    row = metadata_baseline(exams, (np.arange(18) % 3 == 0)[person], person, ALL)
    assert row.score is not None
    assert np.abs(row.score).max() < 1e-6


def test_no_patient_is_in_both_parts_of_a_fold() -> None:
    # one age a patient, ages without order: only a fold that splits a patient could use them
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(20), 10)
    abnormal = rng.permutation(np.arange(20) % 2 == 0)[person]
    exams = [
        Exam(
            image_id=str(i),
            patient_id=str(p),
            pixels=lambda: np.zeros((4, 4), np.float32),
            ehr={f"is_{p}": 1.0, **{f"is_{q}": 0.0 for q in range(20) if q != p}},
        )
        for i, p in enumerate(person)
    ]
    fields = [baselines.EhrField(name=f"is_{p}", kind="numeric") for p in range(20)]
    row = metadata_baseline(exams, abnormal, person, fields)
    assert row.score is not None
    assert roc_auc_score(abnormal, row.score) < 0.7


def test_metadata_is_skipped_with_a_reason() -> None:
    exams, abnormal = patients(60, informative=True)
    bare = [replace(r, ehr={}) for r in exams]
    assert metadata_baseline(bare, abnormal, np.arange(60), ALL).skipped.startswith("no metadata")
    few = np.arange(60) < 3
    assert "fewer than 5 patients" in metadata_baseline(exams, few, np.arange(60), ALL).skipped
