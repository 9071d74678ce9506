"""Small inputs with a known right answer (../shared/cases, its README), through every intake."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from nofinding.cli import main
from nofinding.data.decoding.decode import FilmFile, read_about, read_studies
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.datasets.hospital.film_headers import stated_unfit
from nofinding.datasets.local.single_files import file_exams
from nofinding.errors import UserError
from nofinding.model.pretrained import shipped_for
from nofinding.scoring.predictor import Resident
from nofinding.service.intake.offer import identity_of
from support.serving import small_model

CASES = Path(os.environ.get("NOFINDING_CASES", Path(__file__).parents[2] / "shared" / "cases"))
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
STEP = 1 / 255
SAME = [  # (file, the most that a pixel may differ from ref, part of the flags)
    ("voi-lut/declared16-filled12", STEP, None),
    ("voi-lut/declared16-filled8", STEP, None),
    ("voi-lut/signed-ss-data", 1e-6, None),
    ("windows/comma-decimal", 1e-6, "WindowCenter"),
    ("windows/slope0", 1e-6, "RescaleSlope"),
    ("windows/mono1", 1e-6, None),
    *((f"overlay-bits/overlay-{form}", 1e-6, "beyond the bits")
      for form in ("native", "rle", "j2k", "jpegls")),
    ("overlay-bits/signed12-noext-j2k", 1e-6, None),
    ("rasters/full16", STEP, None),
    ("rasters/png16-filled12", STEP, "12 of its 16 bits"),
    ("rasters/png16-sbit12", STEP, None),
]  # fmt: skip
REFUSED = {
    "view_LL": "neither PA nor AP",
    "view_LATERAL": "neither PA nor AP",
    "header-lateral": "neither PA nor AP",
    "header-lateral-word": "neither PA nor AP",
    "header-hand": "another body part than the chest",
    "header-localizer": "a localiser",
}
AGES = {
    "age_060Y": 60.0,
    "age_000Y": None,
    "age0_birthdate": 62.0,
    "adult-000Y": 62.1,
    "age_birthdate-only": None,  # nothing says when the film was taken
    "child-age": 3.0,
    "child-birthdate-only": 3.1,
    "frontal": 50.0,
}

MODALITIES = ["modality-DR", "modality-dx", "modality-CR_DX", "modality-none"]
ALONE = {  # what a test of its own names
    "voi-lut/empty-item",
    "overlay-bits/stored10-data12-native",
    "overlay-bits/stored10-data12-j2k",
    "header/size_1,75",
}


def case(name: str) -> Path:
    (file,) = CASES.glob(f"{name}.*")
    return file


def test_every_case_has_a_test() -> None:
    files = [file for file in CASES.rglob("*") if file.is_file() and file.name != "README.md"]
    same = {name for name, _, _ in SAME}
    references = {f"{name.partition('/')[0]}/ref" for name in same}
    headers = {f"header/{name}" for name in (*REFUSED, *AGES)}
    named = same | references | headers | {f"modality/{name}" for name in MODALITIES} | ALONE
    assert {str(file.relative_to(CASES).with_suffix("")) for file in files} == named


@pytest.mark.parametrize(("name", "apart", "flag"), SAME)
def test_the_picture_is_that_of_the_reference(name: str, apart: float, flag: str | None) -> None:
    film = FilmFile(case(name)).decode()
    reference = FilmFile(case(f"{name.partition('/')[0]}/ref"))()
    np.testing.assert_allclose(film.pixels, reference, atol=apart)
    assert bool(film.flags) == (flag is not None) and (flag or "") in " ".join(film.flags)


def test_an_empty_table_leaves_the_window() -> None:
    file = case("voi-lut/empty-item")
    film, data = FilmFile(file).decode(), dcmread(file)
    expected = np.clip((data.pixel_array - 2047.5) / 4095 + 0.5, 0, 1)
    np.testing.assert_allclose(film.pixels, expected, atol=1e-6)


def test_values_beyond_the_stored_bits_are_cut_alike_and_flagged() -> None:
    native, packed = (
        FilmFile(case(f"overlay-bits/stored10-data12-{form}")).decode()
        for form in ("native", "j2k")
    )
    np.testing.assert_array_equal(native.pixels, packed.pixels)
    assert native.flags == packed.flags and "beyond the bits" in native.flags[0]


@pytest.mark.parametrize("name", MODALITIES)
def test_a_modality_in_other_words_is_read(name: str) -> None:
    assert FilmFile(case(f"modality/{name}")).decode().objection is None


@pytest.mark.parametrize(("name", "years"), AGES.items())
def test_one_age_in_every_intake(name: str, years: float | None, tmp_path: Path) -> None:
    file = case(f"header/{name}")
    (record,) = file_exams([file], [], FIELDS)
    assert record.ehr.get("age") == (years and pytest.approx(years, abs=0.05))
    child = years is not None and years < 10
    assert shipped_for([record]) == ("paediatric" if child else "adult")
    film = cohort_of(file, tmp_path)
    if film is not None:
        assert film.ehr.get("age") == record.ehr.get("age")


def cohort_of(file: Path, tmp_path: Path) -> object:
    """The film as `cohort dicom:` takes it, with a body part and a view where it states none."""
    folder = tmp_path / "films"
    folder.mkdir()
    data = dcmread(file)
    data.BodyPartExamined, data.ViewPosition = "CHEST", data.get("ViewPosition") or "PA"
    data.save_as(folder / "film.dcm")
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    key.chmod(0o600)
    out = tmp_path / "cohort"
    assert main(["cohort", f"dicom:{folder}", "--key", str(key), "--out", str(out)]) == 0
    (film,) = SOURCES["cohort"].read(str(out), FIELDS)
    return film


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model") / "ae")


@pytest.mark.parametrize(("name", "why"), REFUSED.items())
def test_the_headers_own_word_refuses_in_score_serve_and_study(
    name: str, why: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = case(f"header/{name}"), tmp_path / "scores"
    run = ["score", str(file), "--model", str(model), "--out", str(out), "--batch-size", "1"]
    assert main(run) == 2
    assert f"by its own header ({why})" in capsys.readouterr().err and not out.exists()
    assert main([*run, "--gate", "flag"]) == 0
    (row,) = csv.DictReader((out / "scores.csv").open(encoding="utf-8"))
    assert (
        row["score"]
        and f"gate: it is no frontal chest film by its own header ({why})" in (row["flags"])
    )
    (outcome,) = Resident(str(model))(file_exams([file], [], FIELDS))  # of serve and listen
    assert outcome.result is None and why in outcome.refused
    (header,) = read_studies([file], 1)
    assert stated_unfit(header) == why


def test_a_cohort_leaves_out_what_score_refuses(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    for name in (*REFUSED, "frontal"):
        data = dcmread(case(f"header/{name}"))
        data.SOPInstanceUID = f"1.2.3.{len(name)}.{sum(name.encode())}"
        data.BodyPartExamined = data.get("BodyPartExamined") or "CHEST"
        data.save_as(tmp_path / "films" / f"{name}.dcm")
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    key.chmod(0o600)
    out = tmp_path / "cohort"
    assert (
        main(["cohort", f"dicom:{tmp_path / 'films'}", "--key", str(key), "--out", str(out)]) == 0
    )
    (film,) = SOURCES["cohort"].read(str(out), FIELDS)
    assert film.pixels.path.stem == "frontal"  # type: ignore[attr-defined]


def test_an_unreadable_height_counts_as_absent_everywhere(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    file = tmp_path / "film.dcm"
    data = dcmread(case("header/size_1,75"))
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", "1.2.3.4"  # an object needs them
    data.save_as(file)
    assert main(["score", str(file), "--model", str(model), "--out", str(tmp_path / "s")]) == 0
    (row,) = csv.DictReader((tmp_path / "s" / "scores.csv").open(encoding="utf-8"))
    assert "height: what the file's header says cannot be used" in row["flags"]
    run = ["export", str(file), "--scores", str(tmp_path / "s"), "--out", str(tmp_path / "dicom")]
    assert main(run) == 0
    assert identity_of(file).uid and read_about(file)[1]
    (record,) = file_exams([file], [], FIELDS)
    assert "height" not in record.ehr
    assert Resident(str(model))([record])[0].result is not None


def test_vindr_as_published_is_scored_and_served(model: Path, tmp_path: Path) -> None:
    root = tmp_path / "vindr"
    assert main(["example", "vindr", "--out", str(root), "--patients", "8", "--size", "64"]) == 0
    file = min(root.glob("test/*.dicom"))
    data = dcmread(file)
    assert not {"Modality", "SOPClassUID", "SOPInstanceUID"} & set(data.dir())
    assert data.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"
    run = ["score", str(file), "--model", str(model), "--out", str(tmp_path / "s")]
    assert main([*run, "--gate", "off"]) == 0
    assert identity_of(file).uid == ""  # it is known by its bytes
    (record,) = file_exams([file], [], FIELDS)
    assert Resident(str(model))([record])[0].result is not None
    with pytest.raises(UserError, match="modality not stated"):
        del data.file_meta.MediaStorageSOPClassUID
        data.save_as(tmp_path / "none.dcm", enforce_file_format=False)
        FilmFile(tmp_path / "none.dcm")()
