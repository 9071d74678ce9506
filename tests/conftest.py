"""A small cohort of phantom films as PNG files with a table, and a tiny model fitted to it.

This file comes before the other conftest files, and the package before torch: the package tells
torch's threads how to wait.
"""

# isort: off
import nofinding  # noqa: F401

# isort: on
import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets.phantom import PHANTOM
from support.tables import Rows, write_table


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOFINDING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True, scope="session")
def threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_wait_for_the_disk() -> Iterator[None]:
    """Nothing here must survive a power cut. What is synchronised, and in which order, is tested
    with stand-ins of their own (storage/test_checkpoint.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    text = "train=16,val=8,test=6,abnormal=3,kinds=mass+effusion,size=32"
    for exam in PHANTOM.read(text, FIELDS):
        name = f"{exam.image_id}.png"
        Image.fromarray((exam.pixels() * 255).astype(np.uint8)).save(folder / name)
        rows.append(
            {
                "image_id": exam.image_id,
                "path": name,
                "patient_id": exam.patient_id,
                "sex": FIELDS["sex"].categories[int(exam.ehr["sex"])],
                "age": f"{exam.ehr['age']:g}",
                "view": exam.view or "",
                "bmi": f"{exam.ehr['bmi']:g}",
                "findings": "|".join(sorted(exam.findings or ())),
                "split": exam.split or "",
            }
        )
    write_table(folder / "films.csv", rows)
    return folder


@pytest.fixture(scope="session")
def rows(cohort: Path) -> Rows:
    with (cohort / "films.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def model(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "m"
    films = f"table:{cohort / 'films.csv'}"
    assert main(["fit", "diff3m", "--preset", "tiny", "--films", films, "--out", str(out)]) == 0
    return out


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail: exit code 2, one line on stderr. Gives the line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        said = [line for line in lines if line.startswith("nofinding: ")]
        assert len(said) == 1 and said[0] == lines[-1], lines
        assert not any("Traceback" in line for line in lines)
        return said[0]

    return run
