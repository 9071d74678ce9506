"""What stands in people's tables: titles, words for nothing, for normal and for a sex."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nofinding.data.ehr import FIELDS, parse
from nofinding.datasets.cohort import Cohort
from nofinding.datasets.local.table import TABLE
from nofinding.errors import UserError
from nofinding.types import Exam


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], list[Exam]]:
    def read(text: str) -> list[Exam]:
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
        return [*TABLE.read(str(tmp_path / "t.csv"), FIELDS)]

    return read


def remarks(folder: Path) -> dict[str, int]:
    return {r.what: r.count for r in TABLE.remarks(str(folder / "t.csv"), FIELDS)}


@pytest.mark.parametrize(
    "title", ["Patient ID", "patientid", "PatientID", "patient-id", "subject_id", "MRN"]
)
def test_a_patient_by_another_title_is_no_leak(tmp_path: Path, title: str) -> None:
    for name in "ab":
        Image.new("L", (40, 40), 9).save(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text(f"path,{title},split\na.png,p1,train\nb.png,p1,test\n")
    assert remarks(tmp_path) == {f"column {title!r}, read as patient_id": 1}
    with pytest.raises(UserError, match="1 of 1 patients are in more than one split"):
        Cohort([f"table:{tmp_path / 't.csv'}"], FIELDS)


def test_what_is_nearly_a_column_is_said(
    tmp_path: Path, table: Callable[[str], list[Exam]]
) -> None:
    table("path,Heigth,weight_lb,label,Notes,Heart Rate\na,1,2,x,y,70\n")
    assert remarks(tmp_path) == {
        "column 'Heart Rate', read as heart_rate": 1,
        "column 'Heigth', not read (is it height?)": 1,
        "column 'weight_lb', not read (is it weight [lb]?)": 1,
        "column 'label', not read (is it findings?)": 1,
        "films, each of which counts as one patient, as there is no column patient_id": 1,
    }
    with pytest.raises(UserError, match="has no column 'path'; is 'file' meant for it"):
        table("file,patient_id\na,b\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path;age\na;1\n", "separated by semicolons"),
        ("path\tage\na\t1\n", "separated by tabs"),
        ("path;age\na;63,5\n", "separated by semicolons"),
        ("sep=;\npath;age\n", "its first line, 'sep=;'"),
        ("sep=,\npath,age\n", "its first line, 'sep='"),
    ],
)
def test_another_separator_is_said(
    table: Callable[[str], list[Exam]], text: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        table(text)


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NA", "N/A", "null", "\\N", "<NA>", "NaT"])
def test_a_word_for_nothing_is_an_empty_cell_in_every_column(
    tmp_path: Path, table: Callable[[str], list[Exam]], word: str
) -> None:
    title = "path,image_id,patient_id,findings,split,mask,age,sex,view\n"
    row, again = (f"{name},{','.join([word] * 8)}\n" for name in "ab")
    first, second = table(title + row + again)
    assert (first.image_id, first.patient_id, second.patient_id) == ("a", "a", "b")
    assert first.findings == frozenset() and first.split is None and first.lesion is None
    assert first.ehr == {}
    assert remarks(tmp_path) == {
        f"cells of findings that say {word!r}, which stands for a normal film, as an empty cell "
        "does": 2,
        "rows without a patient_id, each of which counts as one patient": 2,
    }


@pytest.mark.parametrize("word", ["Normal", "NoFinding", "0", "0.0", "no_finding", "No findings"])
def test_other_words_for_a_normal_film_are_read_and_said(
    tmp_path: Path, table: Callable[[str], list[Exam]], word: str
) -> None:
    normal, ill = table(f"path,findings,patient_id\na,{word},1\nb,Mass|NA,2\n")
    assert normal.findings == frozenset() and ill.findings == {"Mass"}
    assert remarks(tmp_path) == {f"cells of findings that say {word!r}, read as No Finding": 1}
    with pytest.raises(UserError, match="stands beside a finding"):
        table(f"path,findings\na,{word}|Mass\n")


def test_lists_of_findings_say_what_is_unlabelled(
    tmp_path: Path, table: Callable[[str], list[Exam]]
) -> None:
    collected = [["Mass", "Pleural Effusion"], [], None]
    frame = pd.DataFrame({"path": ["a", "b", "c"], "findings": collected})
    right = [frozenset({"Mass", "Pleural Effusion"}), frozenset(), None]
    frame.to_parquet(tmp_path / "t.parquet")
    assert [r.findings for r in TABLE.read(str(tmp_path / "t.parquet"), FIELDS)] == right
    again = pd.read_parquet(tmp_path / "t.parquet")  # as arrays, which print without commas
    for one in (frame, again):
        assert [r.findings for r in table(one.to_csv(index=False))] == right


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("age", "63,5", "write 63.5"),
        ("height", "1,75 m", "write 1.75 m"),
        ("age", "60-69", "a range"),
        ("age", "60 \u2013 69", "a range"),
        ("height", "5'10\"", "write 70 in"),
        ("height", "5 ft 10 in", "write 70 in"),
        ("age", "5 years 3 months", "is not a number"),
        ("age", "90+", "is not a number"),
        ("age", "000Y", "know no age"),
        ("age", "000d", "know no age"),
    ],
)
def test_what_is_no_number_is_called_so(field: str, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse(FIELDS[field], text)
    assert "unit" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [("height", "1.75m", 175), ("temperature", "37 \u00b0C", 37), ("heart_rate", "60 1/min", 60),
     ("bmi", "22 kg/m2", 22), ("heart_rate", "72 {beats}/min", 72), ("sex", "Male", 1),
     ("sex", "female", 0), ("sex", "M", 1)],
)  # fmt: skip
def test_units_and_sexes_are_read(field: str, text: str, value: float) -> None:
    assert parse(FIELDS[field], text) == pytest.approx(value)


@pytest.mark.parametrize("kind", ["jpeg", "rgba", "la", "palette with transparency"])
def test_a_mask_that_cannot_be_one_is_refused_before_any_work(tmp_path: Path, kind: str) -> None:
    Image.new("L", (40, 40), 90).save(tmp_path / "a.png")
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:20] = 255
    drawn = Image.fromarray(mask)
    file = tmp_path / ("m.jpg" if kind == "jpeg" else "m.png")
    if kind in ("rgba", "la"):
        drawn = drawn.convert(kind.upper())
    extra = {"transparency": 0} if kind.startswith("palette") else {}
    (drawn.convert("P") if extra else drawn).save(file, **extra)
    (tmp_path / "t.csv").write_text(f"path,mask,patient_id\na.png,{file.name},1\n")
    said = "is no PNG" if kind == "jpeg" else "has transparency"
    with pytest.raises(UserError, match=rf"row 2, column mask: .*{said}"):
        Cohort([f"table:{tmp_path / 't.csv'}"], FIELDS)
