"""No error quotes what a film or a model holds, and no path in a file leads out of its folder."""

import gzip
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000Lossless, RLELossless

from nofinding.cli import main
from nofinding.data.decoding.decode import FilmFile
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.datasets.examples import Copy
from nofinding.errors import UserError
from nofinding.model.bundle import load_model
from nofinding.service.store.audit_log import AuditLog, verify_audit
from nofinding.storage import checkpoint
from nofinding.storage.journal import Journal, entries
from nofinding.workflows.export import read_results
from support.dicom_film import PIXELS, film, in_bytes

MARK = b"ZQXMARK"  # where a name might stand


def tell(file: Path) -> None:
    """Has the program say all that it says of a file that is none of what it takes."""
    for command in (
        ["score", str(file), "--model", "adult"],
        ["score", str(file), "--model", "adult", "--gate", "off", "--no-maps"],
        ["export", str(file), "--scores", str(file.parent)],
        ["score", "--films", f"table:{file}", "--model", "adult"],
        ["fit", "ae", "--preset", "tiny", "--films", "phantom:train=4,val=0,test=0",
         "--fields-file", str(file)],
    ):  # fmt: skip
        assert main([*command, "--out", str(file.parent / "out")]) in (0, 2)


def dicom(**tags: Any) -> bytes:
    """A film with the mark in its header and in its pixels."""
    name = MARK.decode()
    dataset = film(PatientID=name, PatientComments=name, StudyDescription=name, **tags)
    dataset.PatientName = name
    dataset.PixelData = MARK + dataset.PixelData[len(MARK) :]
    return in_bytes(dataset)


def compressed(syntax: str) -> bytes:
    dataset = film(PatientName=MARK.decode())
    dataset.compress(syntax, generate_instance_uid=False)
    whole = in_bytes(dataset)
    return whole[:-100] + MARK + whole[-93:]


def png() -> bytes:
    buffer, notes = io.BytesIO(), PngImagePlugin.PngInfo()
    notes.add_text("Patient", MARK.decode())
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()[:-30]


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(buffer, "JPEG", comment=MARK)
    return buffer.getvalue()[:-40]


def nifti() -> bytes:
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    image.header["descrip"] = MARK
    return image.to_bytes()[:-9]


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"path": [MARK.decode()], MARK.decode(): [1]}), sink)
    return sink.getvalue()[:-9]


FILES: dict[str, Callable[[], bytes]] = {
    "modality.dcm": lambda: dicom(Modality=MARK.decode()),
    "photometric.dcm": lambda: dicom(PhotometricInterpretation=MARK.decode()),
    "bits.dcm": lambda: dicom(BitsStored=3),
    "cut.dcm": lambda: dicom()[:-200],
    "header.dcm": lambda: dicom()[: dicom().index(PIXELS) - 9],
    "vr.dcm": lambda: dicom().replace(b"\x10\x00\x10\x00PN", b"\x10\x00\x10\x00??"),
    "long.dcm": lambda: dicom().replace(MARK + b"\0", MARK + b"\xff", 1),
    "j2k.dcm": lambda: compressed(JPEG2000Lossless)[:-300],
    "rle.dcm": lambda: compressed(RLELossless)[:-300],
    "a.png": png,
    "a.jpg": jpeg,
    "a.nii": nifti,
    "a.nii.gz": lambda: gzip.compress(nifti())[:-12],
    "a.gz": lambda: gzip.compress(MARK * 9)[:-4],
    "a.parquet": parquet,
    "a.yaml": lambda: b"x: [" + MARK,
    "a.txt": lambda: MARK * 40,
    "a.json": lambda: b'{"' + MARK + b'": ',
    "a.bin": lambda: zlib.compress(MARK * 100),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_not_quoted(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    file = tmp_path / name
    file.write_bytes(FILES[name]())
    tell(file)
    out, err = capfd.readouterr()
    mark = MARK.decode()
    assert mark not in out and mark not in err and mark not in caplog.text
    assert len([line for line in err.splitlines() if line.startswith("nofinding: ")]) >= 3
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in written if MARK in path.read_bytes()]
    assert "Traceback" not in err


def test_a_damaged_model_is_not_quoted(tmp_path: Path) -> None:
    mark = MARK.decode()
    checkpoint.save(tmp_path / "model", {mark: torch.ones(2)}, {"format": 1, "note": mark})
    weights, described = tmp_path / "model.safetensors", tmp_path / "model.json"
    whole = weights.read_bytes(), described.read_bytes()
    meta = json.loads(whole[1])
    cases = [(whole[0][:-1], whole[1]), (whole[0], whole[1][:-9]), whole]
    for broken in (whole[0][:-4], struct.pack("<Q", 20) + MARK * 3):
        named = meta | {"sha256": hashlib.sha256(broken).hexdigest()}
        named["meta_sha256"] = checkpoint._meta_hash(
            {k: v for k, v in named.items() if k != "meta_sha256"}
        )
        cases.append((broken, json.dumps(named).encode()))
    for tensors, text in cases:
        weights.write_bytes(tensors)
        described.write_bytes(text)
        with pytest.raises(UserError) as caught:
            load_model(tmp_path)
        assert mark not in str(caught.value)


def test_logs_and_journals_are_not_quoted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit", b"sixteen bytes or more")
    for _ in range(2):
        log.write(MARK.decode(), "score")
    log.close()
    text = (tmp_path / "audit").read_bytes()
    for broken in (text.replace(b"score", b"erase", 1), text[:-9], text + MARK, MARK + text):
        (tmp_path / "audit").write_bytes(broken)
        with pytest.raises(UserError) as caught:
            verify_audit(tmp_path / "audit", b"sixteen bytes or more")
        assert MARK.decode() not in str(caught.value)
    with Journal(tmp_path / "j") as journal:
        journal.append({"film": MARK.decode()})
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes()[:-1] + MARK)
    assert [*entries(tmp_path / "j")] == []


# --- paths --------------------------------------------------------------------------------------

OUT = ("../outside.png", "inside/../../outside.png", "{absolute}", "link.png", "linked/outside.png")


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the key nor the cache of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
    monkeypatch.setenv("NOFINDING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a film in it and one beside it, to which links lead."""
    copy = Copy(root=tmp_path / "data", patients=8, seed=0, size=64)
    copy.picture("inside.png", copy.film(0))
    (tmp_path / "data" / "inside").mkdir()
    Image.fromarray(copy.film(1)).save(tmp_path / "outside.png")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path)
    return tmp_path


def cohort_of(place: Path, source: str, *options: str) -> list[Path]:
    """The films of a cohort, by where they lie."""
    out = place / "cohort"
    command = ["cohort", f"{source}:{place / 'data'}", "--out", str(out), *options]
    if main(command) != 0:
        return []
    films = [exam.pixels for exam in SOURCES["cohort"].read(str(out), FIELDS)]
    return [film.path.resolve() for film in films if isinstance(film, FilmFile)]


@pytest.mark.parametrize("way", OUT)
@pytest.mark.parametrize("source", ["fhir", "omop", "media"])
def test_a_cohort_stays_in_its_folder(source: str, way: str, place: Path) -> None:
    inside, outside = place / "data" / "inside.png", place / "outside.png"
    way = way.format(absolute=outside)
    assert (place / "data" / way).resolve() == outside.resolve() or way.startswith("/")
    data = place / "data"
    if source == "media":
        patient = {"resourceType": "Patient", "id": "a1", "gender": "male"}
        films = [
            {
                "resourceType": "Media",
                "status": "completed",
                "subject": {"reference": "Patient/a1"},
                "createdDateTime": "2020-06-01",
                "view": {"coding": [{"code": "272479007"}]},
                "content": {"contentType": "image/png", "url": url},
            }
            for url in ("inside.png", way, f"file://{outside}")
        ]
        lines = [json.dumps(one) for one in (patient, *films)]
        (data / "all.ndjson").write_text("\n".join(lines))
    else:
        who = "patient" if source == "fhir" else "person_id"
        rows = [f"{who},path,taken", "1,inside.png,2020-06-01", f"1,{way},2020-06-01"]
        (data / "films.csv").write_text("\n".join(rows) + "\n")
        (data / "PERSON.csv").write_text(
            "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth\n1,8507,1960,1,1\n"
        )
        (data / "MEASUREMENT.csv").write_text(
            "person_id,measurement_concept_id,measurement_date,measurement_datetime,"
            "value_as_number,unit_concept_id,operator_concept_id,unit_source_value\n"
        )
        (data / "all.ndjson").write_text('{"resourceType": "Patient", "id": "1"}\n')
    result = cohort_of(place, "fhir" if source == "media" else source)
    assert result == [inside.resolve()]


def test_a_directory_of_dicom_files_is_not_followed(place: Path) -> None:
    """A DICOMDIR names files; those that lie in the folder are found without it."""
    directory = get_testdata_file("DICOMDIR")
    assert isinstance(directory, str)
    (place / "data" / "DICOMDIR").write_bytes(Path(directory).read_bytes())
    copy = Copy(root=place / "other", patients=8, seed=0, size=64)
    tags = {"PatientID": "X", "BodyPartExamined": "CHEST", "ViewPosition": "PA",
            "StudyDate": "20200601"}  # fmt: skip
    beside = copy.dicom("one", copy.film(1), **tags)
    (place / "data" / "out").symlink_to(beside)
    own = Copy(root=place / "third", patients=8, seed=0, size=64).dicom("two", copy.film(2), **tags)
    own.rename(place / "data" / "two")
    assert cohort_of(place, "dicom") == [(place / "data" / "two").resolve()]


@pytest.mark.parametrize("way", ["../outside.png", "{absolute}", "a/../../outside.png"])
def test_a_cohort_that_was_changed_does_not_lead_out(way: str, place: Path) -> None:
    """With the right hash, which whoever changes it can write, too."""
    (place / "data" / "films.csv").write_text("patient,path,taken\n1,inside.png,2020-06-01\n")
    (place / "data" / "all.ndjson").write_text('{"resourceType": "Patient", "id": "1"}\n')
    assert cohort_of(place, "fhir")
    file = place / "cohort" / "films.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index("path")
    pq.write_table(table.set_column(at, "path", pa.array([way.format(absolute=place)])), file)
    description = place / "cohort" / "cohort.json"
    payload = json.loads(description.read_text())
    payload |= {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "places": None}
    description.write_text(json.dumps(payload))
    with pytest.raises(UserError, match="leads out of the folder"):
        [*SOURCES["cohort"].read(str(place / "cohort"), FIELDS)]


def test_an_image_id_does_not_lead_out_of_the_maps(tmp_path: Path) -> None:
    run = {"calibration_n": 0, "calibration_from": "none", "method": "ae", "model_sha256": "0",
           "versions": {"nofinding": "1"}, "aspect": "pad", "map_threshold": None,
           "fields": []}  # fmt: skip
    (tmp_path / "s" / "maps").mkdir(parents=True)
    (tmp_path / "s" / "run.json").write_text(json.dumps(run))
    np.save(tmp_path / "secret.npy", np.ones((4, 4), np.float32))
    np.save(tmp_path / "s" / "maps" / "a.npy", np.ones((4, 4), np.float32))
    ids = ["a", "../../secret", str(tmp_path / "secret")]
    rows = ["image_id,score,p_value,flags", *(f"{name},0.5,," for name in ids)]
    (tmp_path / "s" / "scores.csv").write_text("\n".join(rows) + "\n")
    result = read_results(tmp_path / "s")
    assert [name for name in ids if result[name].anomaly_map is not None] == ["a"]


def test_nothing_is_written_beside_the_outputs(place: Path) -> None:
    """A table may name films anywhere, as its user may; its ids name files in --out and no
    other."""
    (place / "films.csv").write_text('path,image_id\n"data/inside.png","../../../evil"\n')
    before = sorted(place.rglob("*"))
    command = ["score", "--films", f"table:{place / 'films.csv'}", "--model", "adult"]
    assert main([*command, "--missing-fields", "mask", "--out", str(place / "s")]) == 2
    assert sorted(place.rglob("*")) == before
