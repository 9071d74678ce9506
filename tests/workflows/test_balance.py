"""`--balance`: a small source is not drowned, and nothing but training sees a film twice."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets.cohort import Cohort
from nofinding.methods.baselines.thumbnail import Thumbnail
from nofinding.model.bundle import load_model
from support.tables import write_table


def source(folder: Path, name: str, greys: list[int], split: str = "train") -> str:
    """A table of films of one grey each."""
    rows = []
    for grey in greys:
        file = folder / f"{name}-{grey}.png"
        Image.fromarray(np.full((16, 16), grey, np.uint8)).save(file)
        rows.append(
            {
                "image_id": file.stem,
                "path": str(file),
                "patient_id": file.stem,
                "findings": "",
                "split": split,
            }
        )
    return write_table(folder / f"{name}.csv", rows, [*rows[0]])


@pytest.fixture
def specs(tmp_path: Path) -> list[str]:
    """Seven films, two films, three films."""
    return [
        source(tmp_path, "large", [40, 41, 42, 43, 44, 45, 46]),
        source(tmp_path, "small", [200, 210]),
        source(tmp_path, "middle", [100, 101, 102]),
    ]


@pytest.mark.parametrize(
    ("most", "times"),
    [
        (1, {"large": 1, "small": 1, "middle": 1}),
        (2, {"large": 1, "small": 2, "middle": 2}),
        (9, {"large": 1, "small": 3, "middle": 2}),  # 7 // 2 and 7 // 3
    ],
)
def test_films_of_small_sources_are_repeated(
    specs: list[str], most: int, times: dict[str, int]
) -> None:
    cohort = Cohort(specs, FIELDS)
    result = cohort.balanced(cohort.exams, most)
    counts = Counter(exam.image_id for exam in result)
    expected = {r.image_id: times[r.image_id.split("-")[0]] for r in cohort.exams}
    assert counts == expected
    # What counts is how many of a source are in this part, not in all of the cohort.
    few = [r for r in cohort.exams if r.image_id in ("large-40", "small-200", "small-210")]
    again = Counter(exam.image_id for exam in cohort.balanced(few, most))
    assert again == {"large-40": min(most, 2), "small-200": 1, "small-210": 1}


def test_fit_learns_from_the_repeated_films_and_calibrates_on_each_once(
    specs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = source(tmp_path, "val", [60, 160], split="val")
    for most in (1, 9):
        out = tmp_path / f"balance-{most}"
        fit = ["fit", "thumbnail", "--preset", "tiny", "--films", *specs, held]
        assert main([*fit, "--balance", str(most), "--out", str(out)]) == 0
        model = load_model(out)
        assert isinstance(model.detector, Thumbnail)
        large, small, middle = tuple(range(40, 47)), (200, 210), (100, 101, 102)
        greys = [*large, *small, *middle] if most == 1 else [*large, *small * 3, *middle * 2]
        mean = float(model.detector.state()["mean"].mean())
        assert mean == pytest.approx(np.mean(greys) / 255, abs=1e-3)
        assert model.meta["counts"] == {"train normals": 12, "calibration normals": 2}
        assert len(model.meta["training_pixels"]) == 12
        assert "12 normal films to learn from, 2 to calibrate" in capsys.readouterr().err


def test_less_than_once_is_refused(
    specs: list[str], tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = refused("fit", "thumbnail", "--films", *specs, "--balance", 0, "--out", tmp_path / "m")
    assert "--balance 0: give 1 or more" in line
    assert not (tmp_path / "m").exists()
