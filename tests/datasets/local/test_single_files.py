"""Single films from the command line, and what their headers add."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from nofinding.data.ehr import FIELDS
from nofinding.datasets.local.single_files import _from_header, file_exams
from nofinding.errors import UserError


def png(path: Path) -> Path:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    return path


def dicom(path: Path, **tags: str) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_pairs_hold_for_every_file(tmp_path: Path) -> None:
    paths = [png(tmp_path / "a.png"), png(tmp_path / "b.png")]
    pairs = ["age=63", "sex=M", "view = AP", "weight=180 lb", "bmi="]
    first, second = file_exams(paths, pairs, FIELDS)
    expected = {"age": 63, "sex": 1, "view": 1, "weight": 81.6466}
    assert first.ehr == pytest.approx(expected, rel=1e-5) and second.ehr == first.ehr
    assert (first.image_id, second.image_id, first.view) == ("a", "b", "AP")
    assert first.findings is None and first.split is None
    assert first.pixels().shape == (9, 9)


def test_the_header_speaks_where_the_user_did_not(tmp_path: Path) -> None:
    path = dicom(
        tmp_path / "a.dcm",
        PatientAge="063Y",
        PatientSex="O",  # of no interest, since the user says M
        ViewPosition="PA",
        PatientSize="1.71",
        PatientWeight="70",
    )
    (exam,) = file_exams([path], ["sex=M"], FIELDS)
    expected = {"age": 63, "sex": 1, "view": 0, "height": 171, "weight": 70}
    assert exam.ehr == pytest.approx(expected) and exam.view == "PA"
    assert exam.flags == ()


@pytest.mark.parametrize(
    ("age", "years"), [("018M", 1.5), ("081", 81), ("010D", 10 / 365.25), ("004W", 28 / 365.25)]
)
def test_ages_have_units(age: str, years: float) -> None:
    assert _from_header({"PatientAge": age}, FIELDS, {})[0]["age"] == pytest.approx(years)


def test_what_a_header_cannot_mean_is_a_flag_that_does_not_quote_it(tmp_path: Path) -> None:
    path = dicom(
        tmp_path / "a.dcm", PatientAge="999Y", PatientSex="O", ViewPosition="LL", PatientSize="0"
    )
    (exam,) = file_exams([path], [], FIELDS)
    assert exam.ehr == {} and exam.view is None
    assert sorted(flag.split(":")[0] for flag in exam.flags) == ["age", "height", "sex", "view"]
    assert "LL" not in " ".join(exam.flags)


def test_a_uid_does_not_become_an_image_id(tmp_path: Path) -> None:
    path = png(tmp_path / "1.3.6.1.4.1.11129.5.5.110503.png")
    (exam,) = file_exams([path], [], FIELDS)
    assert exam.image_id == "film-" + exam.pixels.fingerprint()[:12]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["age"], "is not key=value"),
        (["smoker=yes"], "'smoker' is not one of age, sex, view"),
        (["age=3", "age=4"], "given twice"),
        (["age=old"], "--ehr age: 'old' is not a number"),
        (["sex=X"], "'X' is not one of F, M"),
        (["height=3 kg"], "unit 'kg'"),
    ],
)
def test_bad_pairs_are_refused(tmp_path: Path, pairs: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        file_exams([png(tmp_path / "a.png")], pairs, FIELDS)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"hello")
    (tmp_path / "sub").mkdir()
    for paths, said in (
        ([tmp_path / "none.png"], "does not exist"),
        ([tmp_path / "b.png"], "not a PNG, JPEG or DICOM"),
        ([tmp_path / "sub"], "is not a file"),
        ([png(tmp_path / "a.png"), png(tmp_path / "sub" / "a.png")], "'a'"),
    ):
        with pytest.raises(UserError, match=said):
            file_exams(paths, [], FIELDS)


@given(st.dictionaries(st.sampled_from(["PatientAge", "PatientSex", "PatientSize"]), st.text()))
def test_no_header_raises(header: dict[str, str]) -> None:
    values, flags = _from_header(header, FIELDS, {})
    assert set(values) <= {"age", "sex", "height"} and len(flags) + len(values) <= len(header)
