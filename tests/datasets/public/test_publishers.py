"""Every publisher's source on its own small copy: what all of them must do."""

import json
import shutil
from pathlib import Path

import pytest

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets import PUBLISHERS, SOURCES
from nofinding.datasets.examples import EXAMPLES, Copy
from nofinding.types import Exam

NAMES = [*PUBLISHERS]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A copy of each dataset."""
    root = tmp_path_factory.mktemp("copies")
    for name in NAMES:
        EXAMPLES[name](Copy(root=root / name, patients=24, seed=0, size=64))
    return {name: root / name for name in NAMES}


def cohort_of(name: str, copies: dict[str, Path], out: Path, *options: str) -> list[Exam]:
    """The cohort of a copy, by the command line."""
    assert main(["cohort", f"{name}:{copies[name]}", "--out", str(out), *options]) == 0
    return list(SOURCES["cohort"].read(str(out), FIELDS))


def test_every_publisher_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_cohort_is_made_and_read(name: str, copies: dict[str, Path], tmp_path: Path) -> None:
    films = cohort_of(name, copies, tmp_path / "cohort")
    assert len(films) > 10
    assert len({film.image_id for film in films}) == len(films)
    splits = {film.split for film in films}
    assert {"train", "val"} <= splits
    of_patient: dict[str, set[str | None]] = {}
    for film in films:
        of_patient.setdefault(film.patient_id, set()).add(film.split)
    assert all(len(parts) == 1 for parts in of_patient.values())
    assert any(film.findings == frozenset() and film.split == "train" for film in films)
    pixels = films[0].pixels()
    assert pixels.ndim == 2 and 0 <= pixels.min() < pixels.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_source_itself_gives_the_same_films(
    name: str, copies: dict[str, Path], tmp_path: Path
) -> None:
    films = cohort_of(name, copies, tmp_path / "cohort")
    straight = list(SOURCES[name].read(str(copies[name]), FIELDS))
    calls = [(r.image_id, r.patient_id, r.split, r.findings, dict(r.ehr)) for r in straight]
    assert calls == [(r.image_id, r.patient_id, r.split, r.findings, dict(r.ehr)) for r in films]
    assert {key for r in films for key in r.ehr} <= set(
        SOURCES[name].offers(str(copies[name]), FIELDS)
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_listed_film_is_kept_or_counted(
    name: str, copies: dict[str, Path], tmp_path: Path
) -> None:
    films = cohort_of(name, copies, tmp_path / "cohort")
    description = json.loads((tmp_path / "cohort" / "cohort.json").read_text())
    flow = description["flow"]
    assert flow["films"] - sum(step["films"] for step in flow["steps"]) == len(films)
    assert sum(p["normal"] + p["abnormal"] + p["unlabelled"] for p in flow["parts"]) == len(films)
    assert (tmp_path / "cohort" / "flow.png").stat().st_size > 1000


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_give_one_fingerprint(name: str, copies: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(copies[name], tmp_path / "elsewhere")
    cohort_of(name, copies, tmp_path / "one")
    cohort_of(name, {name: tmp_path / "elsewhere"}, tmp_path / "two")
    one, two = (
        json.loads((tmp_path / part / "cohort.json").read_text())["fingerprint"]
        for part in ("one", "two")
    )
    assert one == two


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_is_refused_and_nothing_is_left(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["cohort", f"{name}:{tmp_path / 'empty'}", "--out", str(tmp_path / "cohort")]
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]
