"""`table:films.csv`: what each column means, and how a bad table is refused."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nofinding.data.decoding.decode import FilmFile, check_files
from nofinding.data.ehr import FIELDS, EhrField
from nofinding.datasets.local.table import TABLE
from nofinding.errors import UserError
from nofinding.types import Exam

HEAD = "image_id,path,patient_id,sex,age,view,findings,split\n"


def rows(folder: Path, text: str) -> list[Exam]:
    (folder / "films.csv").write_text(text, encoding="utf-8")
    return [*TABLE.read(str(folder / "films.csv"), FIELDS)]


def film(folder: Path, name: str, high: int = 20, wide: int = 20) -> None:
    Image.fromarray(np.full((high, wide), 100, np.uint8)).save(folder / name)


def test_a_row_becomes_a_record(tmp_path: Path) -> None:
    film(tmp_path, "a.png")
    (exam,) = rows(tmp_path, HEAD + "i1,a.png,p1,M,42,AP,Mass|Nodule,val\n")
    assert (exam.image_id, exam.patient_id, exam.split) == ("i1", "p1", "val")
    assert exam.ehr == {"sex": 1, "age": 42, "view": 1} and exam.view == "AP"
    assert exam.findings == {"Mass", "Nodule"} and exam.flags == ()
    assert exam.pixels().shape == (20, 20)
    assert isinstance(exam.pixels, FilmFile)
    assert exam.pixels.path == tmp_path / "a.png"


def test_only_the_path_must_be_there(tmp_path: Path) -> None:
    (exam,) = rows(tmp_path, f"PATH\n{tmp_path / 'sub' / 'x.y.png'}\n")
    assert (exam.image_id, exam.patient_id) == ("x.y", "x.y")
    assert exam.findings is None and exam.split is None and exam.view is None
    assert exam.ehr == {} and exam.lesion is None


def test_findings_empty_or_named_so_are_normal(tmp_path: Path) -> None:
    text = "path,findings\na,\nb,No Finding\nc,no finding \nd, Mass | Nodule \n"
    collected = [exam.findings for exam in rows(tmp_path, text)]
    assert collected == [frozenset()] * 3 + [frozenset({"Mass", "Nodule"})]


def test_units_stand_in_the_titles(tmp_path: Path) -> None:
    text = (
        "path,Height [in],weight (lb),temperature [degF],age [mo],systolic\n"
        "a,65,180,98.6,18,120\n"
        "b,,80 kg,,,\n"
    )
    first, second = rows(tmp_path, text)
    expected = {"height": 165.1, "weight": 81.6466, "temperature": 37, "age": 1.5, "systolic": 120}
    assert first.ehr == pytest.approx(expected, rel=1e-5)
    assert second.ehr == {"weight": 80}


def test_the_impossible_is_missing_and_flagged(tmp_path: Path) -> None:
    text = "path,age,bmi,systolic,diastolic,sex\na,300,2,80,120,F\n"
    (record,) = rows(tmp_path, text)
    assert record.ehr == {"sex": 0}
    assert [flag.split(":")[0] for flag in record.flags] == ["age", "bmi", "diastolic"]


def test_fields_of_the_user_are_columns_too(tmp_path: Path) -> None:
    smoker = EhrField(name="smoker", kind="categorical", categories=("never", "former"))
    (tmp_path / "films.csv").write_text("path,smoker,age\na,former,3\n")
    fields = {**FIELDS, "smoker": smoker}
    (record,) = TABLE.read(str(tmp_path / "films.csv"), fields)
    assert record.ehr == {"smoker": 1, "age": 3}
    assert TABLE.offers(str(tmp_path / "films.csv"), fields) == ("age", "smoker")
    assert TABLE.offers(str(tmp_path / "films.csv"), FIELDS) == ("age",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("image_id,file\na,b\n", "has no column 'path'"),
        ("path,PATH\na,b\n", "two columns are called 'path'"),
        ("path,age,age [mo]\na,1,1\n", "two columns are called 'age'"),
        ("path,height [kg]\na,1\n", r"column 'height \[kg\]': height: unit 'kg'"),
        ("path,sex [cm]\na,M\n", "category has no unit"),
        ("path,age\n\na\n", "row 3 has 1 cells, not 2"),
        ("path,age\na,1,2\n", "row 2 has 3 cells, not 2"),
        ("path,sex\na,F\nb,X\n", "row 3, column sex: 'X' is not one of F, M"),
        ("path,age\na,old\n", "row 2, column age: 'old' is not a number"),
        ("path,split\na,dev\n", "row 2, column split: 'dev' is not one of train, val, test"),
        ("path,findings\na,No Finding|Mass\n", "row 2, column findings"),
        ("path,image_id\na,x\nb,y\nc,x\n", "'x' is in row 2 and in row 4"),
        ("path\na/x.png\nb/x.png\n", "'x' is in row 2 and in row 3"),
        ("path,age\n,1\n", "row 2, column path: is empty"),
        ("path,image_id\na,../../etc\n", "row 2, column image_id"),
        ("path,image_id\na,..\n", "row 2, column image_id"),
        ('path\n"a\n', "is not a CSV file"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        rows(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "films.csv"))
    assert "\n" not in str(caught.value)


def test_a_missing_table_and_one_that_is_a_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"films\.csv: does not exist"):
        [*TABLE.read(str(tmp_path / "films.csv"), FIELDS)]
    Image.new("L", (40, 40), 9).save(tmp_path / "films.csv", "PNG")
    with pytest.raises(UserError, match="is not a CSV file"):
        [*TABLE.read(str(tmp_path / "films.csv"), FIELDS)]
    with pytest.raises(UserError, match="cannot be read"):
        [*TABLE.read(str(tmp_path), FIELDS)]


def test_a_missing_film_is_named_with_its_row(tmp_path: Path) -> None:
    film(tmp_path, "a.png")
    exams = rows(tmp_path, "path\na.png\ngone.png\n")
    with pytest.raises(UserError, match=r"films\.csv: row 3: .*gone\.png does not exist"):
        exams[1].pixels()
    with pytest.raises(UserError, match=r"row 3: .*gone\.png does not exist"):
        check_files(exams)


def test_spreadsheets_write_a_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_bytes("\ufeffpath,age\r\na,3\r\n".encode())
    (record,) = TABLE.read(str(tmp_path / "films.csv"), FIELDS)
    assert record.ehr == {"age": 3}


def test_boxes_beside_the_table_are_scaled_to_the_film(tmp_path: Path) -> None:
    film(tmp_path, "n1.jpg", 64, 64)
    film(tmp_path, "n2.jpg", 64, 64)
    (tmp_path / "boxes.csv").write_text(
        "image,label,x,y,w,h\nn1.png,Mass,160,320,80,160\nn1.png,Mass,1000,1000,99,99\n"
    )
    first, second = rows(tmp_path, "path\nn1.jpg\nn2.jpg\n")
    assert first.lesion is not None and second.lesion is None
    expected = np.zeros((64, 64), dtype=np.bool_)
    expected[20:30, 10:15] = True
    expected[62:, 62:] = True
    np.testing.assert_array_equal(first.lesion(), expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,x,y,w\n", "has no column 'h'"),
        ("image,x,y,w,h\na,1,2,3,z\n", "row 2: .* must be numbers"),
        ("image,x,y,w,h\na,1,2,0,5\n", "row 2: w and h"),
        ("image,x,y,w,h\na,1,nan,4,5\n", "row 2: w and h"),
    ],
)
def test_bad_boxes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        rows(tmp_path, "path\na\n")


def test_a_mask_is_the_lesion_and_must_fit_its_film(tmp_path: Path) -> None:
    film(tmp_path, "a.png")
    film(tmp_path, "b.png", 10, 20)
    mask = np.zeros((20, 20), np.uint8)
    mask[3:6, 4:9] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    good, none, bad = rows(tmp_path, "path,mask\na.png,mask.png\nc.png,\nb.png,mask.png\n")
    assert good.lesion is not None and none.lesion is None and bad.lesion is not None
    np.testing.assert_array_equal(good.lesion(), mask > 0)
    with pytest.raises(UserError, match=r"row 4, column mask: .* 20 x 20 pixels, its film 20 x 10"):
        bad.lesion()


def test_parquet_tables_are_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "films.parquet"
    columns = {"path": ["a.png", "b.png"], "age": [40, None], "weight [lb]": [180.0, None]}
    pq.write_table(pa.table({**columns, "findings": [None, "Mass"]}), file)
    first, second = TABLE.read(str(file), FIELDS)
    assert first.ehr == pytest.approx({"age": 40, "weight": 81.6466}, rel=1e-5)
    assert (first.findings, second.findings) == (frozenset(), {"Mass"}) and second.ehr == {}
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="is not a Parquet file"):
        [*TABLE.read(str(file), FIELDS)]
    with pytest.raises(UserError, match="does not exist"):
        [*TABLE.read(str(tmp_path / "none.parquet"), FIELDS)]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.lists(st.text(max_size=12), min_size=8, max_size=8), st.binary(max_size=40))
def test_no_table_raises_anything_but_a_user_error(
    tmp_path: Path, text: str, cells: list[str], junk: bytes
) -> None:
    for content in (
        (HEAD + ",".join(cells) + "\n").encode("utf-8", "surrogatepass"),
        text.encode("utf-8", "surrogatepass"),
        HEAD.encode() + junk,
    ):
        (tmp_path / "films.csv").write_bytes(content)
        try:
            for exam in TABLE.read(str(tmp_path / "films.csv"), FIELDS):
                assert exam.image_id
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.films
def test_the_real_tables_are_read() -> None:
    here = Path(__file__).parents[3].parent / "shared" / "data"
    data = Path(os.environ.get("NOFINDING_DATA", here))
    if not (data / "nih" / "films.csv").exists():
        pytest.skip("no real films here")
    exams = [*TABLE.read(str(data / "nih" / "films.csv"), FIELDS)]
    assert TABLE.offers(str(data / "nih" / "films.csv"), FIELDS) == ("age", "sex", "view")
    check_files(exams)
    with_boxes = [exam for exam in exams if exam.lesion is not None]
    assert with_boxes and all(exam.findings for exam in with_boxes)
    lesion = with_boxes[0].lesion
    assert lesion is not None
    result = lesion()
    assert result.shape == with_boxes[0].pixels().shape and 0 < result.mean() < 0.5
