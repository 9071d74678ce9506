"""The site that is judged was never fitted on; false positives, shift and adapting are as known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from nofinding.datasets.insertion.trial import Case, Held, Trial
from nofinding.evaluation.left_out import (
    Fitted,
    Opened,
    Site,
    judge_site,
    leave_one_out,
    mixture,
    recalibrated,
    site_table,
)
from nofinding.types import Exam


def film(site: str, i: int, value: float, findings: frozenset[str] = frozenset()) -> Exam:
    return Exam(
        image_id=f"{site}{i}",
        patient_id=f"{site}-{i}",
        pixels=Held(np.full((4, 4), value, dtype=np.uint8)),
        ehr={},
        findings=findings,
    )


def mean_grey(exams: Sequence[Exam]) -> tuple[np.ndarray, None]:
    return np.array([float(r.pixels().mean()) * 255 for r in exams]), None


def site(name: str, centre: float, spread: float, *, group: str = "") -> Site:
    rng = np.random.default_rng(int(centre))
    values = np.clip(rng.normal(centre, spread, 400), 0, 255)
    films = [film(name, i, v) for i, v in enumerate(values)]
    return Site(name=name, group=group or name, train=films[:200], normal=films[200:])


def fit(group: str, exams: Sequence[Exam]) -> Fitted:
    return Fitted(mean_grey, mean_grey(exams)[0])


def test_a_group_is_left_out_whole() -> None:
    asked = {}

    def remember(group: str, exams: Sequence[Exam]) -> Fitted:
        asked[group] = {r.image_id[0] for r in exams}
        return fit(group, exams)

    sites = [site("a", 60, 9), site("b", 90, 9, group="bc"), site("c", 95, 9, group="bc")]
    rows = leave_one_out(sites, remember, draws=10)
    assert asked == {"a": {"b", "c"}, "bc": {"a"}}
    assert [row.site for row in rows] == ["a", "b", "c"]
    assert [row.site for row in leave_one_out(sites, fit, only=["c"], draws=10)] == ["c"]


def test_a_patient_at_two_sites_is_refused() -> None:
    one, other = site("a", 60, 9), site("b", 60, 9)
    shared = replace(other.train[0], patient_id=one.normal[0].patient_id)
    with pytest.raises(ValueError, match="1 patients"):
        leave_one_out([one, replace(other, train=[shared])], fit)


def test_false_positives_of_a_brighter_site_and_after_adapting() -> None:
    here, other = site("a", 120, 20), site("b", 80, 10)
    before, normal, mixed = leave_one_out(
        [here, other],
        fit,
        recalibrated,
        only=["a"],
        unlabelled={"a": here.train},
        draws=10,
    )
    assert before.called.value > 0.8 and before.shift > 3
    assert normal.adapted == "100 normal" and mixed.adapted == "200 unlabelled"
    assert normal.called.low < 0.05 < normal.called.high
    assert mixed.called.value < 0.2 and abs(mixed.shift) < 0.5
    assert normal.called.low < normal.called.value < normal.called.high
    assert "| a | 100 normal | 200 |" in site_table([before, normal, mixed], [])


def test_films_of_one_patient_are_drawn_together() -> None:
    here = site("a", 100, 10)
    normal = [replace(r, patient_id=f"p{i // 50}") for i, r in enumerate(here.normal)]
    fitted = Fitted(mean_grey, np.linspace(60, 100, 99))
    apart = judge_site(here, fitted, "no", draws=400).called
    together = judge_site(replace(here, normal=normal), fitted, "no", draws=400).called
    assert apart.value == together.value
    assert together.draws == 400 and apart.draws == 200


def test_abnormal_films_are_read_only_when_opened() -> None:
    here = site("a", 60, 9)
    sick = [film("s", i, 200.0, frozenset({"Mass"})) for i in range(20)]
    records = [*here.normal, *sick]
    fitted = fit("b", here.train)
    assert judge_site(here, fitted, "no", draws=10).auroc == {}
    looked = replace(here, opened=Opened(exams=records, paired=np.array([0, 1, 200, 201])))
    row = judge_site(looked, fitted, "no", draws=10)
    assert row.auroc["all"].value == row.auroc["matched pairs"].value == 1
    assert "matched pairs 1.000" in site_table([row], [])


def test_a_mixture_has_its_share_of_lesions_and_no_label() -> None:
    normal = [film("a", i, 50.0) for i in range(40)]
    cases = [
        Case(
            record=replace(r, image_id=f"{r.image_id}+mass#0", findings=frozenset({"mass"})),
            twin=r,
            kind="mass",
            diameter=40.0,
            contrast=1.0,
            cell="open",
            mask=np.ones((4, 4), dtype=bool),
        )
        for r in normal
    ]
    films = mixture(normal, Trial(tuple(cases), ()), 0.3)
    assert len(films) == 40 and sum("+" in r.image_id for r in films) == 12
    assert {r.findings for r in films} == {None}
    assert len({r.patient_id for r in films}) == 40
