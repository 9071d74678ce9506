"""A disk that is full, or may not be written to: one line, and nothing half-written."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nofinding.cli import main
from nofinding.datasets.examples import EXAMPLES, Copy

PHANTOM = "phantom:train=12,val=8,test=4,abnormal=1,size=64"
UIDS = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2",
    "PatientID": "P-1",
}
Told = Callable[[], str]


@contextmanager
def full_after(count: int) -> Iterator[None]:
    """No file may become longer than so many bytes, as on a disk that is full by then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, a DICOM film with its scores, and a publisher's folder."""
    root = tmp_path_factory.mktemp("made")
    copy = Copy(root=root / "films", patients=8, seed=0, size=64)
    film = copy.dicom("film.dcm", copy.film(0), **UIDS)
    fit = ["fit", "ae", "--films", PHANTOM, "--preset", "tiny", "--gate", "none"]
    assert main([*fit, "--method.train.steps", "2", "--out", str(root / "model")]) == 0
    assert main(["score", str(film), "--model", str(root / "model"), "--out", str(root / "s")]) == 0
    EXAMPLES["nih"](Copy(root=root / "nih", patients=8, seed=0, size=64))
    return {"root": root, "film": film, "model": root / "model", "scores": root / "s",
            "nih": root / "nih"}  # fmt: skip


def commands(places: dict[str, Path]) -> dict[str, list[str]]:
    """Each command that writes a folder, without its --out."""
    model, film = str(places["model"]), str(places["film"])
    return {
        "fit": ["fit", "ae", "--films", PHANTOM, "--preset", "tiny", "--gate", "none",
                "--method.train.steps", "2"],
        "score": ["score", "--films", PHANTOM, "--model", model, "--split", "test"],
        "score file": ["score", film, "--model", model],
        "export": ["export", film, "--scores", str(places["scores"]), "--segmentation"],
        "cohort": ["cohort", f"nih:{places['nih']}"],
        "example": ["example", "nih", "--patients", "8", "--size", "64"],
    }  # fmt: skip


NAMES = ("fit", "score", "score file", "export", "cohort", "example")


FULL = [(name, count) for name in NAMES for count in (0, 600)]


@pytest.mark.parametrize(
    ("name", "count"), [*FULL, *((name, 5000) for name in ("fit", "score", "export", "cohort"))]
)
def test_a_full_disk(
    name: str,
    count: int,
    places: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    with full_after(count):
        code = main([*commands(places)[name], "--out", str(out)])
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith("nofinding: ")]
    assert code == 2 and len(said) == 1, lines
    assert not any("Traceback" in line for line in lines)
    left = [str(path.relative_to(out)) for path in tmp_path.rglob("*") if path.is_file()]
    if name != "fit":
        assert [*tmp_path.iterdir()] == []
        return
    # What a training has done so far is kept, and no model that looks finished.
    assert not any(file.startswith(("model", "README", ".")) or ".tmp" in file for file in left)
    assert main([*commands(places)[name], "--out", str(out), "--resume"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_place_that_cannot_be_written(
    name: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([*commands(places)[name], "--out", str(tmp_path / "file" / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert sum(line.startswith("nofinding: ") for line in lines) == 1, lines
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_a_full_disk_leaves_older_scores_whole(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = [*commands(places)["score"], "--out", str(out)]
    assert main(command) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with full_after(600):
        assert main([*command, "--seed", "1", "--overwrite"]) == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert json.loads((out / "run.json").read_text())["seed"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
