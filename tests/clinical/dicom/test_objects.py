"""DICOM objects of a result: read back with pydicom and highdicom, and judged by dciodvfy."""

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import DataElement, Dataset, config, dcmread

from nofinding.clinical.dicom.objects import DicomObject, objects_of
from nofinding.clinical.dicom.source import read_source, spacing_of
from nofinding.clinical.result import Result, on_the_film
from nofinding.data.decoding.decode import FilmFile
from nofinding.data.image import fit_square
from nofinding.datasets.examples import Copy
from nofinding.errors import UserError

TAGS = {
    "PatientID": "P-1",
    "PatientName": "Phantom^One",
    "PatientBirthDate": "19600101",
    "PatientSex": "F",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2",
    "StudyDate": "20260101",
    "StudyTime": "101500",
    "ViewPosition": "PA",
    "PatientOrientation": ["L", "F"],
    "ImagerPixelSpacing": [0.2, 0.2],
}


def result(**changes: object) -> Result:
    spot = np.zeros((64, 64), np.float32)
    spot[10, 40] = 2.0
    message = {
        "score": 1.25, "p_value": 0.02, "calibration": "200 normal films of val",
        "method": "diff3m-f", "model": "adult", "sha256": "ab" * 32, "version": "0.1.0",
        "fields": ("age", "sex"), "attention": {"age": 0.75, "sex": 0.25},
        "flags": ("height: 900 is outside 30 to 250 cm",), "anomaly_map": spot, "threshold": 0.5,
    }  # fmt: skip
    return Result(**(message | changes))  # type: ignore[arg-type]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=128)
    return copy.dicom("film.dcm", copy.film(0)[:96], **TAGS)


def objects_by_kind(film: Path, **changes: object) -> dict[str, DicomObject]:
    source, pixels = read_source(film), FilmFile(film)()
    return {m.kind: m for m in objects_of(source, pixels, result(**changes), segmentation=True)}


@pytest.mark.parametrize("kind", ["report", "picture", "map", "segmentation"])
def test_the_standard_is_kept(kind: str, film: Path, tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    objects_by_kind(film)[kind].dataset.save_as(tmp_path / "made.dcm", enforce_file_format=True)
    process = subprocess.run(
        ["dciodvfy", "-new", str(tmp_path / "made.dcm")], capture_output=True, text=True, check=True
    )
    assert not [line for line in process.stderr.splitlines() if line.startswith("Error")]


def numbers(report: Dataset) -> dict[str, float]:
    """Name and value of every NUM item but those that describe the film in the image library."""
    entries = {}
    waiting = [report]
    while waiting:
        item = waiting.pop()
        if item.get("ConceptNameCodeSequence") and (
            item.ConceptNameCodeSequence[0].CodeMeaning == "Image Library"
        ):
            continue
        waiting += list(item.get("ContentSequence", []))
        if item.get("ValueType") == "NUM":
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            entries[name] = float(item.MeasuredValueSequence[0].NumericValue)
    return entries


def test_the_report_says_all_of_the_result(film: Path) -> None:
    report = objects_by_kind(film)["report"].dataset
    assert numbers(report) == {
        "Anomaly score": 1.25,
        "P-Value": 0.02,
        "Share of attention on age": 0.75,
        "Share of attention on sex": 0.25,
    }
    text = " ".join(str(e.value) for e in report.iterall() if e.VR != "SQ")
    assert "Research use only" in text and "RESEARCH USE ONLY" in text
    assert "ab" * 32 in text and "200 normal films of val" in text and "diff3m-f" in text
    assert "height: 900 is outside" in text
    source = read_source(film)
    assert report.PatientID == "P-1" and report.StudyInstanceUID == source.StudyInstanceUID
    assert str(source.SOPInstanceUID) in text and report.VerificationFlag == "UNVERIFIED"


def test_without_p_value_or_attention_nothing_is_claimed(film: Path) -> None:
    report = objects_by_kind(film, p_value=None, attention={}, flags=())["report"].dataset
    assert numbers(report) == {"Anomaly score": 1.25}


def test_the_map_lies_on_the_film(film: Path) -> None:
    dataset = objects_by_kind(film)["map"].dataset
    grid = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(dataset.Rows, dataset.Columns)
    # 96 x 128 on a square of 64: 48 rows are film, from row 8 on
    assert grid.shape == (48, 64)
    assert np.argwhere(grid == 2.0).tolist() == [[2, 40]]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    assert [float(v) for v in spacing] == pytest.approx([96 * 0.2 / 48, 128 * 0.2 / 64])
    assert dataset.ContentQualification == "RESEARCH"
    assert dataset.FrameOfReferenceUID


def test_the_segmentation_is_the_map_above_its_threshold(film: Path) -> None:
    dataset = objects_by_kind(film)["segmentation"].dataset
    mask = hd.seg.Segmentation.from_dataset(dataset).pixel_array.squeeze()
    assert np.argwhere(mask).tolist() == [[2, 40]]
    assert dataset.ContentQualification == "RESEARCH"


def test_the_picture_shows_film_map_and_notice(film: Path) -> None:
    shown = objects_by_kind(film)["picture"].dataset
    rgb = shown.pixel_array
    assert rgb.shape[2] == 3 and rgb.shape[1] == 1024 and rgb.shape[0] > 768
    colourful = np.ptp(rgb[:768].astype(int), axis=2)
    rows, columns = np.nonzero(colourful > 60)
    # the spot is at (2.5, 40.5) of 48 x 64
    assert np.allclose([rows.mean(), columns.mean()], [2.5 * 16, 40.5 * 16], atol=12)
    assert rgb[768:].max() == 255  # the notice
    plain = objects_by_kind(film, anomaly_map=None)
    assert "map" not in plain and "segmentation" not in plain
    assert np.ptp(plain["picture"].dataset.pixel_array[:768].astype(int), axis=2).max() == 0


def test_made_twice_it_is_the_same_object(film: Path) -> None:
    one, two = objects_by_kind(film), objects_by_kind(film)
    for kind, first in one.items():
        assert first.dataset.SOPInstanceUID == two[kind].dataset.SOPInstanceUID
    other = objects_by_kind(film, score=1.5)
    assert all(other[k].dataset.SOPInstanceUID != one[k].dataset.SOPInstanceUID for k in one)


@pytest.mark.parametrize(("high", "wide"), [(96, 128), (128, 96), (100, 100), (31, 200)])
def test_a_map_is_cut_as_the_film_was_padded(high: int, wide: int) -> None:
    square = fit_square(np.ones((high, wide), np.float32), 64)
    cut = on_the_film(square.astype(np.float32), high, wide, "pad")
    assert cut.min() > 0 and cut.size == np.count_nonzero(square)
    assert on_the_film(square, high, wide, "squash").shape == (64, 64)


def test_values_that_no_archive_takes_are_left_empty(tmp_path: Path) -> None:
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    film = copy.dicom("film.dcm", copy.film(0), **{k: TAGS[k] for k in list(TAGS)[4:6]})
    data = dcmread(film)
    data.add(DataElement("PatientAge", "AS", "81", validation_mode=config.IGNORE))
    data.save_as(film)
    source = read_source(film)
    assert "PatientAge" not in source and not source.PatientName
    assert spacing_of(source) == (1.0, 1.0)
    assert set(objects_by_kind(film)) == {"report", "picture", "map", "segmentation"}


@pytest.mark.parametrize(
    ("keyword", "value", "left"),
    [
        ("PatientSex", "W", None),
        ("PatientSex", ["M", "F"], None),
        ("PatientName", ["Phantom^One", "Phantom^Two"], None),
        ("PatientID", ["P-1", "P-2"], None),
        ("StudyDate", ["20260101", "20260102"], None),
        ("PatientOrientation", "L", None),
        ("PatientOrientation", ["LL", "F"], None),
        ("PatientOrientation", ["LEFT", "FEET"], None),
        ("SpecificCharacterSet", ["", "ISO 2022 IR 87"], "ISO_IR 192"),  # as in Japan
        ("SpecificCharacterSet", "ISO_IR 6", "ISO_IR 192"),
        ("SpecificCharacterSet", "LATIN1", "ISO_IR 192"),
        ("SpecificCharacterSet", "ISO_IR 100", "ISO_IR 100"),
    ],
)
def test_a_header_that_is_wrong_stops_no_object(
    keyword: str, value: Any, left: str | None, film: Path
) -> None:
    data = dcmread(film)
    kind = data[keyword].VR if keyword in data else "CS"
    data[keyword] = DataElement(keyword, kind, value, validation_mode=config.IGNORE)
    data.save_as(film)
    assert (read_source(film).get(keyword) or None) == left
    assert set(objects_by_kind(film)) == {"report", "picture", "map", "segmentation"}


def test_a_name_in_japanese_letters_is_the_same_in_the_objects(film: Path) -> None:
    data = dcmread(film)
    data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    data.PatientName = "Yamada^Tarou=山田^太郎"
    data.save_as(film)
    stream = io.BytesIO()
    objects_by_kind(film)["report"].dataset.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    assert dcmread(stream).PatientName == "Yamada^Tarou=山田^太郎"


def test_what_has_no_study_is_refused(tmp_path: Path) -> None:
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    with pytest.raises(UserError, match="its StudyInstanceUID is missing"):
        read_source(copy.dicom("film.dcm", copy.film(0)))
    with pytest.raises(UserError, match="is not a DICOM file"):
        read_source(copy.picture("film.png", copy.film(0)))


def test_no_name_reaches_the_log(
    film: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    data = dcmread(film)
    data.PatientName = "Canary"  # one component, of which highdicom warns with the name
    data.save_as(film)
    objects_by_kind(film)
    assert "Canary" not in "".join(capfd.readouterr())
    assert not [w for w in recwarn if "Canary" in str(w.message)]
