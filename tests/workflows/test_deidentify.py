"""deidentify: from the command line, over files and folders, good and bad."""

import csv
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from nofinding.cli import main
from nofinding.clinical.deidentify import deidentifier
from nofinding.data.decoding.decode import FilmFile
from nofinding.datasets.examples import Copy
from nofinding.errors import UserError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom" / "RG1_J2KI.dcm"
Refused = Callable[..., str]
PHANTOM = "phantom:train=12,val=8,test=0,abnormal=0,size=64"
TAGS = {
    "PatientName": "CANARY^Ann", "PatientSex": "F", "PatientAge": "064Y", "PatientSize": "1.7",
    "PatientWeight": "70", "ViewPosition": "PA", "BodyPartExamined": "CHEST",
    "BurnedInAnnotation": "NO", "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2",
}  # fmt: skip


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_bytes(b"a secret of thirty-two bytes ....")
    file.chmod(0o600)
    return file


@pytest.fixture
def films(tmp_path: Path) -> Copy:
    """Two patients, one of them with two films of a study and one of another."""
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    for number, (name, patient, study, day) in enumerate((
        ("CANARY^Ann/a.dcm", "P1", "1", "20240301"),
        ("CANARY^Ann/b.dcm", "P1", "1", "20240301"),
        ("later.dcm", "P1", "2", "20240311"),
        ("other.dcm", "P2", "3", "20240301"),
    )):  # fmt: skip
        copy.dicom(
            name, copy.film(number), **TAGS, PatientID=patient, StudyDate=day,
            StudyInstanceUID=f"1.2.826.0.1.3680043.8.498.1.{study}",
        )  # fmt: skip
    return copy


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "files.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_folder_becomes_films_that_stay_together(
    films: Copy, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["deidentify", str(films.root), "--key", str(key), "--out", str(out), "--dates"]
    assert main(command) == 0
    message = rows(out)
    assert [row["number"] for row in message] == ["1", "2", "3", "4"]
    assert {row["done"] for row in message} == {"written"} and {
        row["burnt_in"] for row in message
    } == {"no"}
    names = [row["file"] for row in message]
    assert sorted([*names, "files.csv"]) == sorted(path.name for path in out.iterdir())
    assert all(re.fullmatch(r"film-[0-9a-f]{20}\.dcm", name) for name in names)
    a, b, later, other = (dcmread(out / name) for name in names)
    assert a.PatientID == b.PatientID == later.PatientID != other.PatientID
    assert a.StudyInstanceUID == b.StudyInstanceUID != later.StudyInstanceUID
    assert a.StudyDate == b.StudyDate != "20240301"
    days = [date.fromisoformat(str(film.StudyDate)) for film in (a, later)]
    assert (days[1] - days[0]).days == 10
    assert message[0]["study"] == message[1]["study"] and message[0]["patient"] == a.PatientID
    said = capsys.readouterr()
    assert "4 films of 2 patients" in said.err and "CANARY" not in said.out + said.err


def test_what_cohort_calls_a_film_is_its_name_here(films: Copy, key: Path, tmp_path: Path) -> None:
    out, cohort = tmp_path / "out", tmp_path / "cohort"
    assert main(["deidentify", str(films.root), "--key", str(key), "--out", str(out)]) == 0
    assert main(["cohort", f"dicom:{films.root}", "--key", str(key), "--out", str(cohort)]) == 0
    import pyarrow.parquet as pq

    ids = pq.read_table(cohort / "films.parquet")["image_id"].to_pylist()
    assert sorted(f"{i}.dcm" for i in ids) == sorted(row["file"] for row in rows(out))


def test_the_score_is_that_of_the_original(films: Copy, key: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "out", str(tmp_path / "model")
    originals = [str(path) for path in films.root.glob("*.dcm")]
    command = ["deidentify", *originals, "--key", str(key), "--out", str(out)]
    assert main(command) == 0
    fit = ["fit", "ae", "--films", PHANTOM, "--preset", "tiny", "--out", model]
    assert main([*fit, "--method.train.steps", "2"]) == 0
    scores = []
    for name, files in (
        ("before", originals),
        ("after", [str(out / row["file"]) for row in rows(out)]),
    ):
        scored = ["score", *files, "--model", model, "--gate", "off", "--out", str(tmp_path / name)]
        assert main([*scored, "--no-maps"]) == 0
        with (tmp_path / name / "scores.csv").open(newline="") as lines:
            entries = {row["image_id"]: row for row in csv.DictReader(lines)}
            scores.append([{**entries[Path(f).stem], "image_id": ""} for f in files])
    assert len(scores[0]) == 2 and scores[0] == scores[1]
    for file, row in zip(originals, rows(out), strict=True):
        np.testing.assert_array_equal(FilmFile(Path(file))(), FilmFile(out / row["file"])())


def errors_of(path: Path) -> set[str]:
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    return {line for line in said.stderr.splitlines() if line.startswith("Error")}


@pytest.mark.parametrize("options", [[], ["--dates"], ["--no-characteristics"]])
def test_the_standard_is_kept_as_well_as_before(
    options: list[str], films: Copy, key: Path, tmp_path: Path
) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian: dicom3tools) is not installed")
    film, out = films.root / "later.dcm", tmp_path / "out"
    command = ["deidentify", str(film), "--key", str(key), "--out", str(out)]
    assert main([*command, *options]) == 0
    (row,) = rows(out)
    assert errors_of(out / row["file"]) <= errors_of(film)


@pytest.mark.films
@pytest.mark.skipif(not REAL.is_file(), reason="the real film is not here")
def test_a_real_film_keeps_its_pixels_and_the_standard(key: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["deidentify", str(REAL), "--key", str(key), "--out", str(out)]) == 0
    (row,) = rows(out)
    np.testing.assert_array_equal(FilmFile(out / row["file"])(), FilmFile(REAL)())
    assert row["burnt_in"] == "not stated"
    if shutil.which("dciodvfy") is not None:
        assert errors_of(out / row["file"]) <= errors_of(REAL)


def spoil(films: Copy) -> dict[str, str]:
    """Files that cannot be de-identified, and why."""
    films.dicom("x burnt.dcm", films.film(0), **{**TAGS, "BurnedInAnnotation": "YES"})
    films.picture("x photo CANARY.png", films.film(0))
    twin = dcmread(films.root / "other.dcm")
    twin.PixelData = bytes(len(twin.PixelData))
    twin.save_as(films.root / "x twin.dcm")
    (films.root / "x link.dcm").symlink_to(films.root.parent / "key")
    os.mkfifo(films.root / "x pipe")
    (films.root / "x folder").symlink_to(films.root.parent)
    return {
        "burnt": "says that names are burnt into its pixels; those are not cleaned here",
        "photo": "is not a DICOM file",
        "twin": "has the SOP Instance UID of another file with other content",
        "link": "is a link out of its folder",
        "pipe": "is not a file",
        "folder": "is a link to a folder",
    }


def test_what_cannot_be_done_is_listed(
    films: Copy, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why, out = spoil(films), tmp_path / "out"
    shutil.copy(films.root / "other.dcm", films.root / "x again.dcm")
    films.save("DICOMDIR", Dataset(), "1.2.840.10008.1.3.10")
    command = ["deidentify", str(films.root), "--key", str(key), "--out", str(out)]
    assert main([*command, "--unreadable", "list"]) == 0
    message = rows(out)
    assert [row["done"] for row in message].count("written") == 4
    assert {row["reason"] for row in message if row["done"] == "left out"} == {*why.values()}
    passed = {row["reason"]: row["file"] for row in message if row["done"] == "passed over"}
    assert passed.keys() == {"is a DICOMDIR", "is the same film once more"}
    assert len([*out.glob("*.dcm")]) == 4
    find = ["find", films.root, "!", "-type", "d"]
    process = subprocess.run(find, capture_output=True, check=True).stdout.splitlines()
    order = [Path(os.fsdecode(line)) for line in sorted(process)]  # as docs/clinical.md says
    places = {row["reason"]: int(row["number"]) for row in message if row["done"] == "left out"}
    assert order[places[why["photo"]] - 1].name == "x photo CANARY.png"
    said = capsys.readouterr()
    assert "4 films of 2 patients, 2 passed over, 6 left out" in said.err
    assert "CANARY" not in said.out + said.err + (out / "files.csv").read_text()


def test_a_folder_that_cannot_be_read_is_not_passed_over(
    films: Copy, key: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if "CANARY" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    line = refused("deidentify", films.root, "--key", key, "--out", tmp_path / "out")
    assert "a folder in it cannot be read" in line and "CANARY" not in line


@pytest.mark.parametrize("fault", ["burnt", "photo", "link", "pipe", "folder"])
def test_stop_leaves_nothing_behind(
    fault: str, films: Copy, key: Path, tmp_path: Path, refused: Refused
) -> None:
    why = spoil(films)[fault]
    for path in films.root.glob("x *"):
        if fault not in path.name:
            path.unlink()
    before = sorted(tmp_path.iterdir())
    line = refused("deidentify", films.root, "--key", key, "--out", tmp_path / "out")
    assert why in line and "file number 5" in line and "CANARY" not in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_that_fails_half_way_leaves_nothing_behind(
    films: Copy, key: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nofinding.workflows.deidentify as use_case

    real, before = use_case.write_atomic, sorted(tmp_path.iterdir())

    def full(path: Path, data: bytes) -> None:
        if len([*path.parent.iterdir()]) == 2:
            raise UserError(f"{path}: cannot be written (No space left on device)")
        real(path, data)

    monkeypatch.setattr(use_case, "write_atomic", full)
    out = tmp_path / "out"
    assert "No space left" in refused("deidentify", films.root, "--key", key, "--out", out)
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_asked_for_in_vain(
    films: Copy, key: Path, tmp_path: Path, refused: Refused
) -> None:
    own, out = ["--key", key], tmp_path / "out"
    assert "does not exist" in refused("deidentify", tmp_path / "none", *own, "--out", out)
    inside = films.root / "out"
    assert "lies among the films" in refused("deidentify", films.root, *own, "--out", inside)
    assert "not an empty folder" in refused("deidentify", films.root, *own, "--out", films.root)
    shutil.copy(key, films.root / "key")
    lying = ["--key", films.root / "key", "--out", out]
    assert "lies among the films" in refused("deidentify", films.root, *lying)
    key.chmod(0o644)
    assert "everybody may read it" in refused("deidentify", films.root, *own, "--out", out)
    key.chmod(0o600)
    (tmp_path / "empty").mkdir()
    assert "there is no file" in refused("deidentify", tmp_path / "empty", *own, "--out", out)
    (tmp_path / "empty" / "text").write_text("CANARY")
    lone = ["deidentify", tmp_path / "empty", *own, "--out", out, "--unreadable", "list"]
    assert "no file could be de-identified" in refused(*lone)
    assert not out.exists()


def test_no_film_is_read_in_this_process(
    films: Copy, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("a film was read here")

    monkeypatch.setattr("pydicom.filereader.dcmread", read)
    monkeypatch.setattr("pydicom.dcmread", read)
    monkeypatch.setattr("nofinding.clinical.deidentify.profile.deidentified", read)
    out = tmp_path / "out"
    assert main(["deidentify", str(films.root), "--key", str(key), "--out", str(out)]) == 0
    assert not hasattr(deidentifier, "deidentified") and len(rows(out)) == 4
