import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nofinding.errors import UserError
from nofinding.evaluation import assess
from nofinding.evaluation.assess import evaluate
from nofinding.evaluation.baselines import DETECTORS, Baseline
from nofinding.evaluation.report.gallery import array_file, select_films
from nofinding.evaluation.statistics.conformal import hashed
from nofinding.evaluation.table import read_scores
from nofinding.types import Supervision


@pytest.fixture(autouse=True)
def _detectors(monkeypatch: pytest.MonkeyPatch, cohort: Any) -> None:
    """Baselines of known worth: thumbnail as good as the method, mean-grey reversed."""
    score = np.array([row["score"] for row in cohort.rows])
    noise = np.random.default_rng(0).normal(size=len(score))
    outputs = {"mean-grey": -score, "thumbnail": score + 0.01 * noise, "ae": noise}

    def stand_in(name: str, *args: Any, **kwargs: Any) -> Baseline:
        if name == "frozen-knn":
            return Baseline(name, Supervision.NONE, skipped="the weights <b>are</b> away")
        return Baseline(name, Supervision.NORMAL_ONLY, outputs[name], seconds_per_film=0.001)

    monkeypatch.setattr(assess, "detector_baseline", stand_in)


def run(cohort: Any, out: Path, **options: Any) -> tuple[dict[str, Any], str]:
    options = {"name": "made-up", "bootstrap": 100, **options}
    metrics = evaluate(cohort.scores, cohort.exams, out, **options)
    return metrics, (out / "report.html").read_text(encoding="utf-8")


def test_metrics_are_those_of_the_scores_and_are_written(cohort: Any, tmp_path: Path) -> None:
    metrics, _ = run(cohort, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    scored = read_scores(cohort.scores, cohort.exams)
    method = metrics["rows"][0]
    expected = roc_auc_score(scored.abnormal, scored.score)
    assert method["metrics"]["auroc"]["value"] == pytest.approx(expected)
    assert method["metrics"]["auroc"]["low"] < expected < method["metrics"]["auroc"]["high"]
    assert (method["seed"], method["supervision"]) == (3, "normal-only")
    assert (method["network_calls"], method["gflop"], method["seconds_per_film"]) == (
        200,
        12.5,
        0.25,
    )
    assert [row["name"] for row in metrics["rows"][1:]] == [*DETECTORS, "metadata-only"]
    assert metrics["films"] == {
        "evaluated": 80, "normal": 40, "abnormal": 40, "prevalence": 0.5, "patients": 40,
        "unlabelled": 0, "unscored": 0, "flagged": 1,
    }  # fmt: skip
    assert metrics["flags"] == {"age": 1}
    assert metrics["calibration"]["normal"]["0.1"]["n"] == 40
    assert metrics["attention"][0]["field"] == "age"
    assert metrics["attention"][0]["recorded"] == 72
    # the films without a record weigh it 0, which is not a mean of what was attended to
    assert metrics["attention"][0]["mean"]["value"] == pytest.approx(0.75)
    assert metrics["pixels"]["estimates"]["pixel_auroc"]["value"] > 0.8
    assert metrics["pixels"]["lesion_films"] == 40


def test_the_page_stands_alone(cohort: Any, tmp_path: Path) -> None:
    _, page = run(cohort, tmp_path / "out", phantom=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["metrics.json", "report.html"]
    assert "<script" not in page.lower()
    for source in re.findall(r'(?:src|href)="([^"]{0,40})', page):
        assert source.startswith("data:image/")
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_the_page_says_what_it_must(cohort: Any, tmp_path: Path) -> None:
    _, page = run(cohort, tmp_path / "out", phantom=True)
    assert "<h1>tested on made-up</h1>" in page
    for line in ("Research use only. Not a medical device.", "PHANTOM: simulated films"):
        assert page.count(line) == 2  # above all else, and in the last line
        assert page.index(line) < page.index("<main>")
    for heading in (
        "By finding",
        "By sex, age and view",
        "Highest scores",
        "Misses",
        "False alarms",
    ):
        assert heading in page
    for cell in (*DETECTORS, "metadata-only", "labels of the evaluated films", "AUPRO", "too few"):
        assert cell in page, cell
    assert re.search(r"age \d+ years, sex [FM], view (PA|AP)", page)
    assert page.count("⚑") == page.count("age: 300 is outside 0 to 120 a")
    _, page = run(cohort, tmp_path / "real")
    assert "PHANTOM" not in page
    assert "Research use only. Not a medical device." in page


def test_a_method_that_does_not_beat_a_trivial_row_says_so(cohort: Any, tmp_path: Path) -> None:
    metrics, page = run(cohort, tmp_path / "out")
    beats = {v["row"]: v["beats"] for v in metrics["verdicts"]}
    # a score that is wrong throughout tells as much as its reverse
    assert beats["ae"] is True
    assert beats["thumbnail"] is False
    assert beats["mean-grey (turned round)"] is False
    assert "tested does not beat mean-grey (turned round), thumbnail" in page
    assert "tested does not beat thumbnail: difference in AUROC" in page
    assert any("mean-grey separates these films the wrong way round" in n for n in metrics["notes"])


def test_text_from_outside_is_escaped(cohort: Any, tmp_path: Path) -> None:
    for row in cohort.rows:
        row["flags"] = "<img src=x onerror=alert(1)>"
    cohort.run["method"] = "<b>bold</b>"
    cohort.write()
    _, page = run(cohort, tmp_path / "out", name="<i>source</i>")
    assert "<img src=x" not in page and "<b>bold" not in page and "<i>source" not in page
    assert "the weights &lt;b&gt;are&lt;/b&gt; away" in page


def test_two_score_files_are_compared(cohort: Any, tmp_path: Path) -> None:
    other = tmp_path / "other" / "scores.csv"
    other.parent.mkdir()
    rows = [f"{row['image_id']},{-row['score']}" for row in cohort.rows]
    other.write_text("image_id,score\n" + "\n".join(rows) + "\n")
    metrics, page = run(cohort, tmp_path / "out", compare=other, baselines="none")
    assert [row["role"] for row in metrics["rows"]] == ["method", "compared"]
    assert metrics["delong"]["p_value"] < 1e-6
    first = metrics["rows"][0]["metrics"]["auroc"]["value"]
    assert metrics["delong"]["difference"] == pytest.approx(2 * first - 1)
    assert "Paired DeLong test" in page
    assert any("baselines were not run" in note for note in metrics["notes"])
    other.write_text("image_id,score\n" + "\n".join(rows[1:]) + "\n")
    with pytest.raises(UserError, match="a paired test needs the same films; 1 of"):
        run(cohort, tmp_path / "out", compare=other)


def test_calibration_films_among_the_evaluated_are_told(cohort: Any, tmp_path: Path) -> None:
    normal = [r.image_id for r in cohort.exams if not r.findings]
    cohort.run["calibration_ids"] = [hashed(image_id) for image_id in normal[:7]]
    cohort.write()
    metrics, page = run(cohort, tmp_path / "out")
    assert any(note.startswith("7 of the 40 evaluated normal films") for note in metrics["notes"])
    assert "it is no evidence" in page


def test_scores_alone_are_enough(cohort: Any, tmp_path: Path) -> None:
    lone = tmp_path / "lone" / "scores.csv"
    lone.parent.mkdir()
    rows = [f"{row['image_id']},{row['score']}" for row in cohort.rows]
    lone.write_text("image_id,score\n" + "\n".join(rows) + "\n")
    cohort.folder = lone.parent
    cohort.exams = [replace(r, ehr={}, view=None, lesion=None) for r in cohort.exams]
    metrics, page = run(cohort, tmp_path / "out", bootstrap=0)
    assert metrics["calibration"] is None and metrics["pixels"] is None
    assert metrics["rows"][-1]["skipped"].startswith("no metadata")
    assert metrics["rows"][0]["metrics"]["auroc"]["low"] is None
    assert "no map" in page and "no pseudo-healthy" in page


def test_the_gallery_shows_the_films_it_names(cohort: Any) -> None:
    scored = read_scores(cohort.scores, cohort.exams)
    highest, lowest, alarms, misses = select_films(scored)
    order = np.argsort(scored.score)
    assert highest.tolist() == order[::-1][:4].tolist()
    assert lowest.tolist() == order[:4].tolist()
    assert len(alarms) == 2  # 5 % of 40 normal films
    assert scored.score[alarms[0]] > scored.score[alarms[1]]
    assert not scored.abnormal[alarms].any()
    assert scored.abnormal[misses].all()
    assert (np.diff(scored.score[misses]) >= 0).all()
    assert scored.score[misses].max() < scored.score[alarms].min()


def test_maps_are_read_from_their_folder_only(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "secret.npy", np.zeros(2))
    np.save(tmp_path / "maps" / "a@320.npy", np.zeros(2))
    assert array_file(tmp_path / "maps", "a@320") == tmp_path / "maps" / "a@320.npy"
    for image_id in ("../secret", "..", "", "absent", str(tmp_path / "secret")):
        assert array_file(tmp_path / "maps", image_id) is None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((16, 16), np.float32), "must hold a 32 x 32 array"),
        (np.full((32, 32), np.nan, np.float32), "finite"),
        (np.array([{}]), "cannot be read as an array"),
    ],
)
def test_a_bad_map_is_refused_and_nothing_is_written(
    cohort: Any, tmp_path: Path, array: np.ndarray, message: str
) -> None:
    highest = max(cohort.rows, key=lambda row: row["score"])["image_id"]
    np.save(cohort.folder / "maps" / f"{highest}.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        run(cohort, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("key", "value"), [("aspect", "stretch"), ("image_size", "large")])
def test_a_run_that_makes_no_sense_is_refused(
    cohort: Any, tmp_path: Path, key: str, value: str
) -> None:
    cohort.run[key] = value
    cohort.write()
    with pytest.raises(UserError, match=f"run.json: {key} is '{value}'"):
        run(cohort, tmp_path / "out")


def test_the_same_input_gives_the_same_report(cohort: Any, tmp_path: Path) -> None:
    assert run(cohort, tmp_path / "a") == run(cohort, tmp_path / "b")
    assert run(cohort, tmp_path / "a", seed=1)[0] != run(cohort, tmp_path / "b")[0]


def notes_with(cohort: Any, **run: object) -> str:
    cohort.run = {**cohort.run, **run}
    scores = cohort.write()
    metrics = evaluate(
        scores, cohort.exams, cohort.folder / "out", name="n", baselines="none", bootstrap=0
    )
    return " ".join(metrics["notes"])


def test_levels_that_cannot_be_reached_are_named(cohort: Any) -> None:
    said = notes_with(cohort, calibration_n=50)
    assert "With 50 calibration films no p-value can be 0.01 or less, which takes 99" in said
    assert "can be 0.05" not in said
    assert "can be 0.01" not in notes_with(cohort, calibration_n=99)


def test_kind_of_calibration_and_drift_are_told(cohort: Any) -> None:
    strata = {"sex=F view=PA": 60, "all": 20}
    said = notes_with(cohort, calibration="mondrian", strata=strata)
    assert "own stratum: sex=F view=PA (60 films); all (20 films)." in said
    said = notes_with(cohort, calibration="weighted", calibration_effective_n=23.4)
    assert "worth 23 equally weighted ones" in said
    assert "unlike those" in notes_with(cohort, drift={"line": "these look unlike those it knows"})
