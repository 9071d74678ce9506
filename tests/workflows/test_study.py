"""study: from an archive and back into it, with a real Orthanc, from the command line."""

import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from nofinding.cli import main
from nofinding.clinical.network import dicomweb
from nofinding.clinical.network.dicomweb import Archive
from nofinding.datasets.examples import Copy
from nofinding.workflows import study as studies
from support.hostile import answer, answering
from support.orthanc import Orthanc

ROOT = "1.2.826.0.1.3680043.8.498"
PHANTOM = "phantom:train=12,val=8,test=0,abnormal=0,size=64"
KINDS = ["map", "picture", "report"]
TAGS = {"PatientID": "CANARY-7", "PatientName": "Canary^Bird", "PatientBirthDate": "19600101",
        "PatientSex": "F", "PatientAge": "063Y", "StudyDate": "20240105", "StudyTime": "101500",
        "AccessionNumber": "CANARY-8", "PatientOrientation": ["L", "F"],
        "BodyPartExamined": "CHEST"}  # fmt: skip


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
    monkeypatch.setattr(dicomweb, "WAITS", (0.0, 0.0))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "model"
    fit = ["fit", "ae", "--films", PHANTOM, "--preset", "tiny", "--out", str(out)]
    assert main([*fit, "--method.train.steps", "2"]) == 0
    return out


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Orthanc]:
    with Orthanc(tmp_path) as running:
        yield running


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(root=tmp_path / "films", patients=8, seed=0, size=64)


def film(copy: Copy, number: int, study: int = 1, **tags: object) -> Path:
    of = {"StudyInstanceUID": f"{ROOT}.{study}", "SeriesInstanceUID": f"{ROOT}.{study}.1",
          "SOPInstanceUID": f"{ROOT}.{study}.1.{number}", "ViewPosition": "PA"}  # fmt: skip
    path = f"{study}-{number}.dcm"
    return copy.dicom(path, copy.film(number), **(TAGS | of | tags))


@pytest.fixture
def run(archive: Orthanc, tiny: Path, tmp_path: Path) -> Callable[..., int]:
    """The command, over the archive and with the tiny model; gives its exit code."""

    def call(*more: str, out: str = "out", study: str | None = f"{ROOT}.1") -> int:
        named = [] if study is None else ["--study", study]
        given = ["--archive", archive.dicomweb, "--model", str(tiny), "--gate", "off"]
        return main(["study", *given, *named, "--out", str(tmp_path / out), *more])

    return call


def held(archive: Orthanc, modality: tuple[str, ...] = ("SR", "OT", "SEG")) -> list[bytes]:
    """The objects of ours that the archive has, as files."""
    collected = []
    for instance in archive.instances():
        if archive.ask(f"/instances/{instance}/tags?simplify")["Modality"] in modality:
            collected.append(archive.file(instance))
    return collected


def written(out: Path) -> list[Path]:
    return sorted(out.glob("study-*/dicom/*.dcm"))


def test_a_study_is_scored_and_its_objects_lie_beside_its_film(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    archive.put(film(copy, 0))
    caplog.set_level(logging.DEBUG)
    assert run("--segmentation") == 0
    output = "".join(capsys.readouterr())
    paths = written(tmp_path / "out")
    assert [path.name.split(".")[1] for path in paths] == [*KINDS, "segmentation"]
    assert sorted(path.read_bytes() for path in paths) == sorted(held(archive))
    assert "1 of 1 films scored; 4 objects stored, --archive" in output
    names = " ".join(str(path) for path in (tmp_path / "out").rglob("*"))
    (about,) = (tmp_path / "out").glob("study-*/study.json")
    for text in (output, names, caplog.text, about.read_text()):
        assert "canary" not in text.lower() and ROOT not in text
    assert not list((tmp_path / "out").rglob("films")) and not list(tmp_path.rglob("cache"))
    back = tmp_path / "back"
    back.mkdir()
    here = Archive(archive.dicomweb)
    assert [f.instance for f in here.films(f"{ROOT}.1", 9)] == [f"{ROOT}.1.1.0"]  # ours are none
    for number, data in enumerate(held(archive)):
        (back / f"{number}.dcm").write_bytes(data)
        dataset = dcmread(back / f"{number}.dcm")
        assert dataset.StudyInstanceUID == f"{ROOT}.1" and dataset.PatientID == "CANARY-7"
        judged(back / f"{number}.dcm", dataset)


def judged(path: Path, dataset: Dataset) -> None:
    """What dcmtk and dicom3tools say of an object, where they are installed."""
    tools = [["dcmdump"], ["dciodvfy", "-new"]]
    if dataset.Modality == "SR":
        tools.append(["dsrdump"])
    for tool in tools:
        if shutil.which(tool[0]) is not None:
            process = subprocess.run([*tool, path], capture_output=True, text=True, check=True)
            assert not [line for line in process.stderr.splitlines() if line.startswith("Error")]
            if tool == ["dsrdump"]:
                assert "Anomaly score" in process.stdout and "RESEARCH USE ONLY" in process.stdout


def test_done_twice_it_is_the_same_objects(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    archive.put(film(copy, 0))
    assert run() == run(out="again") == 0
    assert len(held(archive)) == 3
    first, again = (
        [dcmread(path).SOPInstanceUID for path in written(tmp_path / out)]
        for out in ("out", "again")
    )
    assert first == again
    files = (tmp_path / "out").glob("study-*/**/*")
    before = {path: path.stat().st_mtime_ns for path in files}
    monkeypatch.setattr(studies, "score", None)  # nothing is scored again
    assert run() == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_film_that_came_later_is_scored_with_the_others(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path
) -> None:
    archive.put(film(copy, 0))
    assert run() == 0
    archive.put(film(copy, 1))
    assert run() == 0
    assert len(written(tmp_path / "out")) == len(held(archive)) == 6
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 1
    assert not list((tmp_path / "out").glob(".study-*"))


def test_what_is_no_frontal_film_of_the_chest_is_listed(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    archive.put(film(copy, 0))
    archive.put(film(copy, 1, ViewPosition="LL", PatientOrientation=["A", "F"]))
    archive.put(film(copy, 2, BodyPartExamined="HAND"))
    archive.put(film(copy, 3, PatientOrientation=["P", "F"], ViewPosition=None))
    archive.put(film(copy, 4, BodyPartExamined=None, PatientOrientation=None, ViewPosition=None))
    capsys.readouterr()
    assert run("--no-store") == 0
    (about,) = (tmp_path / "out").glob("study-*/study.json")
    rows = json.loads(about.read_text())["rows"]
    flags = sorted(row["flags"] for row in rows if not row["score"])
    assert flags == ["another body part than the chest", *["neither PA nor AP"] * 2]
    assert len([row for row in rows if row["score"]]) == 2 and len(written(tmp_path / "out")) == 6
    output = capsys.readouterr()
    assert "2 of 5 films scored; 6 objects not stored" in output.err and "neither PA" in output.out
    assert not held(archive)


def test_what_the_gate_refuses_is_listed_too(
    archive: Orthanc, copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    of = {"StudyInstanceUID": f"{ROOT}.1", "SeriesInstanceUID": f"{ROOT}.2"}
    archive.put(copy.dicom("noise.dcm", noise, **(TAGS | of)))
    command = ["study", "--archive", archive.dicomweb, "--study", f"{ROOT}.1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0  # by the shipped model
    output = capsys.readouterr()
    assert "0 of 1 films scored\n" in output.err and "refused: " in output.out
    assert not held(archive)


def test_a_range_of_days_goes_to_a_peer(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for study, day in ((1, "20240105"), (2, "20240131"), (3, "20240201")):
        archive.put(film(copy, study, study, StudyDate=day, PatientID=f"000{study}"))
    with Orthanc(tmp_path / "peer") as peer:
        days = ["--date", "20240101-20240131", "--peer", peer.dicom]
        assert run(*days, study=None) == 0
        assert "2 of 2 studies" in capsys.readouterr().err
        sent = {str(dcmread(path).SOPInstanceUID): path for path in written(tmp_path / "out")}
        stored = held(peer)
        assert len(stored) == len(sent) == 6 and not held(archive)
        for data in stored:
            (tmp_path / "kept.dcm").write_bytes(data)
            back = dcmread(tmp_path / "kept.dcm")
            assert back == dcmread(sent[back.SOPInstanceUID])
    # what was not stored there is stored here, without another look at the films
    assert run("--date", "20240101-20240131", study=None) == 0
    assert len(held(archive)) == 6
    file = tmp_path / "study.yaml"
    file.write_text('patient: "0003"\n')
    assert run("--config", str(file), study=None) == run("--patient", "0003", study=None) == 0
    assert len(held(archive)) == 9


def test_one_study_that_fails_does_not_keep_the_others(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for study in (1, 2):
        for number in range(study):
            archive.put(film(copy, number, study))
    assert run("--date", "20240105", "--most", "1", study=None) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("nofinding: 1 of 2 studies could not be done, for example: ")
    assert "over 1 films of one study" in lines[-1] and ROOT not in "".join(lines)
    assert len(held(archive)) == 3


@pytest.mark.parametrize("by", ["interrupt", "SIGTERM", "full disk", "cut off"])
def test_an_interruption_leaves_nothing_half_written(
    by: str, archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    archive.put(film(copy, 0))
    archive.put(film(copy, 1))
    whole, calls = Archive.retrieve, []

    def broken(self: Archive, result: object, path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            whole(self, result, path)  # type: ignore[arg-type]
        elif by == "interrupt":
            raise KeyboardInterrupt
        elif by == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        elif by == "full disk":
            raise OSError(28, "No space left on device", str(path))
        else:
            raise dicomweb.HttpError("--archive: its answer was cut off")

    monkeypatch.setattr(Archive, "retrieve", broken)
    if by == "SIGTERM":
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == 143
    else:
        assert run() == (130 if by == "interrupt" else 2)
    assert len(capsys.readouterr().err.strip().splitlines()) <= 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert not held(archive)
    monkeypatch.setattr(Archive, "retrieve", whole)
    assert run() == 0 and len(held(archive)) == 6


def test_what_a_killed_run_left_is_removed(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path
) -> None:
    left = tmp_path / "out" / ".study-00.partial" / "films"
    left.mkdir(parents=True)
    (left / "film.dcm").write_bytes(b"a patient")
    archive.put(film(copy, 0))
    assert run() == 0 and not left.exists()


def test_objects_that_are_not_taken_are_an_error_and_are_sent_again(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    archive.put(film(copy, 0))
    with monkeypatch.context() as patch:
        patch.setattr(dicomweb, "STORED", "0040A730")
        assert run() == 2
    assert "3 of 3 objects are not taken" in capsys.readouterr().err
    monkeypatch.setattr(studies, "score", None)
    assert run() == 0
    assert len(held(archive)) == 3


def test_a_film_that_is_not_the_one_asked_for_is_not_scored(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    archive.put(film(copy, 0))
    other = film(copy, 1, study=2)
    monkeypatch.setattr(Archive, "retrieve", lambda self, result, path: shutil.copy(other, path))
    assert run() == 0
    assert "is another film than was asked for" in " ".join(capsys.readouterr().out.split())
    assert not held(archive)


def test_two_runs_do_not_work_in_one_folder(
    archive: Orthanc, copy: Copy, run: Callable[..., int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    archive.put(film(copy, 0))
    codes = []
    whole = Archive.retrieve

    def second(self: Archive, result: object, path: Path) -> None:
        codes.append(run())
        whole(self, result, path)  # type: ignore[arg-type]

    monkeypatch.setattr(Archive, "retrieve", second)
    assert run() == 0 and codes == [2]
    assert "another run works in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "name a study by --study"),
        (("--study", "1.2.3", "--date", "20240101"), "leave --date and --patient out"),
        (("--study", "x"), "--study: is no UID"),
        (("--date", "January"), "--date: give a day"),
        (("--date", "20240101", "--ehr", "age=6"), "--ehr is of one patient"),
        (("--study", "1.2.3", "--most", "0"), "--most 0"),
        (("--study", "1.2.3", "--peer", "x"), "--peer 'x': write TITLE@host:port"),
        (("--study", "1.2.3", "--peer", "A@b:1", "--no-store"), "--peer goes with"),
        (("--study", "1.2.3", "--peer", "A@b:1", "--title", "x" * 17), "--title"),
        (("--study", "1.2.3", "--model", "nowhere"), "--model nowhere"),
        (("--study", "1.2.3"), "does not answer"),
    ],
)
def test_a_fault_in_the_options_is_one_line(
    given: tuple[str, ...], said: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    command = ("study", "--archive", "http://127.0.0.1:9/dicom-web", "--out", tmp_path / "out")
    assert said in refused(*command, *given)


def test_a_study_that_is_not_there(
    archive: Orthanc, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 2
    output = capsys.readouterr().err
    assert "no CR or DX film for presentation" in output and ROOT not in output
    with answering(lambda _: [answer(b"[]")]) as server:
        out = ["--out", archive.folder.as_posix() + "-out", "--date", "20240101"]
        assert main(["study", "--archive", server.address, *out]) == 0
    assert "0 of 0 studies" in capsys.readouterr().err
