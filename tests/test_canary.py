"""No value of a patient comes out but in the DICOM objects that must carry it."""

import gzip
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nofinding.cli import main
from nofinding.datasets.build.cohort_folder import PLACES
from nofinding.model.pretrained import model_folder
from support.canary import CARRIED, Canaries, leaks, plant

PHANTOM = "phantom:train=12,val=8,test=0,abnormal=0,size=64"
KEY = b"a secret of thirty-two bytes ...."


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Canaries:
    return plant(tmp_path_factory.mktemp("canaries"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model"
    fit = ["fit", "ae", "--films", PHANTOM, "--preset", "tiny", "--out", str(out)]
    assert main([*fit, "--method.train.steps", "2"]) == 0
    return out


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_bytes(KEY)
    file.chmod(0o600)
    return file


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    canaries: Canaries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Run]:
    """Runs a command with every log at DEBUG and every warning shown; nothing that it says holds
    a canary. The cache is a folder of the test's own."""
    monkeypatch.setenv("NOFINDING_CACHE", str(tmp_path / "out" / "cache"))
    caplog.set_level(logging.DEBUG)

    def command(*arguments: object) -> tuple[int, str]:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            code = main([str(a) for a in arguments])
        said = capfd.readouterr()
        words = [said.out, said.err, caplog.text, *(str(w.message) for w in warned)]
        typed = "\n".join(words)
        for argument in arguments:  # a path that the user typed may come back in an error
            typed = typed.replace(str(argument), "")
        assert leaks(canaries, typed) == []
        return code, said.err

    yield command
    logging.getLogger().setLevel(logging.WARNING)


def test_a_canary_is_found_where_it_sits(canaries: Canaries, tmp_path: Path) -> None:
    values = canaries.values
    (tmp_path / "a.csv").write_text(f"x,{values['MRN'].lower()}")
    (tmp_path / "b.gz").write_bytes(gzip.compress(values["comment"].encode()))
    (tmp_path / f"{values['study']}.png").write_bytes(b"")
    (tmp_path / "c").write_bytes(values["address"].encode("utf-16-le"))
    (tmp_path / "d").write_text("born 1951-11-27")
    assert leaks(canaries, tmp_path) == [
        f"study in the name {values['study']}.png", "MRN in a.csv", "comment in b.gz",
        "address in c", "birth date in d",
    ]  # fmt: skip
    shutil.copy(canaries.film, tmp_path / "film")
    planted = {line.split(" in ")[0] for line in leaks(canaries, tmp_path) if "in film" in line}
    assert planted == values.keys() - {"note"}
    record = {line.split(" in ")[0] for line in leaks(canaries, canaries.record)}
    assert {"note", "birth date", "MRN", "name", "phone", "address"} <= record


def test_score_and_export(canaries: Canaries, model: Path, run: Run, tmp_path: Path) -> None:
    out, scores = tmp_path / "out", tmp_path / "out" / "scores"
    command = ["score", canaries.film, "--model", model, "--gate", "off", "--out", scores]
    assert run(*command)[0] == 0
    assert leaks(canaries, out) == []
    command = ["export", canaries.film, "--scores", scores, "--out", out / "dicom"]
    assert run(*command, "--segmentation")[0] == 0
    there = leaks(canaries, out)
    assert there and all(line.endswith(".dcm") and "the name" not in line for line in there)
    assert {line.split(" in ")[0] for line in there} <= CARRIED
    assert {"name", "MRN", "study"} <= {line.split(" in ")[0] for line in there}


def test_score_of_films_that_are_not_scored(
    canaries: Canaries, model: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    score = ["score", "--model", model, "--out", out / "scores"]
    code, said = run(*score, "--gate", "off", canaries.film, canaries.broken)
    assert code == 2 and "damaged or cut short" in said
    gate = ["--gate-from", model_folder("adult")]
    code, said = run(*score, *gate, canaries.turned)
    assert code == 2 and "not scored" in said
    listing = ["--unreadable", "list", "--gate", "off"]
    assert run(*score, *listing, canaries.film, canaries.broken)[0] == 0
    assert (out / "scores" / "unreadable.csv").is_file()
    assert leaks(canaries, out) == []


@pytest.mark.parametrize("dates", ["--dates", "--no-dates"])
def test_deidentify(canaries: Canaries, key: Path, run: Run, tmp_path: Path, dates: str) -> None:
    out = tmp_path / "out"
    command = ["deidentify", canaries.folder, "--key", key, dates]
    code, said = run(*command, "--out", out / "films")
    assert code == 2 and "file number 3" in said
    assert not (out / "films").exists()
    assert run(*command, "--out", out / "films", "--unreadable", "list")[0] == 0
    assert len([*(out / "films").glob("*.dcm")]) == 2
    assert leaks(canaries, out) == []


def test_cohort_and_its_scores(
    canaries: Canaries, model: Path, key: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cohort, record = out / "cohort", f"fhir:{canaries.record}"
    command = ["cohort", f"dicom:{canaries.folder}", "--record", record, "--key", key]
    assert run(*command, "--out", cohort)[0] == 0
    films = ["--films", f"cohort:{cohort}", "--model", model, "--gate", "off"]
    options = ["--unreadable", "list", "--missing-fields", "mask"]
    assert run("score", *films, *options, "--out", out / "scores")[0] == 0
    (cohort / PLACES).unlink()  # where the films lie; it stays in the house (docs/cohorts.md)
    assert leaks(canaries, out) == []
