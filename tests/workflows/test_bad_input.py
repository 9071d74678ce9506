"""What is wrong is said in one line, exit code 2, and nothing is left half-written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.tables import COLUMNS, Rows, write_table

Refused = Callable[..., str]


def absolute(rows: Rows, cohort: Path) -> Rows:
    return [{**r, "path": str(cohort / r["path"])} for r in rows]


def fit(films: str, out: Path) -> list[object]:
    return ["fit", "diff3m", "--preset", "tiny", "--films", films, "--out", out]


def test_table_is_missing(tmp_path: Path, refused: Refused) -> None:
    assert "nope.csv" in refused(*fit("table:nope.csv", tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_source_is_unknown(tmp_path: Path, refused: Refused) -> None:
    line = refused(*fit("cheque:films.csv", tmp_path / "m"))
    assert "table" in line and "phantom" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sex": "X"}, "not one of F, M"),
        ({"age": "old"}, "not a number"),
        ({"split": "exam"}, "exam"),
        ({"image_id": "phantom-000001"}, "phantom-000001"),
        ({"path": "gone.png"}, "gone.png"),
        ({"patient_id": "phantom-p000020"}, "phantom-p000020"),
    ],
)
def test_row_is_wrong(
    cohort: Path,
    rows: Rows,
    tmp_path: Path,
    refused: Refused,
    change: dict[str, str],
    said: str,
) -> None:
    wrong = absolute(rows, cohort)
    wrong[3] = {**wrong[3], **change}
    line = refused(*fit(write_table(tmp_path / "t.csv", wrong), tmp_path / "m"))
    assert said in line
    assert not (tmp_path / "m").exists()


def test_column_is_missing(cohort: Path, rows: Rows, tmp_path: Path, refused: Refused) -> None:
    less = [c for c in COLUMNS if c != "path"]
    films = write_table(tmp_path / "t.csv", absolute(rows, cohort), less)
    assert "path" in refused(*fit(films, tmp_path / "m"))


def test_film_is_truncated(cohort: Path, rows: Rows, tmp_path: Path, refused: Refused) -> None:
    wrong = absolute(rows, cohort)
    whole = Path(wrong[2]["path"]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    wrong[2]["path"] = str(tmp_path / "cut.png")
    films = write_table(tmp_path / "t.csv", wrong)
    assert "cut.png" in refused(*fit(films, tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_truncated_film_when_scoring_leaves_nothing(
    cohort: Path, rows: Rows, model: Path, tmp_path: Path, refused: Refused
) -> None:
    wrong = absolute(rows, cohort)
    whole = Path(wrong[-1]["path"]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    wrong[-1]["path"] = str(tmp_path / "cut.png")
    films = write_table(tmp_path / "t.csv", wrong)
    assert "cut.png" in refused(
        "score", "--model", model, "--films", films, "--out", tmp_path / "s"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.png", "t.csv"]


def test_no_normal_film_to_learn_from(
    cohort: Path, rows: Rows, tmp_path: Path, refused: Refused
) -> None:
    test_only = [r for r in absolute(rows, cohort) if r["split"] == "test"]
    line = refused(*fit(write_table(tmp_path / "t.csv", test_only), tmp_path / "m"))
    assert "split train" in line
    unlabelled = write_table(
        tmp_path / "u.csv", absolute(rows, cohort), [c for c in COLUMNS if c != "findings"]
    )
    assert "findings" in refused(*fit(unlabelled, tmp_path / "m"))


def test_same_film_in_two_parts(cohort: Path, rows: Rows, tmp_path: Path, refused: Refused) -> None:
    wrong = absolute(rows, cohort)
    first_val = next(r for r in wrong if r["split"] == "val")
    first_val["path"] = wrong[0]["path"]
    line = refused(*fit(write_table(tmp_path / "t.csv", wrong), tmp_path / "m"))
    assert "pixels" in line
    assert not (tmp_path / "m").exists()


def test_table_lacks_a_field_of_the_model(
    cohort: Path, rows: Rows, model: Path, tmp_path: Path, refused: Refused
) -> None:
    less = [c for c in COLUMNS if c != "bmi"]
    films = write_table(tmp_path / "t.csv", absolute(rows, cohort), less)
    line = refused("score", "--model", model, "--films", films, "--out", tmp_path / "s")
    assert "bmi" in line and "--missing-fields mask" in line
    assert not (tmp_path / "s").exists()


def test_field_means_something_else_than_in_the_model(
    cohort: Path, tmp_path: Path, refused: Refused, rows: Rows
) -> None:
    from nofinding.cli import main

    table = [{**r, "smoker": "yes" if i % 2 else "no"} for i, r in enumerate(rows)]
    films = write_table(tmp_path / "t.csv", absolute(table, cohort), [*COLUMNS, "smoker"])
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text('smoker: {kind: categorical, categories: ["no", "yes"]}\n')
    other.write_text('smoker: {kind: categorical, categories: ["yes", "no"]}\n')
    run = [*fit(films, tmp_path / "m"), "--fields-file", one]
    assert main([str(a) for a in run]) == 0
    line = refused(
        "score", "--model", tmp_path / "m", "--films", films, "--out", tmp_path / "s",
        "--fields-file", other,
    )  # fmt: skip
    assert "smoker" in line


def test_model_is_absent_damaged_or_unfinished(
    cohort: Path, model: Path, tmp_path: Path, refused: Refused
) -> None:
    score = ["--films", f"table:{cohort / 'films.csv'}", "--out", tmp_path / "s"]
    assert "holds no model" in refused("score", "--model", tmp_path / "none", *score)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.json").write_bytes((model / "model.json").read_bytes())
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "model.safetensors").write_bytes(weights)
    assert "model.safetensors" in refused("score", "--model", broken, *score)
    assert not (tmp_path / "s").exists()


def test_folder_is_taken(cohort: Path, model: Path, tmp_path: Path, refused: Refused) -> None:
    films = f"table:{cohort / 'films.csv'}"
    assert "holds a model already" in refused(*fit(films, model))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "precious").touch()
    assert "not empty" in refused(
        "score", "--model", model, "--films", films, "--out", tmp_path / "s"
    )
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fry"], "no such command"),
        (["fit", "diffusion"], "not a method"),
        (["fit", "--preset", "tiny", "diff3m"], "--films, --out"),
        (["fit", "diff3m", "--preset", "huge"], "small"),
        (["fit", "diff3m", "--films", "phantom:", "--out", "x", "--method.width", "w"], "width"),
        (["fit", "diff3m", "--films", "phantom:", "--out", "x", "--method.heads", "3"], "heads"),
        (["fit", "diff3m", "--films", "phantom:cats=1", "--out", "x"], "cats"),
        (["fit", "diff3m", "--films", "phantom:train=9", "--fields", "iq", "--out", "x"], "iq"),
        (["score", "--model", "x", "--out", "y"], "SOURCE:PATH"),
        (["evaluate", "--scores", "no.csv", "--films", "phantom:", "--out", "y"], "no.csv"),
        (["import-official", "no.pt", "--out", "y"], "no.pt"),
    ],
)
def test_command_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Refused,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(*arguments)
    assert not list(tmp_path.iterdir())
