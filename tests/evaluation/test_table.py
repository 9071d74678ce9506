import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nofinding.errors import UserError
from nofinding.evaluation.table import read_scores


def test_scores_meet_labels_by_id_whatever_the_order(cohort: Any) -> None:
    cohort.rows.reverse()
    scored = read_scores(cohort.write(), cohort.exams[::-1])
    assert [r.image_id for r in scored.exams] == sorted(r.image_id for r in cohort.exams)
    expected = {row["image_id"]: row["score"] for row in cohort.rows}
    for exam, score, abnormal in zip(scored.exams, scored.score, scored.abnormal, strict=True):
        assert score == pytest.approx(expected[exam.image_id])
        assert abnormal == bool(exam.findings)
    assert (scored.patients, scored.n_normal, scored.n_abnormal) == (40, 40, 40)
    assert scored.prevalence == 0.5
    assert set(scored.components) == {"mse", "attention.age", "attention.sex"}
    assert scored.flags[10] == ("age: 300 is outside 0 to 120 a",)
    assert scored.method == "tested"


def test_films_without_a_label_or_a_score_are_left_out_and_counted(cohort: Any) -> None:
    exams = [replace(r, findings=None) if i < 3 else r for i, r in enumerate(cohort.exams)]
    exams.append(replace(exams[5], image_id="of-train", split="train"))
    cohort.rows = cohort.rows[:-2]
    scored = read_scores(cohort.write(), exams)
    assert len(scored.exams) == 75
    assert scored.unlabelled == 3
    assert scored.unscored == 2  # the training film is not missing: none of its split was scored


def test_p_values_may_be_absent_but_not_in_part(cohort: Any) -> None:
    rows = [dict(row) for row in cohort.rows]
    cohort.rows = [{**row, "p_value": ""} for row in rows]
    assert read_scores(cohort.write(), cohort.exams).p_value is None
    cohort.rows[0]["p_value"] = 0.5
    with pytest.raises(UserError, match="row 3: p_value is empty"):
        read_scores(cohort.write(), cohort.exams)


def test_an_empty_part_is_not_a_number(cohort: Any) -> None:
    cohort.rows[4]["mse"] = ""
    mse = read_scores(cohort.write(), cohort.exams).components["mse"]
    assert np.flatnonzero(np.isnan(mse)).tolist() == [4]


def test_without_run_json_the_folder_names_the_method(cohort: Any) -> None:
    (cohort.folder / "run.json").unlink()
    scored = read_scores(cohort.scores, cohort.exams)
    assert (scored.method, scored.run) == ("scores", {})


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (2, "score", "nan", "row 4: score is 'nan'; a finite number is needed"),
        (2, "score", "", "row 4: score is ''; a finite number"),
        (2, "score", "inf", "row 4: score is 'inf'"),
        (2, "score", "high", "row 4: score is 'high'; a number is needed"),
        (0, "mse", "x", "row 2: mse is 'x'"),
        (0, "p_value", "0", "row 2: p_value is 0; allowed is above 0 up to 1"),
        (0, "p_value", "1.2", "row 2: p_value is 1.2"),
        (1, "image_id", "film-000", "row 3: image_id 'film-000' is there twice"),
        (1, "image_id", "stranger", "row 3: image_id 'stranger' is none of the 80 films"),
    ],
)
def test_a_bad_cell_is_named(cohort: Any, row: int, column: str, value: str, message: str) -> None:
    cohort.rows[row][column] = value
    with pytest.raises(UserError, match=re.escape(f"scores.csv: {message}")) as caught:
        read_scores(cohort.write(), cohort.exams)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["image_id", "score"])
def test_a_missing_column_is_named(cohort: Any, column: str) -> None:
    for row in cohort.rows:
        row["other"] = row.pop(column) if column == "image_id" else 1
        row.pop(column, None)
    with pytest.raises(UserError, match=f"needs one column '{column}'"):
        read_scores(cohort.write(), cohort.exams)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "needs one column 'image_id'"),
        (b"image_id,score\nfilm-000\n", "row 2: has 1 cells, the header has 2"),
        (b"image_id,score\n\xff\xfe,1\n", "is not a CSV file in UTF-8"),
        (b"image_id,score\n", "no normal film among the 0 labelled ones"),
        (b"image_id,score\nfilm-000,1\n", "no abnormal film among the 1 labelled ones"),
        (b"image_id,score\nfilm-002,1\n", "no normal film among the 1 labelled ones"),
    ],
)
def test_a_file_that_cannot_be_evaluated_is_refused(cohort: Any, text: bytes, message: str) -> None:
    cohort.scores.write_bytes(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_scores(cohort.scores, cohort.exams)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        read_scores(tmp_path / "none.csv", [])


def test_a_damaged_run_json_is_refused(cohort: Any) -> None:
    for text in ("{", "[1]"):
        (cohort.folder / "run.json").write_text(text)
        with pytest.raises(UserError, match=r"run\.json"):
            read_scores(cohort.scores, cohort.exams)


def test_the_same_film_twice_in_the_source_is_refused(cohort: Any) -> None:
    with pytest.raises(UserError, match="image_id twice"):
        read_scores(cohort.scores, [*cohort.exams, cohort.exams[0]])
