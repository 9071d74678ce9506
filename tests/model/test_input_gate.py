"""The input gate, the drift test and the kinds of calibration, as a user meets them."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets.phantom import PHANTOM
from nofinding.evaluation.statistics.stratum import Stratum, age_band_of
from nofinding.model.input_gate import one_a_patient
from nofinding.storage.checkpoint import load
from nofinding.types import Exam
from support.tables import Rows, write_table

Refused = Callable[..., str]
SCORE = ["--no-maps"]


def run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


def scores_in(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def run_json(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    """A cohort that is large enough for a gate, in its folder, and the rows of its table."""
    folder = tmp_path_factory.mktemp("gated")
    rows = []
    text = "train=56,val=40,test=36,abnormal=3,kinds=mass+effusion,size=64"
    for exam in PHANTOM.read(text, FIELDS):
        path = folder / f"{exam.image_id}.png"
        Image.fromarray((exam.pixels() * 255).astype(np.uint8)).save(path)
        sex = FIELDS["sex"].categories[int(exam.ehr["sex"])]
        rows.append(
            {
                "image_id": exam.image_id, "path": str(path), "patient_id": exam.patient_id,
                "sex": sex, "age": f"{exam.ehr['age']:g}", "view": exam.view or "",
                "findings": "|".join(sorted(exam.findings or ())), "split": exam.split or "",
            }
        )  # fmt: skip
    return folder, rows


@pytest.fixture(scope="module")
def model(gated: tuple[Path, Rows]) -> Path:
    folder, rows = gated
    films = write_table(folder / "films.csv", rows)
    run("fit", "thumbnail", "--films", films, "--out", folder / "m", "--threads", 1)
    return folder / "m"


@pytest.fixture
def spoilt(gated: tuple[Path, Rows], tmp_path: Path) -> str:
    """The test films, of which one normal and one abnormal stand on their heads."""
    rows = [dict(row) for row in gated[1] if row["split"] == "test"]
    for i in (0, -1):
        film = Image.open(rows[i]["path"]).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        film.save(tmp_path / f"{i}.png")
        rows[i]["path"] = str(tmp_path / f"{i}.png")
    assert not rows[0]["findings"] and rows[-1]["findings"]
    return write_table(tmp_path / "spoilt.csv", rows)


def test_refused_films_keep_their_row_and_no_score(
    model: Path, spoilt: str, gated: tuple[Path, Rows], tmp_path: Path
) -> None:
    run("score", "--model", model, "--films", spoilt, *SCORE, "--out", tmp_path / "s")
    scores = scores_in(tmp_path / "s")
    test = [row["image_id"] for row in gated[1] if row["split"] == "test"]
    assert list(scores) == sorted(test)
    refused = [i for i, row in scores.items() if "refused: it stands on its head" in row["flags"]]
    assert refused == sorted([test[0], test[-1]])
    for image_id, row in scores.items():
        assert bool(row["score"]) == bool(row["p_value"]) == (image_id not in refused)
    metadata = run_json(tmp_path / "s")
    assert metadata["n"] == len(test) - 2 and metadata["gate"]["refused"] == 2
    assert metadata["gate"]["sha256"] == load(model / "gate")[1]["sha256"]


def test_evaluation_counts_the_refused_by_class(model: Path, spoilt: str, tmp_path: Path) -> None:
    run("score", "--model", model, "--films", spoilt, *SCORE, "--out", tmp_path / "s")
    run(
        "evaluate", "--scores", tmp_path / "s" / "scores.csv", "--films", spoilt,
        "--out", tmp_path / "r", "--baselines", "none", "--bootstrap", 100,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert metrics["films"]["normal"] == 35 and metrics["films"]["abnormal"] == 5
    assert metrics["films"]["unscored"] == metrics["films"]["unlabelled"] == 0
    assert [metrics["refused"]["normal"][k] for k in ("k", "n")] == [1, 36]
    assert [metrics["refused"]["abnormal"][k] for k in ("k", "n")] == [1, 6]
    note = "refused 1 of 36 normal films (2.8 %, 95 % interval 0.1 to 14.5)"
    assert note in (tmp_path / "r" / "report.html").read_text()


def test_an_empty_score_without_refusal_is_still_an_error(
    model: Path, spoilt: str, tmp_path: Path, refused: Refused
) -> None:
    run("score", "--model", model, "--films", spoilt, *SCORE, "--out", tmp_path / "s")
    file = tmp_path / "s" / "scores.csv"
    file.write_text(file.read_text().replace("refused:", "gate:"))
    line = refused("evaluate", "--scores", file, "--films", spoilt, "--out", tmp_path / "r")
    assert "score is ''" in line


def test_a_single_film_is_refused_with_the_reason(
    model: Path, gated: tuple[Path, Rows], tmp_path: Path, refused: Refused
) -> None:
    Image.open(gated[1][0]["path"]).rotate(180).save(tmp_path / "turned.png")
    line = refused("score", "--model", model, tmp_path / "turned.png", "--out", tmp_path / "s")
    assert "'turned' stands on its head" in line and "--gate flag" in line
    assert not (tmp_path / "s").exists()
    run("score", "--model", model, tmp_path / "turned.png", "--gate", "flag", "--out",
        tmp_path / "s")  # fmt: skip
    row = scores_in(tmp_path / "s")["turned"]
    assert row["score"] and "gate: it stands on its head" in row["flags"]
    run("score", "--model", model, tmp_path / "turned.png", "--gate", "off", "--out",
        tmp_path / "t")  # fmt: skip
    again = scores_in(tmp_path / "t")["turned"]
    assert again["score"] == row["score"]
    assert again["flags"].startswith("p-value: p <= 1/") and "gate" not in again["flags"]


def test_where_every_film_is_refused_nothing_is_written(
    model: Path, spoilt: str, tmp_path: Path, refused: Refused
) -> None:
    file = Path(spoilt.removeprefix("table:"))
    header, first, *_, last = file.read_text().splitlines()
    file.write_text("\n".join([header, first, last]) + "\n")
    line = refused("score", "--model", model, "--films", spoilt, "--out", tmp_path / "s")
    assert "all 2 films are refused" in line
    assert not (tmp_path / "s").exists()


def test_a_model_whose_gate_is_gone_or_another_is_refused(
    model: Path, spoilt: str, tmp_path: Path, refused: Refused
) -> None:
    broken = tmp_path / "m"
    shutil.copytree(model, broken)
    (broken / "gate.json").unlink()
    score = ["score", "--model", broken, "--films", spoilt, *SCORE, "--out", tmp_path / "s"]
    assert "gate.json" in refused(*score)
    shutil.copy(model / "gate.json", broken / "gate.json")
    (broken / "gate.safetensors").write_bytes(b"something else")
    assert "gate.safetensors: damaged" in refused(*score)
    run(*score, "--gate", "off")


def test_a_model_without_a_gate_scores_everything_and_says_so(
    gated: tuple[Path, Rows], spoilt: str, tmp_path: Path
) -> None:
    films = write_table(tmp_path / "films.csv", gated[1])
    run("fit", "thumbnail", "--films", films, "--gate", "none", "--out", tmp_path / "m")
    assert not (tmp_path / "m" / "gate.json").exists()
    run("score", "--model", tmp_path / "m", "--films", spoilt, *SCORE, "--out", tmp_path / "s")
    assert all(row["score"] for row in scores_in(tmp_path / "s").values())
    metadata = run_json(tmp_path / "s")
    assert "no input gate" in metadata["gate"]["note"] and not metadata["drift"]["tested"]
    # a gate fitted alone may stand in
    run("fit-gate", "--films", films, "--out", tmp_path / "g", "--threads", 1)
    run("score", "--model", tmp_path / "m", "--films", spoilt, *SCORE, "--gate-from",
        tmp_path / "g", "--out", tmp_path / "t")  # fmt: skip
    assert sum(not row["score"] for row in scores_in(tmp_path / "t").values()) == 2
    assert run_json(tmp_path / "t")["gate"]["sha256"] == load(tmp_path / "g" / "gate")[1]["sha256"]


def test_drift_is_tested_and_told(
    model: Path, gated: tuple[Path, Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [dict(r) for r in gated[1] if r["split"] == "test" and not r["findings"]]
    films = write_table(tmp_path / "same.csv", rows)
    run("score", "--model", model, "--films", films, *SCORE, "--out", tmp_path / "s")
    drift = run_json(tmp_path / "s")["drift"]
    assert drift["tested"] and drift["p"] > 0.01 and drift["line"] is None
    assert drift["n"] == 36 and drift["n_reference"] == 40
    for row in rows:  # another machine: darker and blurred
        dark = Image.open(row["path"]).resize((24, 24)).resize((64, 64)).point(lambda v: 0.7 * v)
        row["path"] = str(tmp_path / f"{row['image_id']}.png")
        dark.save(row["path"])
    films = write_table(tmp_path / "other.csv", rows)
    capsys.readouterr()
    run("score", "--model", model, "--films", films, *SCORE, "--gate", "flag", "--out",
        tmp_path / "t")  # fmt: skip
    drift = run_json(tmp_path / "t")["drift"]
    assert drift["alarming"] and drift["p"] == 0.001
    assert "look unlike those it was fitted on (drift p = 0.001" in capsys.readouterr().err


def test_too_few_films_are_not_tested_for_drift(
    model: Path, gated: tuple[Path, Rows], tmp_path: Path
) -> None:
    film = next(row["path"] for row in gated[1] if row["split"] == "test")
    run("score", "--model", model, film, "--out", tmp_path / "s")
    drift = run_json(tmp_path / "s")["drift"]
    assert drift == {"tested": False, "why": "1 patients among the scored films, 30 are needed"}


def test_a_patient_counts_once_for_drift() -> None:
    exams = [
        Exam(image_id=f"{p}-{i}", patient_id=p, pixels=np.zeros, ehr={})
        for p in ("a", "b", "c")
        for i in range(3)
    ]
    rows = one_a_patient(exams)
    assert sorted(exams[i].patient_id for i in rows) == ["a", "b", "c"]
    turned = one_a_patient(exams[::-1])  # which film it is does not depend on the order
    assert {exams[i].image_id for i in rows} == {exams[::-1][i].image_id for i in turned}


def test_the_model_remembers_bands_and_no_age(model: Path, gated: tuple[Path, Rows]) -> None:
    stored = load(model / "model")[1]["calibration"]
    assert set(stored) == {"from", "scores", "ids", "sex", "view", "age", "partition"}
    assert set(stored["age"]) <= {"0-17", "18-39", "40-59", "60+"}
    val = [row for row in gated[1] if row["split"] == "val"]
    assert sorted(stored["sex"]) == sorted(row["sex"] for row in val)


def test_mondrian_says_which_stratum(model: Path, gated: tuple[Path, Rows], tmp_path: Path) -> None:
    films = f"table:{gated[0] / 'films.csv'}"
    run("score", "--model", model, "--films", films, "--split", "test", *SCORE,
        "--calibration", "mondrian", "--out", tmp_path / "s")  # fmt: skip
    stored = load(model / "model")[1]["calibration"]
    values, strata = np.array(stored["scores"]), Stratum.from_meta(stored)
    assert strata is not None
    cells = [{Stratum(*row) for row in cell} for cell in stored["partition"]["cells"]]
    by_id = {row["image_id"]: row for row in gated[1]}
    scores = scores_in(tmp_path / "s")
    assert len({row["stratum"] for row in scores.values()}) > 1
    for image_id, row in scores.items():
        film = by_id[image_id]
        own = Stratum(film["sex"], film["view"], age_band_of(float(film["age"])))
        of = [cell for cell in cells if own in cell] or cells
        within = [np.array([s in cell for s in strata]) for cell in of]
        assert all(members.sum() >= 19 for members in within)
        at_least = [(values[members] >= float(row["score"])).sum() for members in within]
        p = max((1 + k) / (1 + m.sum()) for k, m in zip(at_least, within, strict=True))
        assert float(row["p_value"]) == pytest.approx(p, 1e-4)
        beyond = len(of) == 1 and at_least[0] == 0
        assert (f"beyond all {within[0].sum()} calibration films" in row["flags"]) == beyond
    assert sum(run_json(tmp_path / "s")["strata"].values()) == len(scores)


def test_weighted_needs_films_and_a_record(
    model: Path, gated: tuple[Path, Rows], tmp_path: Path, refused: Refused
) -> None:
    films = f"table:{gated[0] / 'films.csv'}"
    score = ["score", "--model", model, *SCORE, "--calibration", "weighted", "--out"]
    line = refused(*score, tmp_path / "s", "--films", films, "--split", "test")
    assert "42 films scored; it takes 50 or more" in line
    line = refused(*score, tmp_path / "s", "--films", films)
    assert "40 films of calibration; it takes 50 or more" in line


def test_few_calibration_films_are_said_to_be_too_few(
    gated: tuple[Path, Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = [row for row in gated[1] if row["split"] == "val"]
    fewer = [row for row in gated[1] if row not in val[8:]]
    films = write_table(tmp_path / "t.csv", fewer)
    run("fit", "thumbnail", "--films", films, "--gate", "none", "--out", tmp_path / "m")
    run("score", "--model", tmp_path / "m", "--films", films, "--split", "test", *SCORE,
        "--out", tmp_path / "s")  # fmt: skip
    assert (
        "8 calibration films are too few for p <= 0.05, which takes 19" in capsys.readouterr().err
    )
    assert "too few" in run_json(tmp_path / "s")["calibration_warning"]


def test_weighted_end_to_end(
    gated: tuple[Path, Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train films as test films, so that both sides have 50; the record shifts to men."""
    rows = [dict(row) for row in gated[1]]
    for row in rows:
        row["split"] = {"train": "val", "val": "train"}.get(row["split"], "test")
    films = write_table(tmp_path / "t.csv", rows)
    run("fit", "thumbnail", "--films", films, "--gate", "none", "--out", tmp_path / "m")
    judged = [row for row in rows if row["split"] != "train" and row["sex"] == "M"][:60]
    judged += [row for row in rows if row["split"] == "test" and row["sex"] == "F"][:10]
    shifted = write_table(tmp_path / "s.csv", judged)
    run("score", "--model", tmp_path / "m", "--films", shifted, *SCORE,
        "--calibration", "weighted", "--out", tmp_path / "s")  # fmt: skip
    metadata = run_json(tmp_path / "s")
    assert 10 < metadata["calibration_effective_n"] < 55 and metadata["calibration"] == "weighted"
    run("score", "--model", tmp_path / "m", "--films", shifted, *SCORE, "--out", tmp_path / "p")
    weighted, plain = scores_in(tmp_path / "s"), scores_in(tmp_path / "p")
    assert any(weighted[i]["p_value"] != plain[i]["p_value"] for i in plain)
    assert all(weighted[i]["score"] == plain[i]["score"] for i in plain)
