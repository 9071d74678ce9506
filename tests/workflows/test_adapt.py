"""adapt, as a user meets it: a model for one hospital, with its provenance, or one line why not."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets.phantom import PHANTOM
from nofinding.model.bundle import load_model
from support.tables import Rows, write_table

Refused = Callable[..., str]


def run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


def folder_of(folder: Path, text: str, brighter: float) -> Rows:
    """Phantoms as a hospital's films: greys are raised by `brighter`."""
    folder.mkdir(exist_ok=True)
    rows = []
    for exam in PHANTOM.read(text, FIELDS):
        path = folder / f"{exam.image_id}.png"
        film = np.clip(exam.pixels() * (1 - brighter) + brighter, 0, 1)
        Image.fromarray((film * 255).astype(np.uint8)).save(path)
        rows.append(
            {
                "image_id": f"{folder.name}-{exam.image_id}", "path": str(path),
                "patient_id": f"{folder.name}-{exam.patient_id}",
                "findings": "|".join(sorted(exam.findings or ())), "split": exam.split or "",
            }
        )  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Rows]:
    """(a folder, a model that was fitted elsewhere, the films of this hospital)."""
    folder = tmp_path_factory.mktemp("adapt")
    away = folder_of(folder / "away", "train=50,val=40,test=0,abnormal=0,size=64,seed=1", 0)
    films = write_table(folder / "away.csv", away)
    run("fit", "thumbnail", "--films", films, "--out", folder / "m", "--threads", 1)
    text = "train=60,val=40,test=0,abnormal=0,size=64,seed=2"
    return folder, folder / "m", folder_of(folder / "here", text, 0.35)


def called(model: Path, films: str, out: Path) -> float:
    run("score", "--model", model, "--films", films, "--out", out, "--no-maps",
        "--gate", "off", "--split", "val", "--missing-fields", "mask")  # fmt: skip
    with (out / "scores.csv").open(newline="") as file:
        p = [float(row["p_value"]) for row in csv.DictReader(file)]
    return sum(value <= 0.05 for value in p) / len(p)


@pytest.mark.parametrize("mode", ["--normal-only", "--unlabelled"])
def test_normal_films_of_this_hospital_are_no_longer_called(
    here: tuple[Path, Path, Rows], tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model, rows = here
    films = write_table(tmp_path / "films.csv", rows)
    assert called(model, films, tmp_path / "before") > 0.5
    out = tmp_path / "adapted"
    run("adapt", "--model", model, "--films", films, "--split", "train", mode, "--out", out)
    output = capsys.readouterr().err
    assert "drift before adapting" in output and "drift after adapting" in output
    assert called(out, films, tmp_path / "after") <= 0.12
    adapted = load_model(out)
    about = adapted.meta["adapted"]
    assert about["base_sha256"] == load_model(model).sha256
    assert about["films"] == 60 and about["drift"]["before"]["p"] <= 0.01
    card = (out / "README.md").read_text()
    assert about["base_sha256"] in card and "Adapted to: 60" in card
    assert ("inferred" in output and "inferred" in card) == (mode == "--unlabelled")
    assert (set(adapted.calibration[1]) & set(load_model(model).calibration[1])) == set()


def test_diff3m_f_moves_its_features(here: tuple[Path, Path, Rows], tmp_path: Path) -> None:
    folder, _, rows = here
    with (folder / "away.csv").open(newline="") as file:
        away = list(csv.DictReader(file))
    films = write_table(tmp_path / "away.csv", away[:24] + away[50:74])
    run("fit", "diff3m-f", "--preset", "tiny", "--films", films, "--out", tmp_path / "m",
        "--gate", "none")  # fmt: skip
    local = write_table(tmp_path / "here.csv", rows[:24])
    run("adapt", "--model", tmp_path / "m", "--films", local, "--normal-only", "--out",
        tmp_path / "a")  # fmt: skip
    old, new = load_model(tmp_path / "m"), load_model(tmp_path / "a")
    assert new.meta["adapted"]["moved"] == "features, scales, p-values"
    before, after = old.detector.state(), new.detector.state()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved >= {"gaussian.texture.mean", "scale.texture.mean"}
    assert not any(name.startswith(("repair", "whitening")) for name in moved)


def test_what_cannot_be_adapted_to_is_refused_in_a_line(
    here: tuple[Path, Path, Rows], tmp_path: Path, refused: Refused
) -> None:
    _, model, rows = here
    films = write_table(tmp_path / "films.csv", rows[:19])
    start = ["adapt", "--model", str(model), "--out", str(tmp_path / "o"), "--films", films]
    assert "--normal-only" in refused(*start)
    assert "normal films of 19 patients, 20 are needed" in refused(*start, "--normal-only")
    assert "50 are needed" in refused(*start, "--unlabelled")
    assert "0.6" in refused(*start, "--unlabelled", "--abnormal-at-most", "0.8")
    assert not (tmp_path / "o").exists()
    assert "not an empty folder" in refused(*start[:3], "--out", str(model), *start[5:],
                                            "--normal-only")  # fmt: skip


def test_films_that_it_was_fitted_on_are_refused(
    here: tuple[Path, Path, Rows], tmp_path: Path, refused: Refused
) -> None:
    folder, model, _ = here
    films = f"table:{folder / 'away.csv'}"
    message = refused("adapt", "--model", str(model), "--films", films, "--split", "train",
                   "--normal-only", "--out", str(tmp_path / "o"))  # fmt: skip
    assert "pixels of a training film" in message


def test_only_one_film_of_a_patient_counts_and_findings_are_left_out(
    here: tuple[Path, Path, Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model, rows = here
    rows = [dict(row) for row in rows[:30]]
    rows[0]["findings"] = "Mass"
    rows[1]["patient_id"] = rows[2]["patient_id"]
    films = write_table(tmp_path / "films.csv", rows)
    run("adapt", "--model", model, "--films", films, "--normal-only", "--out", tmp_path / "o")
    output = capsys.readouterr().err
    assert "1 with a finding" in output and "1 further films of the same patients" in output
    assert json.loads((tmp_path / "o" / "model.json").read_text())["adapted"]["films"] == 28
