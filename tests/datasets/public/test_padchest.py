"""PadChest as the BIMCV ships it, on the small copy."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nofinding.types import Exam
from support.shipped import Shipped

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


@pytest.fixture
def copy(tmp_path: Path) -> Shipped:
    """With the table unpacked, as the user may have it."""
    copy = Shipped.write("padchest", tmp_path)
    packed = copy.root / f"{TABLE}.gz"
    (copy.root / TABLE).write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    return copy


def by_patient(films: dict[str, Exam]) -> dict[int, Exam]:
    return {int(film.patient_id.removeprefix("padchest")) - 100: film for film in films.values()}


def test_labels_and_record(copy: Shipped) -> None:
    (empty,) = copy.root.glob("0/*00000010_*.png")
    empty.write_bytes(b"")  # as some are in the archive
    films = by_patient(copy.films())
    assert films[1].findings == frozenset() and films[1].view == "AP"
    assert "age" not in films[1].ehr  # born after the film
    assert "age" not in films[2].ehr and "sex" not in films[5].ehr
    assert 18 <= films[11].ehr["age"] <= 100 and films[11].taken is not None
    assert films[11].taken.year == 2012
    assert films[3].findings == {"nodule"} and films[12].view == "PA"
    assert films[13].findings == {"pleural effusion"}  # unchanged and blanks beside it
    losses = copy.losses()
    assert losses["not frontal (PA, AP or AP_horizontal)"] == 8
    for what in (
        "labelled exclude by the publisher",
        "no label",
        "labelled normal and a finding at once",
        "labelled nothing but unchanged or suboptimal study, perhaps beside normal",
        "its file is not in the folder",
        "cannot be read, or is no film",
        "image files in the folder that no table lists",
        "age: outside 0 to 120 a, set to missing",
    ):
        assert losses[what] == 1, what
    assert losses["films of lying patients (AP_horizontal), taken as AP"] == 12


def test_white_is_what_the_table_says(copy: Shipped) -> None:
    """Films of 12 bits in 16, of which patient 3's is MONOCHROME1; nothing has to be flagged."""
    films = by_patient(copy.films())
    (file,) = copy.root.glob("14/*00000011_*.png")
    with Image.open(file) as stored:
        assert stored.mode == "I;16" and stored.getextrema()[1] <= 4095
        white = stored.getextrema()[1] / 4095
    message = films[11].pixels.decode()  # type: ignore[attr-defined]
    assert message.pixels.max() == pytest.approx(white) and message.flags == ()
    (file,) = copy.root.glob("14/*00000003_*-0.png")
    with Image.open(file) as stored:
        dark = 1 - np.asarray(stored) / np.float32(4095)
    np.testing.assert_allclose(films[3].pixels(), dark, atol=1e-6)


def test_a_film_read_otherwise_is_another_to_the_cache(
    copy: Shipped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache knows a film by its stamp, and its pixels by the fingerprint."""
    monkeypatch.setattr("nofinding.data.decoding.decode.SETTLED", -1)  # files written just now
    film = by_patient(copy.films())[3].pixels
    for name in ("fingerprint", "stamp"):
        keys = {getattr(replace(film, greys=g), name)() for g in ("MONOCHROME1 12", "12", "14")}  # type: ignore[type-var]
        assert len(keys) == 3, name


def test_a_table_without_those_columns_leaves_it_to_the_values(copy: Shipped) -> None:
    file = copy.root / TABLE
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"BitsStored_DICOM", b"Bits"))
    message = by_patient(copy.films())[11].pixels.decode()  # type: ignore[attr-defined]
    assert message.flags == ("film: 12 of its 16 bits are in use, white is 4095",)


@pytest.mark.parametrize(
    ("policy", "findings"), [("positive", {"unchanged"}), ("negative", set()), ("unlabelled", None)]
)
def test_labels_that_say_nothing_are_what_the_user_says(
    copy: Shipped, policy: str, findings: object
) -> None:
    copy.cell(TABLE, "00000011_", "['normal']", "\"['normal', 'unchanged']\"")
    films = by_patient(copy.films("--uncertain", policy))
    assert films[4].findings == findings and films[11].findings == findings
    assert films[14].findings == frozenset()


def test_the_folder_of_the_table_comes_first_and_any_other_will_do(copy: Shipped) -> None:
    before = copy.films()
    (film,) = copy.root.glob("14/*00000011_*.png")
    (copy.root / "1").mkdir()
    (copy.root / "1" / film.name).write_bytes(film.read_bytes())
    got = copy.films()[film.stem]
    assert str(film) in str(got.pixels)
    for file in [*copy.root.glob("*/*.png")]:
        if file.parent.name != "1":
            file.rename(copy.root / file.name)
    assert {i: (r.split, dict(r.ehr)) for i, r in copy.films().items()} == {
        i: (r.split, dict(r.ehr)) for i, r in before.items()
    }


def test_bad_tables_are_one_line(copy: Shipped, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (copy.root / TABLE).read_bytes()
    packed = gzip.compress(whole + b"\n" * 9)
    for content, said in (
        (whole.replace(b"PatientBirth", b"Birth"), "has no column 'PatientBirth'; the table of 1"),
        (whole.replace(b"['normal']", b"['nor\xffmal']", 1), "is not UTF-8"),
        (whole.replace(b"informe normal", b"informe, normal", 1), "row 2 has 37 cells, not 36"),
        (b"", "is empty"),
    ):
        (copy.root / TABLE).write_bytes(content)
        assert said in copy.refused(capsys)
    (copy.root / TABLE).unlink()
    (copy.root / f"{TABLE}.gz").write_bytes(packed[: len(packed) // 2])
    assert "download it again" in copy.refused(capsys)


def test_a_name_that_leads_out_is_counted(copy: Shipped) -> None:
    (film,) = copy.root.glob("14/*00000011_*.png")
    copy.cell(TABLE, "00000011_", film.name, "../../etc/x.png")
    assert 11 not in by_patient(copy.films())
    assert copy.losses()["its path leads out of the folder"] == 1
