"""Films beside an OMOP CDM: of each measurement the nearest, and nothing that is not known."""

import csv
import json
import random
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.datasets.examples import EXAMPLES, Copy
from nofinding.types import Exam

SYNTHEA = Path(__file__).resolve().parents[4] / "shared" / "data" / "vitals" / "synthea_omop"
PERSON = "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,person_source_value"
MEASURED = (
    "person_id,measurement_concept_id,measurement_date,measurement_datetime,operator_concept_id,"
    "value_as_number,unit_concept_id,measurement_source_value,unit_source_value"
)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A folder with one film of person 1, on the first of June 2020."""
    example = Copy(root=tmp_path / "cdm", patients=8, seed=0, size=64)
    example.picture("a.png", example.film(0))
    example.text("films.csv", ["person_id,path,taken", "1,a.png,2020-06-01 12:00:00"])
    example.text("person.csv", [PERSON, "1,8532,1960,6,1,MRN7"])
    return example


@pytest.fixture
def cohort_of(copy: Copy) -> Callable[..., list[Exam]]:
    def make(*options: str, place: str = "") -> list[Exam]:
        out = copy.root.parent / "cohort"
        spec = f"omop:{place or copy.root}"
        assert main(["cohort", spec, "--out", str(out), "--overwrite", *options]) == 0
        return list(SOURCES["cohort"].read(str(out), FIELDS))

    return make


def measured(copy: Copy, *rows: str) -> None:
    copy.text("Measurement.csv", [MEASURED, *rows])


def said(copy: Copy) -> dict[str, int]:
    """Reasons and remarks of the flow, and how often."""
    flow = json.loads((copy.root.parent / "cohort" / "cohort.json").read_text())["flow"]
    steps = {step["reason"]: step["films"] for step in flow["steps"]}
    return steps | {remark["what"]: remark["count"] for remark in flow["remarks"]}


def test_units_bounds_and_what_is_not_known(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    measured(
        copy,
        "1,3025315,2020-06-01,,0,160,8739,,",  # pounds by concept
        "1,3036277,2020-06-01,,,70,0,,in",  # inches by the source's word
        "1,3020891,2020-06-01,,4172703,98.6,9289,8310-5,",  # Fahrenheit, and "="
        "1,3016502,2020-06-01,,4171756,90,8554,,%",  # below 90 %
        "1,3027018,2020-06-01,,0,70,,,",  # no unit
        "1,3024171,2020-06-01,,0,15,,,furlong",
        "1,3004249,2020-06-01,,0,120,8876,,kPa",  # two units that are not one
        "1,0,2020-06-01,,0,70,8876,8462-4,mmHg",  # by its LOINC code
        "1,3038553,2020-06-01,,0,,9531,,",  # no number
        "1,4245997,2020-06-01,,0,33,9531,,",  # another concept
        "2,3038553,2020-06-01,,0,31,9531,,",  # another person
    )
    (film,) = cohort_of()
    assert film.ehr == pytest.approx(
        {
            "age": 21915 / 365.25, "sex": 0, "weight": 160 * 0.45359237, "height": 177.8,
            "temperature": 37, "diastolic": 70, "bmi": 160 * 0.45359237 / 1.778**2,
        }
    )  # fmt: skip
    assert said(copy) == {
        "bmi: readings with no number, not used": 1,
        "heart_rate: readings with no unit, not used": 1,
        "respiratory_rate: readings with unknown unit, not used": 1,
        "spo2: readings with no number, not used": 1,
        "systolic: readings with unknown unit, not used": 1,
        "bmi: from weight and height, where it was not recorded": 1,
    }


def test_the_nearest_day_then_the_clock_then_the_earlier(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    measured(
        copy,
        "1,3025315,2020-05-30,2020-05-30 23:00:00,0,60,9529,,",  # two days
        "1,3025315,2020-06-02,2020-06-02 01:00:00,0,61,9529,,",  # one day, though in 13 hours
        "1,3036277,2020-06-01,2020-06-01 11:00:00,0,170,8582,,",
        "1,3036277,2020-06-01,2020-06-01 13:00:00,0,180,8582,,",  # as far, but later
        "1,3027018,2020-06-01,2020-06-01 12:00:00,0,60,8541,,",
        "1,3027018,2020-06-01,2020-06-01 12:00:00,0,80,8541,,",  # at one time: 70
        "1,3038553,2020-06-01,2020-06-01 12:00:00,0,900,9531,,",  # nobody has that
        "1,3038553,2020-05-20,2020-05-20 12:00:00,0,24,9531,,",
        "1,3020891,2020-03-03,,0,37,586323,,",  # 90 days
        "1,3016502,2020-03-02,,0,97,8554,,",  # 91
        "1,3024171,,,0,15,8541,,",  # no date
    )
    (film,) = cohort_of()
    expected = {"weight": 61, "height": 170, "heart_rate": 70, "bmi": 24, "temperature": 37}
    assert {name: film.ehr.get(name) for name in expected} == expected
    assert "spo2" not in film.ehr and "respiratory_rate" not in film.ehr
    assert said(copy)["values of the record from after the film"] == 1
    assert said(copy)["measurements without a date, not used"] == 1
    (film,) = cohort_of("--window", "1")
    assert "bmi" in film.ehr and film.ehr["bmi"] == pytest.approx(61 / 1.7**2)


@pytest.mark.parametrize(
    ("born", "days"), [("1960,,", 21885), ("1960,6,", 21901), ("1960,6,1", 21915)]
)
def test_a_birth_of_which_the_year_or_the_month_is_known(
    copy: Copy, cohort_of: Callable[..., list[Exam]], born: str, days: int
) -> None:
    copy.text("person.csv", [PERSON, f"1,8507,{born},x"])
    measured(copy)
    (film,) = cohort_of()
    assert film.ehr == {"age": pytest.approx(days / 365.25), "sex": 1}


def test_a_duckdb_file_with_a_schema_and_a_table_of_concepts(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    file = copy.root / "hospital.duckdb"
    with duckdb.connect(str(file)) as con:
        con.execute("CREATE SCHEMA cdm")
        con.execute("CREATE TABLE cdm.PERSON AS SELECT 1::BIGINT AS PERSON_ID, 8507 AS "
                    "gender_concept_id, 1960 AS year_of_birth")  # fmt: skip
        con.execute(
            "CREATE TABLE cdm.measurement AS SELECT 1 AS person_id, 777 AS measurement_concept_id, "
            "DATE '2020-06-01' AS measurement_date, 72.5 AS value_as_number, 888 AS unit_concept_id"
        )
        con.execute(
            "CREATE TABLE cdm.concept AS SELECT * FROM (VALUES (777, 'LOINC', '29463-7'), "
            "(888, 'UCUM', 'kg')) t(concept_id, vocabulary_id, concept_code)"
        )
    for place in (f"{file}?schema=cdm", f"duckdb:///{file}?schema=cdm"):
        (film,) = cohort_of(place=place)
        assert film.ehr["weight"] == 72.5 and film.ehr["sex"] == 1
    (film,) = cohort_of("--record", f"{file}?schema=cdm")
    assert film.ehr["weight"] == 72.5


def test_parquet_tables_and_vocabulary_with_tabs(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    con = duckdb.connect()
    con.execute(
        "COPY (SELECT 1.0 AS person_id, 777 AS measurement_concept_id, DATE '2020-06-01' AS "
        "measurement_date, 72.5 AS value_as_number, 9529.0 AS unit_concept_id) "
        f"TO '{copy.root / 'MEASUREMENT.parquet'}'"
    )
    copy.text(
        "CONCEPT.csv",
        ["concept_id\tconcept_name\tvocabulary_id\tconcept_code",
         '777\tBody "weight\tLOINC\t29463-7'],
    )  # fmt: skip
    (film,) = cohort_of()
    assert film.ehr["weight"] == 72.5


@pytest.mark.parametrize(
    ("file", "lines", "error"),
    [
        ("person.csv", ["person_id,gender_concept_id", "1,8507"], "no column 'year_of_birth'"),
        ("person.csv", None, "has no table PERSON"),
        ("Measurement.csv", ["person_id"], "has no column 'measurement_concept_id'"),
        ("films.csv", None, "has neither films.csv nor a table IMAGE_OCCURRENCE"),
        ("films.csv", ["person_id,path,taken,split", "1,a.png,2020-06-01,dev"], "'dev' is not one"),
    ],
)
def test_a_cdm_that_cannot_be_right(
    copy: Copy, file: str, lines: list[str] | None, error: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    measured(copy)
    (copy.root / file).unlink()
    if lines is not None:
        copy.text(file, lines)
    out = copy.root.parent / "cohort"
    assert main(["cohort", f"omop:{copy.root}", "--out", str(out)]) == 2
    output = capsys.readouterr().err.strip()
    assert error in output and len(output.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("{}/cdm.sqlite", "needs DuckDB's extension sqlite, which is not installed"),
        ("{}/broken.duckdb", "cannot be opened as a duckdb database"),
        ("{}/films.csv", "is neither a folder nor a .duckdb or .sqlite file"),
        ("{}/none", "is neither a folder nor a .duckdb or .sqlite file"),
        ("postgres://me:secret@host/cdm", "keep the password in ~/.pgpass"),
        ("postgres://host/cdm", "has no films"),
        ("{}/broken.duckdb?table=x", "there may be schema=NAME, and nothing else"),
    ],
)
def test_a_place_that_is_no_cdm(
    copy: Copy, place: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cdm.sqlite", "broken.duckdb"):
        (copy.root / name).write_bytes(b"SQLite format 3\0" + bytes(5000))
    arguments = ["cohort", f"omop:{place.format(copy.root)}", "--out", str(copy.root / "out")]
    assert main(arguments) == 2
    output = capsys.readouterr().err
    assert error in output and "secret" not in output


def test_image_occurrences_are_chosen_by_their_headers(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    (copy.root / "films.csv").unlink()
    chest = {"PatientID": "X", "BodyPartExamined": "CHEST", "StudyDate": "20200601",
             "StudyTime": "0930", "StudyInstanceUID": "1.2"}  # fmt: skip
    copy.dicom("dicom/one/1", copy.film(0), ViewPosition="PA", **chest)
    copy.dicom("dicom/one/2", copy.film(0), ViewPosition="LL", **chest)
    shifted = {**chest, "StudyDate": "20200701"}
    copy.dicom("dicom/two.dcm", copy.film(1), ViewPosition="AP", **shifted)
    copy.text(
        "IMAGE_OCCURRENCE.csv",
        ["image_occurrence_id,person_id,image_occurrence_date,wadors_uri,local_path,image_study_UID",
         "1,1,2020-06-01,,dicom/one/,1.2", f"2,1,2020-06-02,,file://{copy.root}/dicom/two.dcm,1.2",
         "3,1,2020-06-02,https://pacs/x,,1.2", "4,1,2020-06-02,,../elsewhere.dcm,1.2"],
    )  # fmt: skip
    measured(copy, "1,3025315,2020-06-02,,0,60,9529,,")
    films = sorted(cohort_of(), key=lambda film: str(film.taken))
    assert [film.view for film in films] == ["PA", "AP"]
    assert [str(film.taken) for film in films] == [
        "2020-06-01 09:30:00+00:00", "2020-06-02 00:00:00+00:00",
    ]  # fmt: skip
    assert all(film.ehr["weight"] == 60 for film in films)
    counts = said(copy)
    assert counts["neither PA nor AP"] == 1
    assert counts["no local path; nothing is fetched"] == 1
    assert counts["its file is not in the folder"] == 1
    assert "image files in the folder that no table lists" in counts  # a.png


def test_a_cdm_as_the_record_of_a_dicom_folder(copy: Copy, tmp_path: Path) -> None:
    """Found by PatientID = person_source_value; the record's word counts before the header's."""
    archive = Copy(root=tmp_path / "archive", patients=8, seed=0, size=64)
    archive.dicom(
        "a", archive.film(0), PatientID="MRN7", PatientSex="M", PatientWeight="99",
        BodyPartExamined="CHEST", ViewPosition="PA", StudyDate="20200601",
    )  # fmt: skip
    archive.dicom("b", archive.film(1), PatientID="MRN8", BodyPartExamined="CHEST",
                  ViewPosition="PA", StudyDate="20200601", PatientAge="044Y")  # fmt: skip
    measured(copy, "1,3025315,2020-06-02,,0,60,9529,,")
    out = copy.root.parent / "cohort"
    arguments = ["cohort", f"dicom:{archive.root}", "--record", f"omop:{copy.root}"]
    assert main([*arguments, "--out", str(out)]) == 0
    films = {film.ehr["age"]: dict(film.ehr) for film in SOURCES["cohort"].read(str(out), FIELDS)}
    assert films == {
        44: {"age": 44, "view": 0},
        21915 / 365.25: {"age": 21915 / 365.25, "sex": 0, "view": 0, "weight": 60},
    }
    counts = said(copy)
    assert (
        counts["films of patients who have another sex in the record; the record's is taken"] == 1
    )
    assert counts["films of patients whom the record does not have"] == 1


def test_the_example_has_what_it_says(tmp_path: Path) -> None:
    copy = Copy(root=tmp_path / "cdm", patients=24, seed=0, size=64)
    EXAMPLES["omop"](copy)
    out = str(tmp_path / "cohort")
    assert main(["cohort", f"omop:{copy.root}", "--out", out, "--window", "5"]) == 0
    weights = {(r.ehr["age"], r.ehr["weight"]) for r in SOURCES["cohort"].read(out, FIELDS)}
    expected = {round(copy.person(number)["weight"] + 2, 1) for number in range(24)}
    assert len(weights) == 24
    assert all(any(abs(w - weight) < 0.03 for w in expected) for _, weight in weights)


@pytest.mark.skipif(not SYNTHEA.is_dir(), reason="the simulated persons are not here")
def test_simulated_persons_against_a_search_by_hand(tmp_path: Path) -> None:
    """28 persons of Synthea, films at days of chance: every value is that of a plain loop."""
    rng = random.Random(0)
    copy = Copy(root=tmp_path / "films", patients=28, seed=0, size=64)
    people = list(csv.DictReader((SYNTHEA / "PERSON.csv").open()))
    rows = list(csv.DictReader((SYNTHEA / "MEASUREMENT.csv").open()))
    loinc = {f.loinc: f.name for f in FIELDS.values() if f.loinc} | {"2708-6": "spo2"}
    by: dict[tuple[str, str], list[tuple[datetime, float]]] = defaultdict(list)
    days: dict[str, list[date]] = defaultdict(list)
    for row in rows:
        days[row["person_id"]].append(date.fromisoformat(row["measurement_date"]))
        if (name := loinc.get(row["measurement_source_value"])) and row["value_as_number"]:
            value, field = float(row["value_as_number"]), FIELDS[name]
            assert field.low is not None and field.high is not None
            if field.low <= value <= field.high:
                when = datetime.fromisoformat(row["measurement_datetime"])
                by[row["person_id"], name].append((when, value))
    films = []
    pixels = copy.film(0)
    for person in people:
        for number in range(4):
            path = f"{person['person_id']}-{number}.png"
            copy.picture(path, pixels)
            day = rng.choice(days[person["person_id"]]) + timedelta(days=rng.randint(-300, 300))
            taken = datetime(day.year, day.month, day.day, rng.randint(0, 23))
            films.append((path, person, taken))
    copy.table("films.csv", ("person_id", "path", "taken"),
               [(person["person_id"], path, taken) for path, person, taken in films])  # fmt: skip
    out = str(tmp_path / "cohort")
    arguments = ["cohort", f"omop:{copy.root}", "--out", out, "--record", str(SYNTHEA)]
    assert main([*arguments, "--window", "365", "--verify", "present"]) == 0
    cohort = SOURCES["cohort"].read(out, FIELDS)
    got = {r.pixels.path.name: dict(r.ehr) for r in cohort}  # type: ignore[attr-defined]
    compared = 0
    for path, person, taken in films:
        expected: dict[str, float] = {}
        for (owner, name), values in by.items():
            near = [v for v in values if abs((v[0].date() - taken.date()).days) <= 365]
            if owner == person["person_id"] and near:
                first = min(
                    (abs((when.date() - taken.date()).days), abs(when - taken), when)
                    for when, _ in near
                )[2]
                expected[name] = statistics.median(v for when, v in near if when == first)
        born = date(*(int(person[f"{part}_of_birth"]) for part in ("year", "month", "day")))
        age = (taken.date() - born).days / 365.25
        if age >= 0:
            expected["age"] = age
        expected["sex"] = {"8507": 1.0, "8532": 0.0}[person["gender_concept_id"]]
        if expected.get("diastolic", 0) > expected.get("systolic", 999):
            del expected["diastolic"], expected["systolic"]
        if "bmi" not in expected and {"weight", "height"} <= expected.keys():
            expected["bmi"] = expected["weight"] / (expected["height"] / 100) ** 2
        assert got[path] == pytest.approx(expected), path
        compared += len(expected)
    assert len(films) == 112 and compared > 700
    shutil.rmtree(out)


@pytest.mark.parametrize("nothing", ["NULL", "\\N", "", "nan"])
@pytest.mark.parametrize(
    ("day", "time"),
    [
        ("20200601", "20200601 10:00:00"),
        ("2020-06-01", "2020-06-01T10:00:00Z"),
        ("2020-06-01 00:00:00", "2020-06-01 10:00:00 +00"),
        ("2020-06-01", "2020-06-01 10:00:00.000+00:00"),
        ("20200601", None),
    ],
)
def test_what_databases_export_is_read(
    copy: Copy, cohort_of: Callable[..., list[Exam]], nothing: str, day: str, time: str | None
) -> None:
    n = nothing
    measured(copy, f"1,3038553,{day},{time or n},{n},31,9531,{n},{n}")
    copy.text("person.csv", [PERSON, f"1,8532,1960,{n},{n},{n}"])
    (film,) = cohort_of()
    assert film.ehr["bmi"] == 31 and film.ehr["sex"] == 0 and 59 < film.ehr["age"] < 61
    assert said(copy) == {}


@pytest.mark.parametrize(
    "written",
    ["20200601 10:00:00", "2020-06-01T10:00:00Z", "2020-06-01 10:00:00 +00",
     "2020-06-01 10:00:00.000+00:00", "20200601100000"],
)  # fmt: skip
def test_the_clock_counts_in_every_notation(
    copy: Copy, cohort_of: Callable[..., list[Exam]], written: str
) -> None:
    """The film is of noon: the value of 10:00 is nearer than the one of 01:00, or of a bare day."""
    measured(
        copy,
        "1,3038553,2020-06-01,2020-06-01 01:00:00,0,29,9531,,",
        f"1,3038553,20200601,{written},0,31,9531,,",
    )
    (film,) = cohort_of()
    assert film.ehr["bmi"] == 31


def test_words_for_nothing_in_parquet_are_empty_cells(
    copy: Copy, cohort_of: Callable[..., list[Exam]]
) -> None:
    columns = (*MEASURED.split(",")[:7], "unit_source_value")
    cells = ("1", "3038553", "20200601", "NULL", "\\N", "31", "9531", "NULL")
    copied = ", ".join(f"'{cell}' AS {name}" for name, cell in zip(columns, cells, strict=True))
    duckdb.sql(f"COPY (SELECT {copied}) TO '{copy.root / 'MEASUREMENT.parquet'}'")
    (film,) = cohort_of()
    assert film.ehr["bmi"] == 31
