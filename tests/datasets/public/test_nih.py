"""ChestX-ray14 as the NIH ships it, on the small copy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.datasets.examples import EXAMPLES, Copy
from nofinding.types import Exam


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    EXAMPLES["nih"](Copy(root=tmp_path / "nih", patients=24, seed=0, size=64))
    return tmp_path / "nih"


@pytest.fixture
def films(copy: Path) -> Callable[..., dict[str, Exam]]:
    def read(*options: str) -> dict[str, Exam]:
        out = str(copy.parent / "cohort")
        assert main(["cohort", f"nih:{copy}", "--out", out, "--overwrite", *options]) == 0
        return {r.image_id: r for r in SOURCES["cohort"].read(out, FIELDS)}

    return read


def flow(copy: Path) -> dict[str, int]:
    description = json.loads((copy.parent / "cohort" / "cohort.json").read_text())["flow"]
    steps = {step["reason"]: step["films"] for step in description["steps"]}
    return steps | {remark["what"]: remark["count"] for remark in description["remarks"]}


def test_labels_boxes_and_record(copy: Path, films: Callable[..., dict[str, Exam]]) -> None:
    got = films()
    assert got["00000002_000"].findings == frozenset()
    assert "age" not in got["00000002_000"].ehr  # it says 413
    assert got["00000003_000"].findings == frozenset({"Mass", "Infiltration"})
    nodule = next(r for r in got.values() if r.findings == frozenset({"Nodule"}))
    assert nodule.lesion is not None
    lesion = nodule.lesion()
    rows, columns = lesion.nonzero()
    # the box begins at 300.5, 400.25 and is 120 x 110.5 on a film of 1024; ours has 64
    assert (columns.min(), columns.max()) == (18, 26)
    assert (rows.min(), rows.max()) == (25, 31)
    assert got["00000002_001"].patient_id == got["00000002_000"].patient_id == "nih00002"


def test_what_is_lost_is_counted(copy: Path, films: Callable[..., dict[str, Exam]]) -> None:
    got = films()
    said = flow(copy)
    assert "00000001_000" not in got and said["its file is not in the folder"] == 1
    assert said["image files in the folder that no table lists"] == 1
    assert said["age: outside 0 to 120 a, set to missing"] == 2


def test_the_official_lists_decide(copy: Path, films: Callable[..., dict[str, Exam]]) -> None:
    test = set((copy / "test_list.txt").read_text().split())
    got = films()
    assert {f"{i}.png" for i, r in got.items() if r.split == "test"} == test & {
        f"{i}.png" for i in got
    }
    (copy / "train_val_list.txt").unlink()
    assert {r.split for r in films().values()} == {"test"}


def test_films_in_one_flat_folder_and_the_table_of_2020(
    copy: Path, films: Callable[..., dict[str, Exam]]
) -> None:
    before = {i: (r.split, dict(r.ehr)) for i, r in films().items()}
    for film in [*copy.glob("images_*/images/*.png")]:
        film.rename(copy / film.name)
    old = copy / "Data_Entry_2017.csv"
    text = old.read_text().replace("Patient Gender", "Patient Sex")
    old.unlink()
    (copy / "Data_Entry_2017_v2020.csv").write_text(text)
    assert {i: (r.split, dict(r.ehr)) for i, r in films().items()} == before


def test_a_table_of_neither_version_is_named(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = copy / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("Patient Gender", "Gender"))
    assert main(["cohort", f"nih:{copy}", "--out", str(copy.parent / "cohort")]) == 2
    assert "has no column 'Patient Gender' (2017)" in capsys.readouterr().err


def test_a_film_in_both_lists_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = (copy / "test_list.txt").read_text().split()[0]
    with (copy / "train_val_list.txt").open("a") as lines:
        lines.write(f"{both}\n")
    assert main(["cohort", f"nih:{copy}", "--out", str(copy.parent / "cohort")]) == 2
    assert "1 films are in both official lists" in capsys.readouterr().err


def test_the_record_says_what_was_stated_and_cannot_be(
    copy: Path, films: Callable[..., dict[str, Exam]]
) -> None:
    got = films()
    description = json.loads((copy.parent / "cohort" / "cohort.json").read_text())["flow"]["record"]
    split = got["00000002_000"].split  # this patient has an age of 413 on both films
    rows = {(row["field"], row["split"]): row for row in description}
    for (field, part), row in rows.items():
        expected = 2 if (field, part) == ("age", split) else 0
        assert row["unusable"] == expected and row["known"] + expected == row["films"]
