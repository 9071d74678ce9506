"""`nofinding twins`, and the commands that refuse twins of what they learn from."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nofinding.cli import main
from nofinding.data.decoding.decode import FilmFile
from nofinding.evaluation.flags import TRAINED_ON, TWIN_CALIBRATES, TWIN_TRAINED
from support.clothes import CLOTHES, Film, film
from support.tables import write_table

Refused = Callable[..., str]
CLOTHED = "are altered copies of training films (twins), for example image_id 'worn' of 't1'"
PLAIN = 6  # films of split train, each with a patient of its own


def table(folder: Path, films: list[tuple[str, Film, str, str]]) -> Path:
    """(image_id, film, findings, split) as PNG files with a table."""
    folder.mkdir()
    rows = []
    for name, image, findings, split in films:
        Image.fromarray(np.uint8(image * 255 + 0.5)).save(folder / f"{name}.png")
        rows.append(
            {
                "image_id": name,
                "path": f"{name}.png",
                "patient_id": f"p-{name}",
                "findings": findings,
                "split": split,
            }
        )
    write_table(folder / "films.csv", rows)
    return folder / "films.csv"


def train(count: int = PLAIN) -> list[tuple[str, Film, str, str]]:
    return [(f"t{seed}", film(seed), "", "train") for seed in range(count)]


def val(*seeds: int) -> list[tuple[str, Film, str, str]]:
    return [(f"v{seed}", film(seed), "", "val") for seed in seeds]


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    worn = ("worn", CLOTHES["masked, inverted"](1), "", "val")
    return table(tmp_path / "leaking", [*train(), *val(20, 21), worn])


def fit(films: Path, out: Path, *more: str) -> list[str]:
    return ["fit", "mean-grey", "--films", f"table:{films}", "--out", str(out), *more]


def listed(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_twins_between_sources_are_listed_and_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = table(tmp_path / "one", train())
    other = table(tmp_path / "other", [("x", CLOTHES["mirrored"](2), "", "train"), *val(30)])
    command = ["twins", f"table:{one}", f"table:{other}", "--pairs", "sources", "--out"]
    assert main([*command, str(tmp_path / "twins.csv")]) == 0
    (row,) = listed(tmp_path / "twins.csv")
    assert (row["first"], row["second"]) == ("t2", "x")
    assert (row["mirrored"], row["inverted"], row["same_patient"]) == ("yes", "no", "no")
    monkeypatch.setattr(FilmFile, "__call__", None)  # from here on nothing can be decoded
    assert main([*command, str(tmp_path / "again.csv")]) == 0
    assert listed(tmp_path / "again.csv") == [row]


def test_the_list_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = table(tmp_path / "one", train(2))
    (tmp_path / "twins.csv").write_text("mine")
    assert main(["twins", f"table:{films}", "--out", str(tmp_path / "twins.csv")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "twins.csv").read_text() == "mine"


def test_fit_refuses_a_calibration_film_that_is_a_training_film_in_other_clothes(
    leaking: Path, tmp_path: Path, refused: Refused
) -> None:
    line = refused(*fit(leaking, tmp_path / "model"))
    assert f"1 of 3 calibration films {CLOTHED}" in line
    assert "--twins report" in line
    assert not (tmp_path / "model").exists()


def test_fit_reports_twins_where_that_is_asked_for_or_does_not_look(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit(leaking, tmp_path / "model", "--twins", "report")) == 0
    assert f"1 of 3 calibration films {CLOTHED}" in capsys.readouterr().err
    (row,) = listed(tmp_path / "model" / "twins.csv")
    assert (row["first"], row["second"]) == ("worn", "t1")
    assert (row["first_part"], row["second_part"]) == ("calibration", "training")
    assert (row["inverted"], row["same_patient"]) == ("yes", "no")
    meta = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (meta["twins"]["check"], meta["twins"]["pairs"]) == ("report", 1)
    assert main(fit(leaking, tmp_path / "unseen", "--twins", "skip")) == 0
    assert {file.name for file in (tmp_path / "unseen").iterdir()}.isdisjoint(
        {"twins.csv", "twins.safetensors"}
    )


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    films = table(tmp_path / "apart", [*train(), *val(20, 21)])
    assert main(fit(films, tmp_path / "fitted")) == 0
    return tmp_path / "fitted"


def judged(folder: Path) -> Path:
    """Six films of split test; two are altered copies of films that `fitted` was fitted on."""
    return table(
        folder,
        [
            ("learnt", CLOTHES["masked, inverted"](1), "nodule", "test"),
            ("calibrating", CLOTHES["mirrored"](20), "", "test"),
            *((f"s{seed}", film(seed), "nodule" if seed % 2 else "", "test")
              for seed in range(40, 44)),
        ],
    )  # fmt: skip


def scored(model: Path, films: Path, out: Path, *more: str) -> dict[str, str]:
    command = ["score", "--model", str(model), "--films", f"table:{films}", "--out", str(out)]
    assert main([*command, "--no-maps", "--gate", "off", *more]) == 0
    return {row["image_id"]: row["flags"] for row in listed(out / "scores.csv")}


def test_score_flags_what_the_model_was_fitted_on_in_other_clothes(
    fitted: Path, tmp_path: Path
) -> None:
    flags = scored(fitted, judged(tmp_path / "judged"), tmp_path / "scores")
    assert TWIN_TRAINED in flags.pop("learnt")
    assert TWIN_CALIBRATES in flags.pop("calibrating")
    assert not any("twin" in text for text in flags.values())


def test_a_film_is_no_twin_of_itself(fitted: Path, tmp_path: Path) -> None:
    films = table(tmp_path / "same", [*train(), *val(20, 21), ("s", film(40), "nodule", "val")])
    flags = scored(fitted, films, tmp_path / "all")
    assert TRAINED_ON in flags["t1"] and "calibrates" in flags["v20"]
    assert not any("twin" in text for text in flags.values())
    scored(fitted, films, tmp_path / "val", "--split", "val")
    command = ["evaluate", "--scores", str(tmp_path / "val" / "scores.csv"), "--films",
               f"table:{films}", "--baselines", "none", "--bootstrap", "100"]  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "report")]) == 0


def test_evaluate_refuses_or_reports_films_flagged_as_twins(
    fitted: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    films = judged(tmp_path / "judged")
    scored(fitted, films, tmp_path / "scores")
    command = [
        "evaluate", "--scores", str(tmp_path / "scores" / "scores.csv"), "--films",
        f"table:{films}", "--baselines", "none", "--bootstrap", "100", "--out",
    ]  # fmt: skip
    line = refused(*[*command, str(tmp_path / "report")])
    assert "fitted on altered copies of 2 of the 6 films (twins), for example 'calibrating'" in line
    assert not (tmp_path / "report").exists()
    assert main([*command, str(tmp_path / "report"), "--twins", "report"]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "2 of the films judged are altered copies of training or" in page


def test_evaluate_compares_what_is_judged_with_the_films_learnt_from(
    tmp_path: Path, refused: Refused
) -> None:
    """Also where the scores come from elsewhere, and no row is flagged."""
    films = table(
        tmp_path / "films",
        [*train(3), ("worn", CLOTHES["cropped"](1), "", "test"), ("s", film(40), "nodule", "test")],
    )
    scores = tmp_path / "scores.csv"
    scores.write_text("image_id,score\nworn,1\ns,2\n")
    command = ["evaluate", "--scores", str(scores), "--films", f"table:{films}", "--baselines",
               "none", "--bootstrap", "100", "--out"]  # fmt: skip
    line = refused(*[*command, str(tmp_path / "report")])
    assert f"1 of 2 evaluated films {CLOTHED}" in line
    assert main([*command, str(tmp_path / "report"), "--twins", "report"]) == 0
    (row,) = listed(tmp_path / "report" / "twins.csv")
    assert (row["first"], row["second"], row["second_part"]) == ("worn", "t1", "training")
    assert main([*command, str(tmp_path / "unseen"), "--twins", "skip"]) == 0
    assert not (tmp_path / "unseen" / "twins.csv").exists()


def test_bench_refuses_twins_before_the_first_cell(tmp_path: Path, refused: Refused) -> None:
    films = table(
        tmp_path / "films",
        [*train(3), ("worn", CLOTHES["inverted"](1), "", "test"),
         ("s", film(40), "nodule", "test")],
    )  # fmt: skip
    out = tmp_path / "bench"
    command = ["bench", "--films", f"table:{films}", "--methods", "mean-grey", "--out", str(out)]
    assert f"1 of 2 evaluated films {CLOTHED}" in refused(*command)
    assert not (out / "cells").exists()


def test_cohort_refuses_twins_across_splits_or_leaves_them_out_or_lists_them(
    tmp_path: Path, refused: Refused
) -> None:
    worn = ("worn", CLOTHES["masked, inverted"](1), "", "test")
    films = table(tmp_path / "films", [*train(3), *val(20), worn])
    command = ["cohort", f"table:{films}", "--out"]
    line = refused(*[*command, str(tmp_path / "no")])
    assert "1 of 1 test films are altered copies of train films (twins)" in line
    assert "--overlap drop" in line and "--twins report" in line
    assert not (tmp_path / "no").exists()
    assert main([*command, str(tmp_path / "left"), "--overlap", "drop"]) == 0
    flow = json.loads((tmp_path / "left" / "cohort.json").read_text())["flow"]
    assert [(step["reason"], step["films"]) for step in flow["steps"]] == [
        ("an altered copy of the film is in a later split", 1)
    ]
    assert main([*command, str(tmp_path / "listed"), "--twins", "report"]) == 0
    (row,) = listed(tmp_path / "listed" / "twins.csv")
    assert (row["first"], row["second"]) == ("worn", "t1")
    assert main([*command, str(tmp_path / "unseen"), "--twins", "skip"]) == 0
    assert not (tmp_path / "unseen" / "twins.csv").exists()


def test_a_model_whose_sketches_are_of_another_is_refused(
    fitted: Path, tmp_path: Path, refused: Refused
) -> None:
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    other = table(tmp_path / "others", [*[(f"o{s}", film(s), "", "train") for s in (50, 51, 52)]])
    assert main(fit(other, tmp_path / "other")) == 0
    for end in ("safetensors", "json"):
        shutil.copy(tmp_path / "other" / f"twins.{end}", fitted / f"twins.{end}")
    films = tmp_path / "apart" / "films.csv"
    line = refused(*["score", "--model", str(fitted), "--films", f"table:{films}", "--out",
                    str(tmp_path / "scores")])  # fmt: skip
    assert "twins.safetensors is of another model" in line
