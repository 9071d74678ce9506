from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from nofinding.evaluation.statistics.conformal import hashed
from nofinding.evaluation.statistics.subgroups import (
    age_band,
    by_finding,
    by_patient_group,
    sex,
    view,
)
from nofinding.evaluation.table import read_scores
from nofinding.types import Exam


def exam(**ehr: float) -> Exam:
    return Exam(image_id="i", patient_id="p", pixels=lambda: np.zeros((2, 2)), ehr=ehr)


def test_a_finding_is_measured_against_all_normal_films(cohort: Any) -> None:
    scored = read_scores(cohort.scores, cohort.exams)
    device, mass = by_finding(scored, draws=50)
    assert (device.name, device.n_normal, device.n_abnormal) == ("device", 40, 20)
    assert (mass.name, mass.n_abnormal) == ("mass", 40)
    has = np.array(["device" in (r.findings or ()) for r in scored.exams])
    used = has | ~scored.abnormal
    assert device.auroc is not None and device.ap is not None and device.called is not None
    assert device.auroc.value == pytest.approx(roc_auc_score(has[used], scored.score[used]))
    assert device.ap.value == pytest.approx(average_precision_score(has[used], scored.score[used]))
    assert device.auroc.low < device.auroc.value < device.auroc.high
    assert scored.p_value is not None
    assert device.called.k == (scored.p_value[has] <= 0.05).sum()


def test_groups_use_their_own_normal_films(cohort: Any) -> None:
    scored = read_scores(cohort.scores, cohort.exams)
    groups = {(g.kind, g.name): g for g in by_patient_group(scored, draws=20)}
    member = np.array([r.view == "AP" for r in scored.exams])
    group = groups["view", "AP"]
    assert group.auroc is not None and group.false_positives is not None
    assert (group.n_normal, group.n_abnormal) == (20, 20)
    assert group.auroc.value == pytest.approx(
        roc_auc_score(scored.abnormal[member], scored.score[member])
    )
    assert scored.p_value is not None
    normal = member & ~scored.abnormal
    assert group.false_positives.n == 20
    assert group.false_positives.k == (scored.p_value[normal] <= 0.05).sum()
    for kind in ("sex", "age", "view"):
        parts = [g for g in groups.values() if g.kind == kind]
        assert sum(g.n_normal + g.n_abnormal for g in parts) == 80


def test_films_that_calibrate_are_no_evidence_of_false_positives(cohort: Any) -> None:
    normal = [r for r in cohort.exams if not r.findings and r.view == "AP"]
    cohort.run["calibration_ids"] = [hashed(r.image_id) for r in normal[:6]]
    cohort.write()
    scored = read_scores(cohort.scores, cohort.exams)
    groups = {(g.kind, g.name): g for g in by_patient_group(scored, draws=0)}
    group = groups["view", "AP"]
    assert group.n_normal == 20 and group.false_positives is not None
    assert group.false_positives.n == 14


def test_ten_films_of_either_kind_are_enough_and_nine_are_not(cohort: Any) -> None:
    abnormal = [r for r in cohort.exams if r.findings]
    rare = {r.image_id: {"rare"} for r in abnormal[:9]}
    for r in abnormal[9:19]:
        rare[r.image_id] = {"enough"}
    exams = [
        replace(r, findings=frozenset(rare.get(r.image_id, {"mass"}))) if r.findings else r
        for r in cohort.exams
    ]
    groups = {g.name: g for g in by_finding(read_scores(cohort.scores, exams), draws=20)}
    assert groups["rare"].too_few
    assert (groups["rare"].n_abnormal, groups["rare"].ap, groups["rare"].called) == (9, None, None)
    assert not groups["enough"].too_few


def test_nothing_recorded_gives_no_rows(cohort: Any) -> None:
    exams = [replace(r, ehr={}, view=None) for r in cohort.exams]
    assert by_patient_group(read_scores(cohort.scores, exams), draws=20) == []


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, "0-17"), (17.9, "0-17"), (18, "18-39"), (39.5, "18-39"), (40, "40-59"), (60, "60+")],
)
def test_age_bands_are_of_completed_years(age: float, band: str) -> None:
    assert age_band(exam(age=age)) == band


def test_unknown_is_a_group_of_its_own() -> None:
    assert [of(exam()) for of in (sex, view, age_band)] == ["not recorded"] * 3
    assert (sex(exam(sex=0)), sex(exam(sex=1))) == ("F", "M")
    assert (view(exam(view=1)), view(replace(exam(), view="PA"))) == ("AP", "PA")
