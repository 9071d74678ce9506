"""A cohort folder: what is read is what was written, and nothing else is taken for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets.build.cohort_folder import Films
from nofinding.datasets.cohort import Cohort
from nofinding.datasets.examples import EXAMPLES, Copy
from nofinding.errors import UserError


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    EXAMPLES["nih"](Copy(root=root / "nih", patients=24, seed=0, size=64))
    return root / "nih"


@pytest.fixture
def folder(copy: Path, tmp_path: Path) -> Path:
    assert main(["cohort", f"nih:{copy}", "--out", str(tmp_path / "cohort")]) == 0
    return tmp_path / "cohort"


def test_the_films_by_number_are_those_in_order(folder: Path) -> None:
    films = Films(folder, FIELDS)
    assert [films[i] for i in range(len(films))] == list(films)
    assert films[-1] == films[len(films) - 1] and films[2:5] == list(films)[2:5]
    with pytest.raises(IndexError):
        films[len(films)]


def test_several_sources_are_one_sequence(folder: Path) -> None:
    cohort = Cohort([f"cohort:{folder}", "phantom:train=3,val=0,test=0,abnormal=0,size=64"], FIELDS)
    ids = [exam.image_id for exam in cohort.exams]
    assert [cohort.exams[i].image_id for i in range(len(cohort.exams))] == ids
    assert ids[-1] == "phantom-000002" and len(ids) == len(Films(folder, FIELDS)) + 3
    largest = max(len(Films(folder, FIELDS)), 3)
    repeated = [r.image_id for r in cohort.balanced(list(cohort.exams), 1000)]
    assert repeated.count("phantom-000002") == largest // 3


def test_the_same_cohort_twice_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="given to more than one film"):
        Cohort([f"cohort:{folder}"] * 2, FIELDS)


def test_a_table_that_was_changed_is_refused(folder: Path) -> None:
    file = folder / "films.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(0, len(table) - 1), file)
    with pytest.raises(UserError, match="is not the table of"):
        Films(folder, FIELDS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda message: message | {"version": 99}, "is of version 99"),
        (lambda message: {}, "is not a cohort's description"),
        (lambda message: message | {"fields": None}, "is of version"),
    ],
)
def test_another_description_is_refused(
    folder: Path, change: Callable[[dict[str, object]], dict[str, object]], said: str
) -> None:
    file = folder / "cohort.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=said):
        Films(folder, FIELDS)


def test_values_come_in_the_unit_that_is_asked_for(folder: Path) -> None:
    age = replace(FIELDS["age"], unit="mo", high=1500)
    months = {r.image_id: r.ehr["age"] for r in Films(folder, {"age": age}) if "age" in r.ehr}
    years = {r.image_id: r.ehr["age"] for r in Films(folder, FIELDS) if "age" in r.ehr}
    assert months == pytest.approx({name: 12 * value for name, value in years.items()})


def test_other_categories_are_refused(folder: Path) -> None:
    sex = replace(FIELDS["sex"], categories=("female", "male"))
    with pytest.raises(UserError, match="field sex has F, M, here female, male"):
        Films(folder, {"sex": sex})


def test_out_is_not_written_over(
    folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["cohort", f"nih:{copy}", "--out", str(folder)]
    assert main(again) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0
    (folder / "mine.txt").write_text("mine")
    assert main([*again, "--overwrite"]) == 2
    assert "'mine.txt', which is not of `cohort`" in capsys.readouterr().err
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_model_is_fitted_and_scores_a_cohort(folder: Path, tmp_path: Path) -> None:
    films = f"cohort:{folder}"
    fit = ["fit", "mean-grey", "--films", films, "--out", str(tmp_path / "model"), "--preset"]
    assert main([*fit, "tiny"]) == 0
    score = ["score", "--model", str(tmp_path / "model"), "--films", films, "--split", "test"]
    assert main([*score, "--out", str(tmp_path / "scores")]) == 0
    rows = (tmp_path / "scores" / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(r.split == "test" for r in Films(folder, FIELDS))
