"""How often a file, and a cohort, is read: each reading costs a hospital its time."""

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import nofinding as nf
from nofinding.cli import main
from nofinding.data.decoding import decode
from nofinding.datasets import SOURCES
from nofinding.datasets.local.single_files import Known
from nofinding.service.intake.offer import identity_of
from nofinding.service.store.home import Home
from nofinding.service.workers.worker import Worker
from support.serving import dicom_film, options_for, send, small_model

HEADERS = {"header", "identity", "about", "study"}  # what the decoder is asked for but pixels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """Counts what the decoder's process is asked for: whatever reads a film goes through there.
    The cache of decoded films is empty."""
    monkeypatch.setenv("NOFINDING_CACHE", str(tmp_path / "cache"))
    counts: Counter[str] = Counter()
    plain = decode._Child.ask

    def ask(self: decode._Child, path: Path, what: str, **more: str | bool) -> Any:
        counts["headers" if what in HEADERS else what] += 1
        return plain(self, path, what, **more)

    monkeypatch.setattr(decode._Child, "ask", ask)
    return counts


def test_single_files_are_read_once_for_their_header_and_once_for_their_pixels(
    asked: Counter[str], model: Path, tmp_path: Path
) -> None:
    films = [str(dicom_film(tmp_path / "films", n)) for n in range(2)]
    command = ["score", *films, "--model", str(model), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert asked == {"headers": 2, "pixels": 2}


def test_so_they_are_where_the_model_follows_from_the_age(
    asked: Counter[str], tmp_path: Path
) -> None:
    film = dicom_film(tmp_path / "films", 0)
    given = ["--ehr", "age=50", "--gate", "flag", "--out", str(tmp_path / "out")]
    assert main(["score", str(film), *given]) == 0
    assert asked == {"headers": 1, "pixels": 1}


def test_so_they_are_where_a_record_is_asked_for(
    asked: Counter[str], model: Path, tmp_path: Path
) -> None:
    film = dicom_film(tmp_path / "films", 0)
    (tmp_path / "fhir").mkdir()
    (tmp_path / "fhir" / "all.ndjson").write_text(json.dumps({"resourceType": "Patient"}) + "\n")
    command = ["score", str(film), "--model", str(model), "--record", f"fhir:{tmp_path / 'fhir'}"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert asked == {"headers": 1, "pixels": 1}


def test_so_they_are_in_python(asked: Counter[str], model: Path, tmp_path: Path) -> None:
    nf.load(model).predict(dicom_film(tmp_path / "films", 0))
    assert asked == {"headers": 1, "pixels": 1}


def test_a_cohort_is_read_once_where_the_model_follows_from_the_ages(
    asked: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = [dicom_film(tmp_path / "films", n) for n in range(3)]
    with (tmp_path / "films.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image_id", "path", "patient_id", "age"))
        rows.writerows((f"i{n}", film, f"p{n}", 40 + n) for n, film in enumerate(films))
    reads: Counter[str] = Counter()
    plain = type(SOURCES["table"]).read

    def read(self: Any, root: str, fields: Mapping[str, Any]) -> Any:
        reads[root] += 1
        return plain(self, root, fields)

    monkeypatch.setattr(type(SOURCES["table"]), "read", read)
    source = f"table:{tmp_path / 'films.csv'}"
    given = ["--gate", "flag", "--missing-fields", "mask", "--out", str(tmp_path / "out")]
    assert main(["score", "--films", source, *given]) == 0
    assert [*reads.values()] == [1]
    assert asked == {"pixels": 3}


def test_a_worker_reads_a_header_once_and_its_intake_once(
    asked: Counter[str], model: Path, tmp_path: Path
) -> None:
    options = options_for(tmp_path, model)
    given: list[Mapping[str, Any]] = []

    def lookup(path: Path, identity: Mapping[str, Any]) -> Known:
        given.append(identity)
        return Known({}, ())

    worker = Worker(
        Home(options.home, keep_free=0), options, "w", lookup=lookup, deliver=["stow:http://a"]
    )
    film = dicom_film(tmp_path / "films", 0)
    assert identity_of(film).patient == "|P-0"  # as an intake asks before it keeps the film
    assert asked == {"headers": 1}
    asked.clear()
    send(worker.home, film)
    assert worker.step() == 1
    assert asked == {"headers": 1, "pixels": 1}
    assert given and "00100020" in given[0]  # of that one reading, the record is asked for by it
