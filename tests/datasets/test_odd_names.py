"""Films with names that do not print, or are no UTF-8: in every source that walks a folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.datasets.examples import Copy
from nofinding.datasets.local.table import TABLE

ODD = ["a\u00a0", "b\u3000", "c\u202f", "d\u200b", "e\u00ad", "f\udcf6", "g"]


def picture(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (40, 40))
    with file.open("wb") as stream:
        Image.fromarray(values.astype(np.uint8)).save(stream, "PNG")


def test_a_folder_of_films_in_a_folder_that_is_no_utf8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "R\udcf6nt\u200bgen"
    for i, name in enumerate(ODD):
        picture(root / "chest_xray" / "train" / "NORMAL" / f"{name}.png", i)
    out = tmp_path / "o\udcf6" / "cohort"
    assert main(["cohort", f"kermany:{root}", "--out", str(out)]) == 0
    output = capsys.readouterr()
    assert f"listed: {len(ODD)} films" in output.err and "o\\xf6" in output.err
    films = [*SOURCES["cohort"].read(str(out), FIELDS)]
    assert len(films) == len(ODD)
    assert all(film.pixels().shape == (40, 40) for film in films)
    assert all(film.image_id.isascii() for film in films)
    assert "o\\xf6" not in (out / "cohort.html").read_text(encoding="utf-8")  # a name alone
    json.loads((out / "cohort.json").read_text(encoding="utf-8"))
    with (out / "films.parquet").open("rb") as stream:
        table = pq.read_table(stream)
    with (out / "part.parquet").open("wb") as stream:
        pq.write_table(table.slice(0, 4), stream)
    part = [*TABLE.read(str(out / "part.parquet"), FIELDS)]
    assert [(r.image_id, r.patient_id, r.findings, r.split, r.pixels) for r in part] == [
        (
            r.image_id,
            r.patient_id,
            r.findings,
            r.split,
            type(r.pixels)(r.pixels.path, p.pixels.where),
        )
        for r, p in zip(films, part, strict=False)
    ]
    assert main(["cohort", f"table:{out / 'part.parquet'}", "--out", str(tmp_path / "c2")]) == 0


def test_dicom_folders_and_fhir_files_so_named(tmp_path: Path) -> None:
    copy = Copy(root=tmp_path / "d", patients=8, seed=0, size=64)
    file = copy.dicom("film.dcm", copy.film(0), StudyInstanceUID="1.2.3.1", PatientID="7")
    for name in ODD[:-1]:
        (file.parent / name).mkdir()
        shutil.copy(file, file.parent / name / f"{name}.dcm")
    from nofinding.datasets.hospital.fhir.reading import read_folder
    from nofinding.storage.folder_walk import walk_files

    assert len([*walk_files(file.parent)]) == len(ODD)
    fhir = tmp_path / "x\udcf6\u00a0"
    fhir.mkdir()
    (fhir / "p\udcf6\u200b.ndjson").write_text('{"resourceType": "Patient", "id": "1"}\n')
    from collections import Counter

    assert [one["id"] for one in read_folder(fhir, ("Patient",), Counter())] == ["1"]
