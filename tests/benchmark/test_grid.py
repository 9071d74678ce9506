"""bench end to end: the grid goes on where it stopped, what fails is reported, labels stay out."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch

from nofinding.benchmark import grid as module
from nofinding.benchmark.cell import Cell, read_result, run_cell
from nofinding.benchmark.grid import _names, bench, run_cells, selected_methods, share_of, thinned
from nofinding.benchmark.options import BenchOptions
from nofinding.benchmark.report import _notes
from nofinding.cli import main
from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS
from nofinding.datasets.cohort import Cohort
from nofinding.errors import UserError
from nofinding.evaluation.baselines import BASELINES, METADATA
from nofinding.methods import METHODS
from nofinding.methods.baselines.mean_grey import MeanGrey
from nofinding.types import Batch, Scores, Supervision

PHANTOM = "phantom:train=24,val=8,test=24,abnormal=3,size=48"
TINY = ",".join(f"{name}:tiny" for name in BASELINES)
FEW = ("mean-grey", "thumbnail")


def options(out: Path, **changes: Any) -> BenchOptions:
    given: dict[str, Any] = {
        "films": [PHANTOM],
        "out": out,
        "methods": TINY,
        "preset": "tiny",
        "bootstrap": 50,
        "cache": out.parent / "cache",
        "threads": 2,
        "jobs": 2,
    }
    return BenchOptions(**{**given, **changes})


def here(cells: list[Cell], options: BenchOptions) -> None:
    """Runs the cells in this process: a method made in a test is known in no other."""
    for cell in cells:
        if not module._is_done(cell):
            run_cell(replace(cell, threads=1))


@pytest.fixture(autouse=True)
def threads_and_messages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("nofinding.benchmark.cell._quiet", lambda: None)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> str:
    """Two baselines for all, in this process: for what does not hang on which they are."""
    monkeypatch.setattr(module, "BASELINES", FEW)
    monkeypatch.setattr(module, "run_cells", here)
    return ",".join(f"{name}:tiny" for name in FEW)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench by the command line, in processes of its own."""
    out = tmp_path_factory.mktemp("bench") / "grid"
    words = ["bench", "--films", PHANTOM, "--out", str(out), "--methods", TINY, "--preset", "tiny"]
    words += ["--seeds", "2", "--jobs", "2", "--bootstrap", "50", "--matched", "--threads", "2"]
    assert main([*words, "--cache", str(out.parent / "cache")]) == 0
    return out


def test_the_table_has_every_row_with_interval_tier_and_cost(finished: Path) -> None:
    payload = json.loads((finished / "results.json").read_text())
    (cohort,) = payload["cohorts"]
    rows = {row["label"]: row for row in cohort["rows"]}
    assert rows.keys() == {*BASELINES, METADATA}
    assert cohort["failures"] == []
    for name, row in rows.items():
        area = row["metrics"]["auroc"]
        assert area["low"] <= area["value"] <= area["high"]
        assert len(row["auroc_by_seed"]) == 2
        assert row["baseline"]
        if name != METADATA:
            assert row["supervision"] == METHODS[name].supervision
            assert row["cost"]["films_per_second"] > 0 and row["cost"]["peak_memory_mib"] > 50
    assert rows["ae"]["cost"]["gflop"] > 0 == rows["mean-grey"]["cost"]["gflop"]
    assert [r["metrics"]["auroc"]["value"] for r in cohort["rows"]] == sorted(
        (r["metrics"]["auroc"]["value"] for r in cohort["rows"]), reverse=True
    )
    assert cohort["rows"][0]["first_minus_this"] is None
    assert all(r["p_holm"] is not None for r in cohort["rows"][1:])
    assert cohort["films"]["prevalence"] == pytest.approx(0.5, abs=0.1)


def test_the_report_is_one_file_that_fetches_nothing(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "").replace(
        "http://www.w3.org", ""
    )
    assert "PHANTOM" in page and "Not a medical device" in page
    assert page.count('src="data:image/svg+xml;base64,') >= 3


def test_csv_and_latex_say_the_same(finished: Path) -> None:
    with (finished / "results.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    payload = json.loads((finished / "results.json").read_text())["cohorts"][0]["rows"]
    latex = (finished / "table.tex").read_text()
    for row in payload:
        area = row["metrics"]["auroc"]
        assert float(rows[row["method"]]["auroc"]) == pytest.approx(area["value"], abs=1e-5)
        assert f"{row['label']} & " in latex
        assert f"{100 * area['value']:.1f} ({100 * area['low']:.1f}--" in latex
    assert latex.count("&") >= 2 * len(payload)


def test_a_finished_grid_is_not_run_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("cell.json")}
    assert len(before) == 2 * len(BASELINES)
    report = (finished / "results.json").read_text()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a cell was started")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", never)
    bench(options(finished, seeds=2, matched=True, cache=finished.parent / "cache"))
    bench(options(finished, seeds=2, matched=True, run=False, cache=finished.parent / "cache"))
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("cell.json")} == before
    assert (finished / "results.json").read_text() == report


def test_a_cell_of_other_films_or_settings_counts_for_nothing(finished: Path) -> None:
    fields = dict(FIELDS)
    selection = selected_methods(TINY, "tiny")
    own = options(finished, seeds=1, cache=finished.parent / "cache")
    cohort = Cohort([PHANTOM], fields)
    share = share_of(cohort, "phantom", own, selection, fields)
    cell = next(iter(module._cells(share, own, selection)))
    assert read_result(cell) is not None
    fewer = replace(share, train=share.train[:-1])
    assert read_result(replace(cell, share=fewer)) is None
    assert read_result(replace(cell, aspect="squash")) is None
    assert read_result(replace(cell, seed=1)) is None


@dataclass(frozen=True, kw_only=True)
class BrokenConfig:
    """Where it breaks."""

    image_size: int = 32
    """Side of the film, in pixels."""


class Broken(MeanGrey):
    """Fits, and then divides by zero."""

    name: ClassVar[str] = "broken"
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        raise ZeroDivisionError("by nothing")


class Learner(MeanGrey):
    """Learns from other films, and remembers which."""

    name: ClassVar[str] = "learner"
    OTHERS: ClassVar[str] = "diseased"
    met: ClassVar[list[tuple[str, ...]]] = []

    def set_auxiliary(self, others: Films) -> None:
        self.met.append(others.ids)

    def fit(self, normal: Films, *, seed: int = 0, job: Any = None) -> Self:
        assert self.met
        return super().fit(normal, seed=seed, job=job)


def test_a_cell_that_fails_is_reported_and_stops_no_other(
    tmp_path: Path, few: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "broken", Broken)
    out = tmp_path / "grid"
    report = bench(options(out, methods=f"broken,{few}"))
    payload = json.loads((out / "results.json").read_text())["cohorts"][0]
    (failure,) = payload["failures"]
    assert failure["label"] == "broken" and "ZeroDivisionError: by nothing" in failure["why"]
    assert {row["label"] for row in payload["rows"]} == {*FEW, METADATA}
    assert "ZeroDivisionError" in report.read_text()
    lines = (out / "results.csv").read_text().splitlines()
    width = {len(next(csv.reader([line]))) for line in lines}
    assert len(width) == 1 and any("by nothing" in line for line in lines)


def test_a_killed_cell_is_a_failed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = options(tmp_path / "grid", methods=TINY, minutes=1e-4, jobs=1)
    fields = dict(FIELDS)
    share = share_of(
        Cohort([PHANTOM], fields), "phantom", own, selected_methods(TINY, "tiny"), fields
    )
    cells = list(module._cells(share, own, selected_methods(TINY, "tiny")))[:1]
    run_cells(cells, own)
    result = read_result(cells[0])
    assert result is not None and result.status == "failed" and "--minutes" in result.why


def test_what_others_learn_from_is_judged_by_nobody(
    tmp_path: Path, few: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "learner", Learner)
    Learner.met.clear()
    out = tmp_path / "grid"
    bench(options(out, methods=f"learner,{few}", pool=0.4))
    (met,) = Learner.met
    with (out / "cells/phantom/mean-grey--tiny/seed-0/scores.csv").open(newline="") as file:
        judged = {row["image_id"] for row in csv.DictReader(file)}
    exams = {r.image_id: r for r in Cohort([PHANTOM], dict(FIELDS)).exams}
    assert met and all(exams[image_id].findings for image_id in met)
    assert not judged & set(met)
    patients = [{exams[i].patient_id for i in ids} for ids in (judged, met)]
    assert not patients[0] & patients[1]
    assert json.loads((out / "results.json").read_text())["cohorts"][0]["films"]["pool"] > len(met)


def test_labels_change_no_score(tmp_path: Path) -> None:
    fields, own = dict(FIELDS), options(tmp_path / "grid")
    share = share_of(
        Cohort([PHANTOM], fields), "phantom", own, selected_methods(TINY, "tiny"), fields
    )
    cell = next(
        c for c in module._cells(share, own, selected_methods(TINY, "tiny")) if c.method == "ae"
    )
    flipped = tuple(
        replace(r, findings=frozenset() if r.findings else frozenset({"x"})) for r in share.judged
    )
    written = []
    for name, judged in (("as they are", share.judged), ("turned round", flipped)):
        one = replace(cell, folder=tmp_path / name, share=replace(share, judged=judged), threads=1)
        run_cell(one)
        written.append((tmp_path / name / "scores.csv").read_text())
    assert written[0] == written[1]


def test_fewer_films_are_the_same_for_everyone() -> None:
    exams = Cohort([PHANTOM], dict(FIELDS)).exams
    few = thinned(exams, 7)
    assert len(few) == 7 and few == [r for r in exams if r in few]
    assert {r.image_id for r in thinned(exams[::-1], 7)} == {r.image_id for r in few}
    assert thinned(exams, 0) == list(exams)


def test_rows_asked_for_and_the_trivial_ones() -> None:
    assert selected_methods("ae", "tiny")[0] == ("ae", "tiny")
    assert {name for name, _ in selected_methods("ae", "tiny")} == {*BASELINES, METADATA}
    assert [name for name, _ in selected_methods("all", "small")] == [*METHODS, METADATA]
    for bad, word in (("nothing", "nothing"), ("ae:huge", "huge"), ("ae,ae", "twice")):
        with pytest.raises(UserError, match=word):
            selected_methods(bad, "small")


def test_cohorts_get_names_of_their_own(tmp_path: Path) -> None:
    named = [Cohort([PHANTOM], dict(FIELDS))] * 2
    assert _names(named) == ["phantom", "phantom-2"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"seeds": 0}, "--seeds 0"),
        ({"jobs": 0}, "--jobs 0"),
        ({"pool": 1.0}, "--pool 1"),
        ({"minutes": -1}, "--minutes -1"),
        ({"films": ["phantom:train=8,val=2,test=4,abnormal=0,size=48"]}, "no abnormal film"),
    ],
)
def test_bad_options_are_refused_before_the_first_cell(
    tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(UserError, match=word):
        bench(options(tmp_path / "grid", **changes))
    assert not (tmp_path / "grid").exists()


def test_a_recipe_sets_the_split_and_shows_the_published_figures(tmp_path: Path, few: str) -> None:
    out = tmp_path / "grid"
    report = bench(options(out, methods=few, split="val", recipe="zhanglab"))
    payload = json.loads((out / "results.json").read_text())
    assert (payload["split"], payload["recipe"]) == ("test", "zhanglab")
    assert any("1,349" in line for line in payload["cohorts"][0]["deviations"])
    page = report.read_text()
    assert "SQUID" in page and "0.876" in page and "Not as published" in page
    with pytest.raises(UserError, match="one cohort"):
        bench(options(out, methods=few, films=[PHANTOM, PHANTOM], recipe="zhanglab"))
    with pytest.raises(UserError, match="nowhere"):
        bench(options(out, recipe="nowhere"))


@pytest.mark.parametrize(("split", "said"), [("val", True), ("test", False)])
def test_validation_films_are_called_so(split: Any, said: bool) -> None:
    message = " ".join(_notes(BenchOptions(films=["phantom:"], out=Path("x"), split=split)))
    assert ("whoever made a method may have looked at them" in message) == said
