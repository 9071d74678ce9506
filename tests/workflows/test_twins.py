"""`nofinding twins`, and the commands that refuse twins of what they learn from."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nofinding.cli import main
from nofinding.data.decoding.decode import FilmFile
from support.clothes import CLOTHES, Film, film
from support.tables import write_table

Refused = Callable[..., str]
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
