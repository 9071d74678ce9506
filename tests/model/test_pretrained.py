"""The models inside the package: which is taken for whom, and that they give an answer."""

import hashlib
import json
from pathlib import Path

import pytest

import nofinding
from nofinding.cli import main
from nofinding.errors import UserError
from nofinding.model.bundle import load_model
from nofinding.model.pretrained import SHIPPED, about_age, model_folder, shipped_for
from nofinding.types import Exam
from nofinding.workflows.demo import real_film
from nofinding.workflows.score import ScoreOptions, score

WEIGHTS = Path(nofinding.__file__).parent / "weights"


def film(**ehr: float) -> Exam:
    return Exam(image_id="film", patient_id="p", pixels=lambda: None, ehr=ehr)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("ages", "model"),
    [([3.0], "paediatric"), ([9.9, 1.0], "paediatric"), ([10.0], "adult"), ([None, 70.0], "adult")],
)
def test_age_chooses_the_model(ages: list[float | None], model: str) -> None:
    records = [film() if age is None else film(age=age) for age in ages]
    assert shipped_for(records) == model


def test_children_and_adults_are_not_scored_together() -> None:
    with pytest.raises(UserError, match="under 10 years and of others"):
        shipped_for([film(age=4), film(age=40)])


def test_a_row_says_where_the_model_saw_no_such_age() -> None:
    assert about_age("adult", film(age=40)) == ()
    assert about_age("paediatric", film(age=5.5)) == ()
    assert "fitted on 16 to 120" in about_age("adult", film(age=12))[0]
    assert "fitted on 1 to 5" in about_age("paediatric", film(age=0.2))[0]
    assert "unknown" in about_age("adult", film())[0]
    assert about_age("somebody/model", film(age=300)) == ()


def test_all_weights_are_small_and_are_those_of_their_cards() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) <= 20 * 10**6
    backbone = hashlib.sha256((WEIGHTS / "chest.safetensors").read_bytes()).hexdigest()
    assert backbone in (WEIGHTS / "README.md").read_text()
    for name in SHIPPED:
        card = (WEIGHTS / name / "README.md").read_text()
        model = load_model(model_folder(name))
        assert model.sha256 in card
        assert backbone in card
        assert "Not a medical device" in card and "acknowledgements" in card
        assert len(model.calibration[1]) >= 19


def test_a_film_is_scored_without_a_model(tmp_path: Path) -> None:
    path = real_film()
    if path is None:
        pytest.skip("pydicom-data is not installed")
    out = tmp_path / "one"
    rows = score([str(path)], ScoreOptions(out=out, ehr=["age=60"], cache=tmp_path / "cache"))
    assert 0 < float(rows[0]["p_value"]) <= 1
    run = json.loads((out / "run.json").read_text())
    assert run["model"] == "adult"
    assert run["gflop"] < 10
    assert (out / "maps" / f"{rows[0]['image_id']}.png").is_file()
    child = score(
        [str(path)], ScoreOptions(out=tmp_path / "two", ehr=["age=3"], cache=tmp_path / "cache")
    )
    assert child[0]["score"] != rows[0]["score"]
    assert json.loads((tmp_path / "two" / "run.json").read_text())["model"] == "paediatric"


def test_an_absent_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "film.png"
    picture.write_bytes(b"")
    assert main(["score", str(picture), "--model", "grown-up", "--out", str(tmp_path / "o")]) == 2
    assert "--model grown-up" in capsys.readouterr().err
