"""Films with synthetic anomalies go through fit, score and evaluate like any others."""

import csv
import json
from pathlib import Path

import pytest

from nofinding.cli import main

FILMS = "synthetic:kinds=cutpaste+opacity,share=0.6:phantom:train=12,val=36,test=0,size=32"


def run(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    model, scores = folder / "m", folder / "s"
    ae = ("ae", "--preset", "tiny", "--calibrate", "none", "--gate", "none")
    run("fit", *ae, "--films", FILMS, "--out", model)
    run(
        "score", "--model", model, "--films", FILMS, "--split", "val", "--gate", "off",
        "--out", scores,
    )  # fmt: skip
    return scores


def test_the_report_has_pixel_metrics_and_a_row_for_each_kind(scored: Path, tmp_path: Path) -> None:
    run(
        "evaluate", "--scores", scored / "scores.csv", "--films", FILMS, "--out", tmp_path / "r",
        "--baselines", "none", "--bootstrap", 100,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    pixels = metrics["pixels"]
    for name in ("pixel_auroc", "aupro", "best_dice"):
        assert 0 < pixels["estimates"][name]["value"] < 1
    assert pixels["lesion_films"] == 22 and pixels["normal_films"] == 14
    assert {g["name"] for g in metrics["findings"]} == {"synthetic cutpaste", "synthetic opacity"}
    assert metrics["phantom"]
    assert "synthetic opacity" in (tmp_path / "r" / "report.html").read_text()


def test_nothing_in_the_scores_tells_which_films_were_changed(scored: Path) -> None:
    with (scored / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [f"phantom-{n:06d}" for n in range(12, 48)]
    assert {row["flags"] for row in rows} == {"film: a phantom, simulated"}
