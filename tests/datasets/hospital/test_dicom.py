"""A hospital's folder of DICOM files: who is a frontal chest film, and what leaves the house."""

import hashlib
import hmac
import json
import re
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.datasets.examples import EXAMPLES, Copy
from nofinding.types import Exam

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "dicom"
KEY = b"a secret of thirty-two bytes ...."
CHEST = {
    "PatientID": "P1", "StudyInstanceUID": "1.2.3.4", "BodyPartExamined": "CHEST",
    "ViewPosition": "PA", "StudyDate": "20200301", "StudyTime": "120000",
}  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(root=tmp_path / "films", patients=8, seed=0, size=64)


def add(copy: Copy, path: str, number: int = 0, **tags: object) -> None:
    """A chest film, PA, of patient P1 in study 1.2.3.4, but for the tags."""
    copy.dicom(path, copy.film(number), **{**CHEST, **tags})


@pytest.fixture
def cohort_of(copy: Copy) -> Callable[..., list[Exam]]:
    def make(*options: str) -> list[Exam]:
        out = copy.root.parent / "cohort"
        key = copy.root.parent / "key"
        key.write_bytes(KEY)
        key.chmod(0o600)
        arguments = ["cohort", f"dicom:{copy.root}", "--out", str(out), "--overwrite"]
        assert main([*arguments, "--key", str(key), *options]) == 0
        return list(SOURCES["cohort"].read(str(out), FIELDS))

    return make


def said(copy: Copy) -> dict[str, int]:
    """Reasons and remarks of the flow, and how often."""
    flow = json.loads((copy.root.parent / "cohort" / "cohort.json").read_text())["flow"]
    steps = {step["reason"]: step["films"] for step in flow["steps"]}
    return steps | {remark["what"]: remark["count"] for remark in flow["remarks"]}


def pseudonym(kind: str, text: str) -> str:
    """By Python's own HMAC."""
    return f"{kind}-" + hmac.new(KEY, f"{kind}|{text}".encode(), "sha256").hexdigest()[:20]


LEFT_OUT: list[tuple[dict[str, object], str]] = [
    ({"ViewPosition": "LL"}, "neither PA nor AP"),
    ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "neither PA nor AP"),
    ({"ViewPosition": None, "PatientOrientation": ["LA", "F"]}, "neither PA nor AP"),
    ({"ViewPosition": None}, "frontal or lateral is not stated"),
    (
        {"PatientOrientation": ["P", "F"]},
        "ViewPosition and PatientOrientation contradict each other",
    ),
    ({"BodyPartExamined": "HAND"}, "another body part than the chest"),
    ({"BodyPartExamined": None}, "body part not stated"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "a secondary capture"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, "a secondary capture"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "neither a CR nor a DX image"),
    ({"Modality": "MG"}, "neither CR nor DX"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localiser"),
    ({"NumberOfFrames": "12"}, "more than one frame"),
    ({"PatientID": None}, "no PatientID"),
    ({"PhotometricInterpretation": "RGB"}, "is not MONOCHROME1 or MONOCHROME2"),
    ({"BitsStored": 4}, "its size or depth is not decoded"),
]


def test_what_is_no_frontal_chest_film_is_counted_by_reason(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    add(copy, "kept")
    for number, (tags, _) in enumerate(LEFT_OUT):
        add(copy, f"other {number}", number + 1, **tags)
    assert len(cohort_of()) == 1
    assert said(copy) == Counter(reason for _, reason in LEFT_OUT)


def test_what_is_a_frontal_chest_film(copy: Copy, cohort_of: Callable[..., list[Exam]]) -> None:
    for number, tags in enumerate(
        (
            {"ViewPosition": "AP"},
            {"ViewPosition": None, "PatientOrientation": ["L", "F"]},
            {"BodyPartExamined": "PORTABLE_CHEST"},
            {"Modality": "CR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"},
        )
    ):
        add(copy, f"film {number}", number, SOPInstanceUID=f"1.2.{number}", **tags)
    views = {film.image_id: film.view for film in cohort_of()}
    expected = ["AP", None, "PA", "PA"]
    assert views == {pseudonym("film", f"1.2.{n}"): view for n, view in enumerate(expected)}


def test_a_view_and_a_region_in_codes(copy: Copy, cohort_of: Callable[..., list[Exam]]) -> None:
    def items(code: str) -> list[Dataset]:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = code, "SCT"
        return [item]

    chest = items(codes.SCT.Chest.value)
    coded = {"ViewPosition": None, "BodyPartExamined": None, "AnatomicRegionSequence": chest}
    add(copy, "ap", 0, **coded, ViewCodeSequence=items(codes.SCT.AnteroPosterior.value))
    add(copy, "side", 1, **coded, ViewCodeSequence=items(codes.SCT.LeftLateral.value))
    (film,) = cohort_of()
    assert film.view == "AP"
    assert said(copy) == {"neither PA nor AP": 1}


def test_hostile_and_foreign_files_are_counted(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    add(copy, "film.dcm")
    whole = (copy.root / "film.dcm").read_bytes()
    (copy.root / "cut.dcm").write_bytes(whole[:140])
    rng = np.random.default_rng(0)
    (copy.root / "noise").write_bytes(bytes(128) + b"DICM" + rng.bytes(4000))
    (copy.root / "empty.dcm").write_bytes(b"")
    copy.picture("a.png", copy.film(0))
    assert len(cohort_of()) == 1
    counts = said(copy)
    assert counts.pop("not a DICOM file") == 2
    assert sum(counts.values()) == 2  # whatever they are taken for


def test_one_uid_twice(copy: Copy, cohort_of: Callable[..., list[Exam]]) -> None:
    for path in ("a", "b"):
        add(copy, path, 0, SOPInstanceUID="1.2.3.4.5")
    for path, number in (("c", 1), ("d", 2)):
        add(copy, path, number, SOPInstanceUID="1.2.3.4.6")
    assert [film.image_id for film in cohort_of()] == [pseudonym("film", "1.2.3.4.5")]
    assert said(copy) == {
        "the same file once more": 1,
        "the SOP Instance UID of another file with other content": 2,
    }


def test_the_image_for_presentation_comes_before_the_raw_one(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    raw = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1",
        "PresentationIntentType": "FOR PROCESSING",
    }
    add(copy, "shown", 0, PresentationIntentType="FOR PRESENTATION")
    add(copy, "raw", 1, **raw)
    add(copy, "later", 2, **raw, StudyTime="121500", SOPInstanceUID="1.2.3.9")  # no twin
    films = cohort_of()
    assert len(films) == 2
    (later,) = [film for film in films if film.image_id == pseudonym("film", "1.2.3.9")]
    assert later.flags == ("film: raw, FOR PROCESSING",)
    counts = said(copy)
    assert counts["FOR PROCESSING, and the image FOR PRESENTATION is there"] == 1
    assert counts["film: raw, FOR PROCESSING; kept"] == 1


def test_the_record_of_the_header(copy: Copy, cohort_of: Callable[..., list[Exam]]) -> None:
    months = {"PatientAge": "018M", "PatientSex": "O", "PatientSize": "0.8", "PatientWeight": "11"}
    born = {"PatientBirthDate": "19500301", "PatientSex": "F", "PatientSize": "175"}
    add(copy, "a", 0, **months, SOPInstanceUID="1.2.1")
    add(copy, "b", 1, **born, SOPInstanceUID="1.2.2", PatientID="P2")
    films = {film.image_id: film for film in cohort_of()}
    child, woman = (films[pseudonym("film", uid)] for uid in ("1.2.1", "1.2.2"))
    assert child.ehr == pytest.approx(
        {"age": 1.5, "view": 0, "height": 80, "weight": 11, "bmi": 11 / 0.64}
    )
    assert woman.ehr == {"age": pytest.approx(25568 / 365.25), "sex": 0, "view": 0}
    assert woman.flags == ("height: 17500 is outside 30 to 250 cm",)
    assert woman.taken is not None and woman.taken.isoformat() == "2020-03-01T12:00:00+00:00"


def test_a_record_table_by_patient_and_date(
    copy: Copy, cohort_of: Callable[..., list[Exam]], tmp_path: Path
) -> None:
    add(copy, "a", 0, SOPInstanceUID="1.2.1", PatientWeight="99")
    add(copy, "b", 1, SOPInstanceUID="1.2.2", StudyDate="20210301")
    table = tmp_path / "vitals.csv"
    table.write_text(
        "patient_id,taken,weight [lb],Height (in),findings\n"
        "P1,2020-02-20,150,,Mass\n"
        "P1,2020-03-02,160,,No Finding\n"
        "P1,2020-03-01,,70,\n"
        "P1,2020-02-01,200 stone,,\n"
        f"{pseudonym('patient', 'P1')},2021-03-01 08:00:00,80 kg,oops,Nodule|Mass\n"
        "P9,2020-03-01,70,,\n"
    )
    films = {film.image_id: film for film in cohort_of("--record", str(table), "--window", "10")}
    one, other = (films[pseudonym("film", uid)] for uid in ("1.2.1", "1.2.2"))
    assert one.ehr["weight"] == pytest.approx(160 * 0.45359237)  # one day, not ten
    assert one.ehr["height"] == pytest.approx(177.8)
    assert one.ehr["bmi"] == pytest.approx(160 * 0.45359237 / 1.778**2)
    assert one.findings == frozenset()  # of the same day
    assert other.ehr["weight"] == 80
    assert other.findings == frozenset({"Nodule", "Mass"})
    counts = said(copy)
    assert counts["height: readings with no number, not used"] == 1
    assert counts["weight: readings with out of range, not used"] == 1
    assert counts["rows of the record table that are of none of the films"] == 1
    assert counts["values of the record from after the film"] == 1


def test_a_record_table_in_parquet_by_film(
    copy: Copy, cohort_of: Callable[..., list[Exam]], tmp_path: Path
) -> None:
    add(copy, "a", 0, SOPInstanceUID="1.2.1")
    add(copy, "b", 1, SOPInstanceUID="1.2.2")
    table = pa.table(
        {
            "image_id": ["1.2.1", "1.2.2", "1.2.2"],
            "temperature [degF]": [98.6, 99.0, 101.0],
            "sex": ["f", None, "NA"],
            "findings": ["No Finding", "Mass", "Nodule"],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    films = {film.image_id: film for film in cohort_of("--record", str(tmp_path / "t.parquet"))}
    one, other = (films[pseudonym("film", uid)] for uid in ("1.2.1", "1.2.2"))
    assert one.ehr == pytest.approx({"temperature": 37, "sex": 0, "view": 0})
    assert one.findings == frozenset()
    assert "temperature" not in other.ehr and other.findings is None  # two rows disagree
    counts = said(copy)
    assert counts["temperature: the record table has two values for one image_id, not used"] == 1
    assert counts["findings: the record table has two for one image_id, not used"] == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name,weight\nx,1\n", "has none of the columns image_id, study_id, patient_id"),
        ("patient_id,weight [cm]\nP1,1\n", "column 'weight [cm]': weight: unit 'cm' cannot"),
        ("patient_id,weight,Weight [lb]\nP1,1,2\n", "two columns are called 'weight'"),
        ("", "is empty"),
    ],
)
def test_a_record_table_that_cannot_be_right(
    copy: Copy, tmp_path: Path, text: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add(copy, "a")
    (tmp_path / "t.csv").write_text(text)
    arguments = ["cohort", f"dicom:{copy.root}", "--out", str(tmp_path / "c")]
    assert main([*arguments, "--record", str(tmp_path / "t.csv")]) == 2
    output = capsys.readouterr().err.strip()
    assert error in output and len(output.splitlines()) == 1
    assert not (tmp_path / "c").exists()


def test_no_id_leaves_the_house(tmp_path: Path) -> None:
    """Neither ids nor UIDs nor paths nor the key are in what may be shared."""
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    EXAMPLES["dicom"](copy)
    key = tmp_path / "key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    out = tmp_path / "cohort"
    assert main(["cohort", f"dicom:{copy.root}", "--out", str(out), "--key", str(key)]) == 0
    rows = pq.read_table(out / "films.parquet").to_pylist()
    shared = [(out / name).read_text() for name in ("cohort.json", "cohort.html")]
    for text in (repr(rows), *shared):
        assert not re.search(r"MRN\d|Phantom|\d(\.\d+){5,}|IM0001", text)
        assert KEY.decode() not in text
    places = out / "places.parquet"
    assert stat.S_IMODE(places.stat().st_mode) == 0o600
    assert all("MRN" in path for path in pq.read_table(places).column("path").to_pylist())
    assert rows[0]["patient_id"] in {
        pseudonym("patient", f"MRN{100_000 + 7 * n}") for n in range(8)
    }
    ids = {row["patient_id"] for row in rows}
    assert not ids & {
        hashlib.sha256(f"MRN{100_000 + 7 * n}".encode()).hexdigest() for n in range(8)
    }
    places.unlink()
    assert main(["fit", "mean-grey", "--films", f"cohort:{out}", "--out", str(tmp_path / "m")]) == 2


def test_another_key_gives_other_pseudonyms_and_a_bad_one_is_refused(
    copy: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(copy, "a")
    arguments = ["cohort", f"dicom:{copy.root}", "--out"]
    ids = []
    for name, secret in (("one", "0123456789abcdef"), ("two", "0123456789abcdeg")):
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)
        out = tmp_path / f"cohort {name}"
        assert main([*arguments, str(out), "--key", str(tmp_path / name)]) == 0
        ids.append(next(iter(SOURCES["cohort"].read(str(out), FIELDS))).patient_id)
    assert ids[0] != ids[1]
    (tmp_path / "short").write_text("abc")
    (tmp_path / "short").chmod(0o600)
    (tmp_path / "one").chmod(0o644)
    copy.text("key", ["0123456789abcdef"])
    for file, error in (
        (tmp_path / "short", "has 3 bytes; give 16 to 64"),
        (tmp_path / "one", "everybody may read it"),
        (copy.root / "key", "lies among the films"),
        (tmp_path / "none", "cannot be read"),
    ):
        capsys.readouterr()
        assert main([*arguments, str(tmp_path / "bad"), "--key", str(file)]) == 2
        assert error in capsys.readouterr().err


def test_the_own_key_is_made_once_for_its_owner_alone(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    add(copy, "a")
    ids = []
    for name in ("one", "two"):
        assert main(["cohort", f"dicom:{copy.root}", "--out", str(tmp_path / name)]) == 0
        ids.append(next(iter(SOURCES["cohort"].read(str(tmp_path / name), FIELDS))).patient_id)
    key = tmp_path / "config" / "nofinding" / "pseudonym.key"
    assert ids[0] == ids[1]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(bytes.fromhex(key.read_text())) == 32


@pytest.mark.films
@pytest.mark.skipif(not REAL.is_dir(), reason="the real films are not here")
def test_the_real_films(tmp_path: Path) -> None:
    """One CR film that says what it is, and one that is a secondary capture by its own word."""
    out = tmp_path / "cohort"
    assert main(["cohort", f"dicom:{REAL}", "--out", str(out)]) == 0
    (film,) = SOURCES["cohort"].read(str(out), FIELDS)
    assert film.view == "PA" and film.findings is None
    assert film.ehr == {"sex": 0, "view": 0, "age": pytest.approx(55.56, abs=0.01)}
    flow = json.loads((out / "cohort.json").read_text())["flow"]
    assert flow["steps"] == [{"reason": "a secondary capture", "films": 1, "patients": 1}]
