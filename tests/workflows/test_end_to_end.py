"""fit, score, evaluate and import-official as a user runs them."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nofinding.cli import main
from nofinding.storage.checkpoint import load
from support.tables import Rows, write_table

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("NOFINDING_GOLDEN", ROOT.parent / "shared" / "golden"))


def scores_in(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


@pytest.fixture(scope="module")
def scored(cohort: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "s"
    films = f"table:{cohort / 'films.csv'}"
    run("score", "--model", model, "--films", films, "--split", "test", "--out", out)
    return out


def test_scores_are_sorted_complete_and_without_a_label(scored: Path, rows: Rows) -> None:
    scores = scores_in(scored)
    test = sorted(r["image_id"] for r in rows if r["split"] == "test")
    assert list(scores) == test
    first = scores[test[0]]
    assert {"score", "p_value", "mse", "max_abs", "norm_mse", "norm_max_abs", "ssim"} < set(first)
    assert {"attention.age", "attention.sex", "attention.view", "attention.bmi"} < set(first)
    text = (scored / "scores.csv").read_text() + (scored / "run.json").read_text()
    assert "findings" not in text and "mass" not in text and "effusion" not in text


def test_maps_and_pseudo_healthy_films_lie_beside_them(scored: Path) -> None:
    for image_id in scores_in(scored):
        map_ = np.load(scored / "maps" / f"{image_id}.npy")
        normal = np.load(scored / "normal" / f"{image_id}.npy")
        assert map_.shape == normal.shape == (32, 32)
        assert map_.min() >= 0 and normal.min() >= 0 and normal.max() <= 1
        assert (scored / "maps" / f"{image_id}.png").stat().st_size > 100


def test_p_value_is_conformal_against_the_stored_normals(scored: Path, model: Path) -> None:
    _, meta = load(model / "model")
    calibration = np.array(meta["calibration"]["scores"])
    assert len(calibration) == 8
    for row in scores_in(scored).values():
        at_least = (calibration >= float(row["score"])).sum()
        assert float(row["p_value"]) == pytest.approx((1 + at_least) / 9, abs=1e-5)


def test_run_json_says_what_it_took(scored: Path, model: Path) -> None:
    run_json = json.loads((scored / "run.json").read_text())
    assert run_json["model_sha256"] == load(model / "model")[1]["sha256"]
    assert run_json["network_calls"] == 6
    assert run_json["gflop"] > 0.01
    assert run_json["supervision"] == "normal-only"
    assert run_json["calibration_n"] == 8


@pytest.mark.parametrize("batch_size", [1, 5])
def test_no_score_depends_on_batch_or_order(
    cohort: Path, rows: Rows, model: Path, scored: Path, tmp_path: Path, batch_size: int
) -> None:
    shuffled = [{**r, "path": str(cohort / r["path"])} for r in rows[::-1]]
    films = write_table(tmp_path / "reversed.csv", shuffled)
    run(
        "score", "--model", model, "--films", films, "--split", "test",
        "--batch-size", batch_size, "--no-maps", "--out", tmp_path / "s",
    )  # fmt: skip
    before, after = scores_in(scored), scores_in(tmp_path / "s")
    assert list(before) == list(after)
    for image_id, row in before.items():
        for name, value in row.items():
            if name not in ("image_id", "flags"):
                assert float(after[image_id][name]) == pytest.approx(float(value), rel=1e-5), name
    assert not (tmp_path / "s" / "maps").exists()


def test_report_is_written(cohort: Path, scored: Path, tmp_path: Path) -> None:
    films = f"table:{cohort / 'films.csv'}"
    run(
        "evaluate", "--scores", scored / "scores.csv", "--films", films, "--out", tmp_path / "r",
        "--baselines", "none", "--bootstrap", 200,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert "auroc" in json.dumps(metrics)
    assert "<html" in (tmp_path / "r" / "report.html").read_text()


def test_films_trained_on_are_flagged_and_never_evaluated(
    cohort: Path, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    films = f"table:{cohort / 'films.csv'}"
    run("score", "--model", model, "--films", films, "--no-maps", "--out", tmp_path / "s")
    scores = scores_in(tmp_path / "s")
    assert sum("trained on it" in row["flags"] for row in scores.values()) == 16
    assert sum("calibrates" in row["flags"] for row in scores.values()) == 8
    line = refused(
        "evaluate", "--scores", tmp_path / "s" / "scores.csv", "--films", films,
        "--out", tmp_path / "r",
    )  # fmt: skip
    assert "trained on 16 of the 36 films" in line
    assert not (tmp_path / "r").exists()


def test_single_files_with_any_part_of_a_record(
    cohort: Path, rows: Rows, model: Path, tmp_path: Path
) -> None:
    film = cohort / rows[-1]["path"]
    by_record = {}
    for name, ehr in {
        "none": [],
        "age": ["--ehr", "age=63"],
        "all": ["--ehr", "age=63", "sex=M", "view=PA", "bmi=31"],
        "bad": ["--ehr", "age=300"],
    }.items():
        run("score", "--model", model, film, *ehr, "--out", tmp_path / name)
        by_record[name] = next(iter(scores_in(tmp_path / name).values()))
    assert by_record["none"]["score"] != by_record["age"]["score"] != by_record["all"]["score"]
    assert by_record["bad"]["score"] == by_record["none"]["score"]
    assert "age: 300" in by_record["bad"]["flags"]
    assert float(by_record["age"]["attention.age"]) == 1


def test_no_record_at_all_fits_and_scores(cohort: Path, rows: Rows, tmp_path: Path) -> None:
    bare = [
        {**r, "path": str(cohort / r["path"]), "sex": "", "age": "", "view": "", "bmi": ""}
        for r in rows
    ]
    films = write_table(tmp_path / "bare.csv", bare)
    run("fit", "diff3m", "--preset", "tiny", "--films", films, "--out", tmp_path / "m")
    run("score", "--model", tmp_path / "m", "--films", films, "--split", "test",
        "--out", tmp_path / "s")  # fmt: skip
    assert not any("attention" in name for name in next(iter(scores_in(tmp_path / "s").values())))


def test_fit_is_repeatable_and_resume_of_a_finished_one_returns(
    cohort: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = f"table:{cohort / 'films.csv'}"
    fit = ["fit", "diff3m", "--preset", "tiny", "--films", films, "--out", tmp_path / "m"]
    run(*fit)
    assert load(tmp_path / "m" / "model")[1]["sha256"] == load(model / "model")[1]["sha256"]
    run(*fit, "--resume")
    assert "finished already" in capsys.readouterr().err
    for changed, named in (
        (["--seed", "3"], "seed was 0, now 3"),
        (["--aspect", "squash"], 'aspect was "pad", now "squash"'),
        (["--method.train.steps", "3"], "config.train.steps was"),
        (["--fields", "age"], "fields was"),
    ):
        assert main([*map(str, fit), "--resume", *changed]) == 2
        said = capsys.readouterr().err
        assert "holds the finished model of another run" in said and named in said
    assert load(tmp_path / "m" / "model")[1]["sha256"] == load(model / "model")[1]["sha256"]


def test_preset_may_stand_in_the_config_file(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fit.yaml").write_text("preset: tiny-ddpm\nmethod:\n  noise_level: 4\n")
    with pytest.raises(SystemExit):
        main(
            ["fit", "diff3m", "--config", str(tmp_path / "fit.yaml"), "--films", "phantom:",
             "--out", str(tmp_path / "m"), "--print_config"]
        )  # fmt: skip
    shown = capsys.readouterr().out
    assert "image_size: 32" in shown and "regenerate: false" in shown and "noise_level: 4" in shown


def test_calibration_can_come_from_training_patients(cohort: Path, tmp_path: Path) -> None:
    films = f"table:{cohort / 'films.csv'}"
    run("fit", "thumbnail", "--films", films, "--calibrate", "train", "--out", tmp_path / "m")
    _, meta = load(tmp_path / "m" / "model")
    assert meta["counts"] == {"train normals": 14, "calibration normals": 2}
    assert len(meta["training_pixels"]) == 14


@pytest.mark.skipif(not any(GOLDEN.glob("*.weights.*")), reason=f"no golden numbers in {GOLDEN}")
def test_published_checkpoint_scores_films(cohort: Path, tmp_path: Path) -> None:
    weights = sorted(GOLDEN.glob("*.weights.safetensors"))[0]
    run("import-official", weights, "--out", tmp_path / "m", "--noise-level", 3)
    assert load(tmp_path / "m" / "model")[1]["config"]["variant"] == "program"
    films = f"table:{cohort / 'films.csv'}"
    run("score", "--model", tmp_path / "m", "--films", films, "--split", "test",
        "--out", tmp_path / "s")  # fmt: skip
    row = next(iter(scores_in(tmp_path / "s").values()))
    demographics = sum(float(row[f"attention.{n}"]) for n in ("age", "sex", "view"))
    assert demographics == pytest.approx(1, abs=1e-5)
    assert "attention.bmi" not in row  # no statistics for it: masked
    assert row["p_value"] == ""
