"""export: from the command line, on a phantom's DICOM file."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from nofinding.cli import main
from nofinding.datasets.examples import Copy
from support.orthanc import Orthanc

TAGS = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2",
    "PatientID": "P-1",
}
PHANTOM = "phantom:train=12,val=8,test=0,abnormal=0,size=64"


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A DICOM film and the folder of its scores."""
    root = tmp_path_factory.mktemp("scored")
    copy = Copy(root=root / "films", patients=8, seed=0, size=64)
    film = copy.dicom("film.dcm", copy.film(0), **TAGS)
    model, out = str(root / "model"), str(root / "scores")
    fit = ["fit", "ae", "--films", PHANTOM, "--preset", "tiny", "--out", model]
    assert main([*fit, "--method.train.steps", "2"]) == 0
    assert main(["score", str(film), "--model", model, "--gate", "off", "--out", out]) == 0
    return film, Path(out)


def test_what_was_scored_is_what_is_written(scored: tuple[Path, Path], tmp_path: Path) -> None:
    film, scores = scored
    command = ["export", str(film), "--scores", str(scores), "--out", str(tmp_path / "dicom")]
    assert main([*command, "--segmentation"]) == 0
    names = sorted(path.name for path in (tmp_path / "dicom").iterdir())
    assert names == [f"film.{k}.dcm" for k in ("map", "picture", "report", "segmentation")]
    row = (scores / "scores.csv").read_text().splitlines()[1].split(",")
    report = dcmread(tmp_path / "dicom" / "film.report.dcm")
    assert row[1][:9] in str(report) and report.PatientID == "P-1"
    written = dcmread(tmp_path / "dicom" / "film.map.dcm")
    values = np.frombuffer(written.FloatPixelData, "<f4")
    np.testing.assert_array_equal(values, np.load(scores / "maps" / "film.npy").ravel())


def test_what_is_written_is_sent(
    scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, scores = scored
    command = ["export", str(film), "--scores", str(scores), "--out"]
    with Orthanc(tmp_path) as archive:
        assert main([*command, str(tmp_path / "a"), "--stow", archive.dicomweb]) == 0
        stored = sorted(archive.file(instance) for instance in archive.instances())
        assert stored == sorted(path.read_bytes() for path in (tmp_path / "a").iterdir())
        assert main([*command, str(tmp_path / "b"), "--peer", archive.dicom]) == 0
        assert len(stored) == len(archive.instances()) == 3
        assert capsys.readouterr().err.count("3 objects stored") == 2
    assert main([*command, str(tmp_path / "c"), "--stow", "http://127.0.0.1:9/x"]) == 2
    assert "does not answer" in capsys.readouterr().err
    assert len([*(tmp_path / "c").iterdir()]) == 3  # written they are
    for wrong in (["--stow", "x"], ["--peer", "x"], ["--stow", "http://a/", "--peer", "A@b:1"]):
        assert main([*command, str(tmp_path / "d"), *wrong]) == 2
        assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("fault", ["unscored", "png", "no scores", "not empty"])
def test_a_fault_is_one_line_and_nothing_is_written(
    fault: str, scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, scores = scored
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    out = tmp_path / "dicom"
    said = "has no image_id 'other'"
    if fault == "unscored":
        film = copy.dicom("other.dcm", copy.film(1), **TAGS)
    elif fault == "png":
        film, said = copy.picture("film.png", copy.film(0)), "is not a DICOM file"
    elif fault == "no scores":
        scores, said = tmp_path, "run.json cannot be read"
    else:
        out, said = copy.picture("full/film.png", copy.film(0)).parent, "is not an empty folder"
    before = sorted(out.iterdir()) if out.exists() else None
    assert main(["export", str(film), "--scores", str(scores), "--out", str(out)]) == 2
    output = capsys.readouterr().err.strip()
    assert said in output and len(output.splitlines()) == 1
    assert (sorted(out.iterdir()) if out.exists() else None) == before
