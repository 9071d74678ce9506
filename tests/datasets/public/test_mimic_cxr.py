"""MIMIC-CXR-JPG with MIMIC-IV: the right value of the right day, and what becomes of the rest."""

import csv
import gzip
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.datasets.build.choices import Choices
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.finalize import complete, flow_of
from nofinding.datasets.build.flow import Flow
from nofinding.datasets.build.publisher import read_assembled
from nofinding.datasets.examples import EXAMPLES, Copy
from nofinding.datasets.examples.mimic_cxr import COLUMNS, METADATA
from nofinding.datasets.public.mimic_cxr import MIMIC_CXR
from nofinding.types import Exam

CXR = "mimic-cxr-2.0.0"
OMR = ("subject_id", "chartdate", "seq_num", "result_name", "result_value")
PATIENTS = ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod")
STAYS = ("subject_id", "hadm_id", "stay_id", "intime", "outtime")
SIGNS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp")


def table(file: Path, titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([titles, *rows])


class Mimic:
    """A folder with films that are written down here, one a study, without pictures."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.films: list[tuple[object, ...]] = []
        self.labels: list[list[str]] = []
        self.omr: list[tuple[object, ...]] = []
        self.patients = [(n, "F", 50, 2150, "2011 - 2013", "") for n in range(1, 4)]
        self.stays: list[tuple[object, ...]] = []
        self.triage: list[tuple[object, ...]] = []
        self.signs: list[tuple[object, ...]] = []
        self.parts: dict[str, str] = {}
        self.flow: Flow

    def film(
        self, name: str, patient: int = 1, day: str = "21500315", time: str = "120000.0",
        view: str = "PA", split: str = "train", **labels: str,
    ) -> None:  # fmt: skip
        study = len(self.films) + 1
        self.films.append((name, patient, study, "CHEST", view, 9, 9, day, time, "", "", ""))
        said = labels or {"No_Finding": "1.0"}
        self.labels.append(
            [str(patient), str(study), *(said.get(c.replace(" ", "_"), "") for c in COLUMNS)]
        )
        self.parts[name] = split

    def write(self) -> None:
        films = self.root / "mimic-cxr-jpg" / "2.0.0"
        hosp, ed = self.root / "mimiciv" / "3.1" / "hosp", self.root / "mimic-iv-ed" / "2.2" / "ed"
        table(films / f"{CXR}-metadata.csv.gz", METADATA, self.films)
        table(films / f"{CXR}-chexpert.csv.gz", ("subject_id", "study_id", *COLUMNS), self.labels)
        table(films / f"{CXR}-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"),
              [(n, 0, 0, s) for n, s in self.parts.items()])  # fmt: skip
        table(hosp / "patients.csv.gz", PATIENTS, self.patients)
        table(hosp / "omr.csv.gz", OMR, self.omr)
        if self.stays or self.signs:
            table(ed / "edstays.csv.gz", STAYS, self.stays)
            table(ed / "triage.csv.gz", ("subject_id", "stay_id", *SIGNS), self.triage)
            table(ed / "vitalsign.csv.gz", ("subject_id", "stay_id", "charttime", *SIGNS),
                  self.signs)  # fmt: skip

    def cohort(self, root: str = "", **choices: Any) -> dict[str, Exam]:
        """The films by name."""
        self.write()
        with tempfile.TemporaryDirectory() as work:
            output = Choices(verify="none", **choices)
            with closing(
                CohortDatabase("mimic-cxr", self.root / root, FIELDS, output, Path(work), threads=1)
            ) as database:
                MIMIC_CXR.assemble(database)
                complete(database, official=True)
                self.flow = flow_of(database)
                return {r.image_id: r for r in read_assembled(database, Path(work))}

    def said(self) -> dict[str, int]:
        """What was left out and remarked, and how often."""
        steps = {step.reason: step.films for step in self.flow.steps}
        return steps | {remark.what: remark.count for remark in self.flow.remarks}

    def refused(self, capsys: pytest.CaptureFixture[str], *options: str) -> str:
        """The one line on stderr."""
        out = self.root / "out"
        arguments = ["cohort", f"mimic-cxr:{self.root}", "--out", str(out), "--verify", "none"]
        assert main([*arguments, *options]) == 2
        output = capsys.readouterr().err.strip()
        assert "\n" not in output and not out.exists()
        return output


@pytest.fixture
def mimic(tmp_path: Path) -> Mimic:
    """Two films of patients 1 and 2; more is added."""
    output = Mimic(tmp_path)
    output.film("a")
    output.film("b", patient=2)
    return output


# --- the nearest reading ---------------------------------------------------------------------


BMI: list[tuple[list[tuple[object, ...]], float | None]] = [
    ([("2150-03-10", 1, "BMI (kg/m2)", "20"), ("2150-03-18", 1, "BMI (kg/m2)", "30")], 30),
    ([("2150-03-12", 1, "BMI (kg/m2)", "20"), ("2150-03-18", 1, "BMI (kg/m2)", "30")], 20),
    ([("2150-03-12", 1, "BMI", "20"), ("2150-03-12", 2, "BMI", "21")], 21),  # the later before
    ([("2150-03-15", 1, "BMI", "20"), ("2150-03-15", 2, "BMI", "21")], 20),
    ([("2150-03-18", 1, "BMI", "20"), ("2150-03-18", 2, "BMI", "21")], 20),  # the first after
    ([("2150-03-12", 9, "BMI", "20"), ("2150-03-12", 1, "BMI (kg/m2)", "21")], 21),
    ([("2149-12-15", 1, "bmi (KG/m2) ", " 20.5 ")], 20.5),  # 90 days before
    ([("2149-12-14", 1, "BMI (kg/m2)", "20")], None),
    ([("2150-06-13", 1, "BMI (kg/m2)", "20")], 20),  # 90 days after
    ([("2150-06-14", 1, "BMI (kg/m2)", "20")], None),
    ([("2150-03-15", 1, "BMI", "150"), ("2150-04-15", 1, "BMI", "22")], 22),  # impossible
    ([("2150-03-15", 1, "BMI", ">60"), ("2150-04-15", 1, "BMI", "22")], 22),
    ([("03/15/2150", 1, "BMI", "25"), ("2150-04-15", 1, "BMI", "22")], 22),
    ([("2150-03-15", 1, "eGFR", "25")], None),
    ([], None),
]


def one_each(mimic: Mimic, cases: Sequence[tuple[list[tuple[object, ...]], object]]) -> list[Exam]:
    """A film for each list of readings, of a patient of its own."""
    for place, (readings, _) in enumerate(cases):
        mimic.film(f"case{place}", patient=100 + place)
        mimic.omr += [(100 + place, *reading) for reading in readings]
    films = mimic.cohort()
    return [films[f"case{place}"] for place in range(len(cases))]


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearest_believable_value_in_the_window_counts(mimic: Mimic, order: int) -> None:
    films = one_each(mimic, [(readings[::order], value) for readings, value in BMI])
    assert [film.ehr.get("bmi") for film in films] == [value for _, value in BMI]


def test_the_window_is_the_users(mimic: Mimic) -> None:
    mimic.omr = [(1, "2150-03-25", 1, "BMI", "20")]
    assert mimic.cohort(window=10)["a"].ehr["bmi"] == 20
    assert "bmi" not in mimic.cohort(window=9)["a"].ehr


def test_inches_and_pounds_with_and_without_their_name(mimic: Mimic) -> None:
    mimic.omr = [
        (1, "2150-03-15", 1, "Height (Inches)", "65"),
        (1, "2150-03-15", 1, "Weight (Lbs)", "180"),
        (2, "2150-03-15", 1, "Height", "64.50"),
        (2, "2150-03-15", 1, "Weight", "150.00"),
    ]
    films = mimic.cohort()
    assert films["a"].ehr["height"] == pytest.approx(165.1)
    assert films["a"].ehr["weight"] == pytest.approx(81.6466266)
    assert films["b"].ehr["height"] == pytest.approx(163.83)
    assert films["b"].ehr["weight"] == pytest.approx(68.0388555)


def pressure(film: Exam) -> tuple[float | None, float | None]:
    return film.ehr.get("systolic"), film.ehr.get("diastolic")


PRESSURE: list[tuple[list[tuple[object, ...]], tuple[float | None, ...]]] = [
        # Neither half of a reading that cannot be is used, nor a half of two.
        ([("2150-03-15", 1, "Blood Pressure", "1180/70"),
          ("2150-03-20", 1, "Blood Pressure", "130/80")], (130, 80)),
        ([("2150-03-15", 1, "Blood Pressure", "80/120"),
          ("2150-03-20", 1, "Blood Pressure", "130/80")], (130, 80)),
        ([("2150-03-15", 1, "Blood Pressure", "120/"),
          ("2150-03-15", 2, "Blood Pressure", "/70"),
          ("2150-03-15", 3, "Blood Pressure", "120/70/60")], (None, None)),
        ([("2150-03-15", 1, "Blood Pressure", "120 / 70")], (120, 70)),
        ([("2150-03-16", 1, "Blood Pressure", "120/70"),
          ("2150-03-15", 1, "Blood Pressure Standing (3 mins)", "110/60")], (110, 60)),
        ([("2150-03-15", 2, "Blood Pressure", "120/70"),
          ("2150-03-15", 1, "Blood Pressure Sitting", "110/60")], (120, 70)),
        ([("2150-03-15", 1, "Blood Pressure Lying", "120/70"),
          ("2150-03-15", 1, "Blood Pressure Sitting", "110/60")], (110, 60)),
        ([("2150-03-15", 1, "Blood Pressure Standing", "90/50"),
          ("2150-03-15", 1, "Blood Pressure Standing (1 min)", "80/40")], (90, 50)),
]  # fmt: skip


def test_both_pressures_are_of_one_reading(mimic: Mimic) -> None:
    films = one_each(mimic, PRESSURE)
    assert [pressure(film) for film in films] == [pair for _, pair in PRESSURE]


def test_what_is_not_used_is_counted(mimic: Mimic) -> None:
    mimic.omr = [
        (1, "2150-03-15", 1, "BMI", ">60"),
        (1, "2150-03-15", 2, "BMI", "0"),
        (1, "2150-03-15", 1, "Height (Inches)", "165"),  # centimetres, no doubt
        (1, "2150-03-15", 1, "Blood Pressure", "unable"),
        (1, "2150-03-15", 2, "Blood Pressure", "70/71"),
        (1, "15.03.2150", 1, "Weight (Lbs)", "150"),
        (1, "2150-03-15", 1, "eGFR", ">60"),
        (77, "2150-03-15", 1, "eGFR", ">60"),  # has no film
    ]
    mimic.cohort()
    said = mimic.said()
    assert said["omr, bmi: readings that are no number, left out"] == 1
    assert said["omr, bmi: readings outside 8 to 100 kg/m2, left out"] == 1
    assert said["omr, height: readings outside 30 to 250 cm, left out"] == 1
    assert said["omr, blood pressure: readings that are no numbers, left out"] == 1
    assert sum("or the lower above the upper" in what for what in said) == 1
    assert said["omr: results without a chartdate that can be read, left out"] == 1
    assert said["omr: results of other kinds (eGFR, ...), not used"] == 1


# --- the emergency department ----------------------------------------------------------------


def test_vital_signs_by_the_minute(mimic: Mimic) -> None:
    """The film is of noon; triage is dated by the arrival."""
    mimic.stays = [(1, "", 5, "2150-03-15 09:00:00", ""), (1, "", 6, "2150-03-15 14:59:00", "")]
    mimic.triage = [(1, 5, "98.6", "80", "18", "", "121", "71"),
                    (1, 6, "36.6", "90", "0", "97", "80", "120")]  # fmt: skip
    mimic.signs = [(1, 5, "2150-03-15 08:30:00", "1000", "70", "17", "96", "122", "72")]
    film = mimic.cohort()["a"]
    assert film.ehr["heart_rate"] == 90  # of 2 h 59 min later, not 3 h before
    assert film.ehr["temperature"] == pytest.approx(36.6)  # was in Celsius, of all things
    assert film.ehr["respiratory_rate"] == 18  # 0 is no rate
    assert film.ehr["spo2"] == 97
    assert pressure(film) == (121, 71)  # the nearer one is upside down
    said = mimic.said()
    assert said["ed, temperature: readings of 25 to 45, taken as degrees Celsius"] == 1
    assert said["ed, temperature: readings outside 25 to 45 Cel, left out"] == 1
    mimic.triage = [(1, 5, "98.6", "80", "18", "", "121", "71")]
    assert mimic.cohort()["a"].ehr["temperature"] == pytest.approx(37)


@pytest.mark.parametrize(
    ("charted", "day", "expected"),
    [
        ("2150-03-14 13:00:00", "2150-03-15", (130, 80)),  # 23 hours: no full day
        ("2150-03-14 11:00:00", "2150-03-15", (120, 70)),  # 25 hours: one
        ("2150-03-14 11:00:00", "2150-03-16", (130, 80)),  # one and one: the one with a time
        ("2149-12-15 00:00:00", "2151-03-15", (130, 80)),  # the window is in dates here, too
        ("2149-12-14 23:59:00", "2151-03-15", (None, None)),
    ],
)
def test_a_pressure_of_the_ward_against_one_of_the_practice(
    mimic: Mimic, charted: str, day: str, expected: tuple[float | None, ...]
) -> None:
    mimic.omr = [(1, day, 1, "Blood Pressure", "120/70")]
    mimic.signs = [(1, 5, charted, "", "", "", "", "130", "80")]
    assert pressure(mimic.cohort()["a"]) == expected


def test_before_comes_first_of_two_equally_near(mimic: Mimic) -> None:
    mimic.signs = [(1, 5, "2150-03-15 13:00:00", "", "60", "", "", "", ""),
                   (1, 5, "2150-03-15 11:00:00", "", "70", "", "", "", "")]  # fmt: skip
    assert mimic.cohort()["a"].ehr == {"age": 50, "sex": 0, "view": 0, "heart_rate": 70}


# --- age, sex, time --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "born", "year", "expected"),
    [
        ("21500315", "50", "2148", 52),
        ("21500315", "50", "2153", 47),
        ("21500315", "0", "2150", 0),
        ("21500315", "2", "2153", None),  # taken before the birth
        ("21500315", "91", "2140", 101),
        ("2150-03-15", "50", "2148", 52),
        ("soon", "50", "2148", None),
        ("21500315", "> 89", "2148", None),
    ],
)
def test_age_is_that_of_the_year_of_the_study(
    mimic: Mimic, day: str, born: str, year: str, expected: float | None
) -> None:
    mimic.film("c", patient=3, day=day)
    mimic.patients[2] = (3, "M", born, year, "", "")  # type: ignore[assignment]
    film = mimic.cohort()["c"]
    assert film.ehr.get("age") == expected and film.ehr["sex"] == 1
    over = born == "91"
    assert any("over 89" in flag for flag in film.flags) == over
    assert any("over 89" in what for what in mimic.said()) == over


@pytest.mark.parametrize(
    ("time", "expected"),
    [("213014.53100000002", "21:30:14"), ("83045.25", "08:30:45"), ("5.0", "00:00:05"),
     ("120000", "12:00:00"), ("", "00:00:00"), ("256000.0", "00:00:00")],
)  # fmt: skip
def test_study_time_has_lost_its_zeros(mimic: Mimic, time: str, expected: str) -> None:
    mimic.film("c", patient=3, time=time)
    taken = mimic.cohort()["c"].taken
    assert taken is not None and f"{taken:%Y-%m-%d %H:%M:%S}" == f"2150-03-15 {expected}"
    lost = mimic.said().get("films without a StudyTime that can be read: taken as midnight", 0)
    assert lost == (expected == "00:00:00")


def test_a_patient_unknown_to_the_hospital(mimic: Mimic) -> None:
    mimic.film("c", patient=4)
    assert mimic.cohort()["c"].ehr == {"view": 0}
    assert mimic.said()["PA and AP films of patients who are not in hosp/patients"] == 1


# --- views, labels, split --------------------------------------------------------------------


def test_frontal_films_only(mimic: Mimic) -> None:
    for name, view in (("c", "LL"), ("d", "LATERAL"), ("e", ""), ("f", "AP AXIAL"), ("g", "AP")):
        mimic.film(name, view=view)
    films = mimic.cohort()
    assert sorted(films) == ["a", "b", "g"]
    assert (films["a"].view, films["g"].view) == ("PA", "AP")
    said = mimic.said()
    assert (said["lateral"], said["no ViewPosition"], said["another view than PA and AP"]) == (
        2, 1, 1)  # fmt: skip


LABELLED: dict[str, dict[str, str]] = {
    "normal": {"No_Finding": "1.0"},
    "devices": {"No_Finding": "1.0", "Support_Devices": "1.0"},
    "tube": {"Support_Devices": "1.0"},
    "edema": {"Edema": "1.0", "Pneumonia": "-1.0", "Fracture": "0.0"},
    "perhaps": {"Pneumonia": "-1.0", "Edema": "0.0"},
    "silent": {"Edema": "0.0"},
    "torn": {"No_Finding": "1.0", "Edema": "1.0"},
}


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [
        ("drop", {"edema": {"Edema"}}),
        ("positive", {"edema": {"Edema", "Pneumonia"}, "perhaps": {"Pneumonia"}}),
        ("negative", {"edema": {"Edema"}, "perhaps": set()}),
        ("unlabelled", {"edema": {"Edema"}, "perhaps": None, "silent": None}),
    ],
)
def test_labels(mimic: Mimic, uncertain: str, expected: dict[str, set[str] | None]) -> None:
    for name, labels in LABELLED.items():
        mimic.film(name, **labels)
    films = mimic.cohort(uncertain=uncertain)
    always = {
        "a": set(),
        "b": set(),
        "normal": set(),
        "devices": set(),
        "tube": {"Support Devices"},
    }
    assert {name: film.findings for name, film in films.items()} == always | expected
    said = mimic.said()
    assert said["labelled No Finding and a finding at once"] == 1
    assert said.get("uncertain labels only", 0) == (uncertain == "drop")
    assert said.get("no label: neither No Finding nor a finding", 0) == (uncertain != "unlabelled")
    assert said["No Finding with Support Devices, which are no finding then"] == 1


def test_a_study_without_labels_and_labels_of_another_patient(mimic: Mimic) -> None:
    mimic.film("c")
    mimic.film("d")
    del mimic.labels[2]
    mimic.labels[2][0] = "2"  # its study is patient 1's
    assert sorted(mimic.cohort()) == ["a", "b"]
    assert mimic.said()["no label: neither No Finding nor a finding"] == 2


def test_the_official_split(mimic: Mimic) -> None:
    mimic.film("c", patient=3, split="validate")
    mimic.film("d", patient=4, split="test")
    mimic.film("e", patient=5)
    del mimic.parts["e"]
    films = mimic.cohort()
    assert {n: f.split for n, f in films.items()} == {
        "a": "train", "b": "train", "c": "val", "d": "test"}  # fmt: skip
    assert mimic.said()["in no part of the official split"] == 1


# --- where things are ------------------------------------------------------------------------


def test_the_record_is_found_under_the_folder_or_by_record(mimic: Mimic) -> None:
    mimic.omr = [(1, "2150-03-15", 1, "BMI", "20")]
    mimic.signs = [(1, 5, "2150-03-15 13:00:00", "", "60", "", "", "", "")]
    everything = {"age": 50, "sex": 0, "view": 0, "bmi": 20, "heart_rate": 60}
    assert mimic.cohort()["a"].ehr == everything
    bare = mimic.cohort(root="mimic-cxr-jpg/2.0.0")
    assert bare["a"].ehr == {"view": 0}
    assert mimic.said()["no MIMIC-IV (--record FOLDER): PA and AP films without a record"] == 2
    for named in ("mimiciv/3.1", "mimiciv", "mimiciv/3.1/hosp"):
        films = mimic.cohort(root="mimic-cxr-jpg/2.0.0", record=mimic.root / named)
        assert films["a"].ehr == everything


def test_a_field_whose_file_is_not_there_is_refused(
    mimic: Mimic, capsys: pytest.CaptureFixture[str]
) -> None:
    mimic.omr = [(1, "2150-03-15", 1, "BMI", "20")]
    assert sorted(mimic.cohort(complete=("bmi",))) == ["a"]
    (mimic.root / "mimiciv/3.1/hosp/omr.csv.gz").unlink()
    message = mimic.refused(capsys, "--complete", "age", "bmi")
    assert "--complete bmi: needs MIMIC-IV's hosp/omr.csv.gz" in message
    assert "needs MIMIC-IV-ED's ed/vitalsign.csv.gz" in mimic.refused(
        capsys, "--complete", "heart_rate"
    )
    (mimic.root / "mimiciv/3.1/hosp/patients.csv.gz").unlink()
    assert "--record FOLDER names that" in mimic.refused(capsys, "--complete", "age")
    assert "has no hosp/patients.csv.gz" in mimic.refused(
        capsys, "--record", str(mimic.root / "mimiciv")
    )


def test_two_versions_are_not_guessed_between(
    mimic: Mimic, capsys: pytest.CaptureFixture[str]
) -> None:
    mimic.write()
    older = mimic.root / "mimiciv" / "2.2" / "hosp"
    table(older / "patients.csv.gz", PATIENTS, mimic.patients)
    assert "MIMIC-IV is there twice" in mimic.refused(capsys)
    newer = str(mimic.root / "mimiciv" / "3.1")
    assert main(["cohort", f"mimic-cxr:{mimic.root}", "--out", str(mimic.root / "out"),
                 "--verify", "none", "--record", newer]) == 0  # fmt: skip


FILES = {
    "metadata": "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-metadata.csv.gz",
    "chexpert": "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-chexpert.csv.gz",
    "split": "mimic-cxr-jpg/2.0.0/mimic-cxr-2.0.0-split.csv.gz",
    "omr": "mimiciv/3.1/hosp/omr.csv.gz",
    "patients": "mimiciv/3.1/hosp/patients.csv.gz",
    "signs": "mimic-iv-ed/2.2/ed/vitalsign.csv.gz",
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_table_is_one_line(
    mimic: Mimic, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mimic.omr = [(1, "2150-03-15", n, "BMI", n) for n in range(2000)]
    mimic.signs = [(1, 5, "2150-03-15 13:00:00", "", "60", "", "", "", "")]
    mimic.write()
    file = mimic.root / FILES[name]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    message = mimic.refused(capsys)
    assert "gzip" in message or "cut off" in message or "damaged" in message
    text = gzip.decompress(whole)
    titles, _, rows = text.partition(b"\r\n")
    first = titles.split(b",")[-1]
    file.write_bytes(gzip.compress(text.replace(first, b"Gone", 1)))
    if name not in ("metadata", "patients"):  # whose last column nobody needs
        assert "has no column" in mimic.refused(capsys)
    file.write_bytes(gzip.compress(titles + b"\r\n\xe9\xff" + rows))
    message = mimic.refused(capsys)
    assert "UTF-8" in message and file.name in message


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda m: m.labels.append([*m.labels[0][:-1], "1.0"]), "study_id 1 has two different"),
        (lambda m: m.patients.append((1, "M", 3, 2150, "", "")), "subject_id 1 has two different"),
        (lambda m: m.parts.update(a="dev"), "'dev' is not one of train, validate, test"),
    ],
)
def test_keys_are_keys(
    mimic: Mimic, break_it: Callable[[Mimic], None], said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    break_it(mimic)
    mimic.write()
    assert said in mimic.refused(capsys)


# --- the whole example against a second program ----------------------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mimic")
    EXAMPLES["mimic-cxr"](Copy(root=root / "copy", patients=24, seed=3, size=64))
    return root / "copy"


def rows(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", newline="", encoding="utf-8") as lines:
        return [*csv.DictReader(lines)]


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def within(name: str, value: float) -> bool:
    low, high = FIELDS[name].low, FIELDS[name].high
    assert low is not None and high is not None
    return low <= value <= high


Reading = tuple[datetime, bool, int, int, tuple[float, ...]]  # when, timed, preference, seq, value


def readings_of(copy: Path) -> dict[tuple[str, str], list[Reading]]:
    """Every believable reading by patient and kind, by plain loops over the files."""
    entries: dict[tuple[str, str], list[Reading]] = defaultdict(list)
    order = ["", " Sitting", " Lying", " Standing", " Standing (1 min)", " Standing (3 mins)"]
    units = {"BMI": ("bmi", 1.0), "Height": ("height", 2.54), "Weight": ("weight", 0.45359237)}
    for row in rows(copy / "mimiciv/3.1/hosp/omr.csv.gz"):
        name, text, who = row["result_name"], row["result_value"], row["subject_id"]
        try:
            day = datetime.strptime(row["chartdate"], "%Y-%m-%d")
        except ValueError:
            continue
        if name.startswith("Blood Pressure"):
            high, _, low = text.partition("/")
            pair = (number(high), number(low))
            rank = order.index(name.removeprefix("Blood Pressure"))
            if within("systolic", pair[0]) and within("diastolic", pair[1]) and pair[1] <= pair[0]:
                entries[who, "pressure"].append((day, False, rank, int(row["seq_num"]), pair))
        elif name.split(" ")[0] in units:
            kind, factor = units[name.split(" ")[0]]
            value = number(text) * factor
            if within(kind, value):
                entries[who, kind].append(
                    (day, False, int("(" not in name), int(row["seq_num"]), (value,))
                )
    arrived = {r["stay_id"]: r["intime"] for r in rows(copy / "mimic-iv-ed/2.2/ed/edstays.csv.gz")}
    for rank, file in enumerate(("vitalsign", "triage")):
        for row in rows(copy / f"mimic-iv-ed/2.2/ed/{file}.csv.gz"):
            when = datetime.fromisoformat(row.get("charttime") or arrived[row["stay_id"]])
            warm = number(row["temperature"])
            values = {
                "heart_rate": number(row["heartrate"]),
                "respiratory_rate": number(row["resprate"]),
                "spo2": number(row["o2sat"]),
                "temperature": warm if 25 <= warm <= 45 else (warm - 32) / 1.8,
            }
            for kind, value in values.items():
                if within(kind, value):
                    entries[row["subject_id"], kind].append((when, True, rank, 0, (value,)))
            pair = (number(row["sbp"]), number(row["dbp"]))
            if within("systolic", pair[0]) and within("diastolic", pair[1]) and pair[1] <= pair[0]:
                entries[row["subject_id"], "pressure"].append((when, True, rank, 0, pair))
    return entries


def nearest(taken: datetime, readings: list[Reading], window: int) -> tuple[float, ...] | None:
    """The values of the nearest reading, found by sorting all of them; of equal ones the median."""

    def far(reading: Reading) -> tuple[float, ...]:
        when, timed, rank, turn, _ = reading
        days = (when.date() - taken.date()).days
        if timed:
            apart = abs((when - taken).total_seconds())
            return apart // 86400, 0, apart, when > taken, rank, turn
        return abs(days), 1, 0, days > 0, rank, -turn if days < 0 else turn

    near = [r for r in readings if abs((r[0].date() - taken.date()).days) <= window]
    equal = [r[4] for r in near if far(r) == min(map(far, near))]
    return tuple(map(median, zip(*equal, strict=True))) if near else None


@pytest.mark.parametrize("window", [0, 30, 90])
def test_the_join_equals_one_by_plain_loops(example: Path, tmp_path: Path, window: int) -> None:
    out = str(tmp_path / "cohort")
    assert main(["cohort", f"mimic-cxr:{example}", "--out", out, "--window", f"{window}"]) == 0
    readings = readings_of(example)
    persons = {r["subject_id"]: r for r in rows(example / "mimiciv/3.1/hosp/patients.csv.gz")}
    metadata = rows(example / "mimic-cxr-jpg/2.1.0/mimic-cxr-2.0.0-metadata.csv.gz")
    shots = {row["dicom_id"]: row for row in metadata}
    films = [*SOURCES["cohort"].read(out, FIELDS)]
    assert len(films) > 25
    visited = set()
    for film in films:
        shot = shots[film.image_id]
        who = shot["subject_id"]
        clock = shot["StudyTime"].split(".")[0].zfill(6)
        taken = datetime.strptime(shot["StudyDate"] + clock, "%Y%m%d%H%M%S")
        expected = {"view": float(["PA", "AP"].index(shot["ViewPosition"]))}
        if who in persons:
            age = int(persons[who]["anchor_age"]) + taken.year - int(persons[who]["anchor_year"])
            expected |= {"sex": float("FM".index(persons[who]["gender"]))}
            expected |= {"age": float(age)} if within("age", age) else {}
        kinds = ("bmi", "height", "weight", "heart_rate", "respiratory_rate", "spo2", "temperature")
        for kind in kinds:
            if value := nearest(taken, readings[who, kind], window):
                expected[kind] = value[0]
        if pair := nearest(taken, readings[who, "pressure"], window):
            expected |= {"systolic": pair[0], "diastolic": pair[1]}
        assert dict(film.ehr) == pytest.approx(expected)
        visited |= expected.keys()
    assert visited == FIELDS.keys() - ({"bmi", "height", "weight"} if window == 0 else set()) | (
        visited & {"bmi", "height", "weight"})  # fmt: skip


def test_the_example_has_what_is_odd_in_life(example: Path, tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    assert main(["cohort", f"mimic-cxr:{example}", "--out", str(out)]) == 0
    flow = json.loads((out / "cohort.json").read_text())["flow"]
    reasons = {step["reason"] for step in flow["steps"]}
    assert reasons == {
        "no ViewPosition", "lateral", "another view than PA and AP", "uncertain labels only",
        "no label: neither No Finding nor a finding", "its file is not in the folder",
    }  # fmt: skip
    kinds = {what.split(":")[0] for what in (r["what"] for r in flow["remarks"])}
    assert {"omr", "omr, bmi", "omr, height", "omr, weight", "omr, blood pressure", "ed, spo2",
            "ed, temperature", "age"} <= kinds  # fmt: skip
    assert {part["split"] for part in flow["parts"] if part["normal"]} == {"train", "val", "test"}
    assert {part["split"] for part in flow["parts"] if part["abnormal"]} >= {"train", "test"}


def test_the_recipe_of_diff3m_says_where_counts_differ(
    example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cohort"
    assert main(["cohort", f"mimic-cxr:{example}", "--out", str(out), "--recipe", "mimic-diff3m",
                 "--uncertain", "drop", "--window", "5"]) == 0  # fmt: skip
    films = [*SOURCES["cohort"].read(str(out), FIELDS)]
    vital = {"bmi", "height", "weight", "systolic", "diastolic"}
    assert films and all(vital <= film.ehr.keys() for film in films)
    description = json.loads((out / "cohort.json").read_text())
    assert (
        description["choices"]["window"] == 90 and description["choices"]["uncertain"] == "positive"
    )
    learnt = sum(film.split == "train" and film.findings == frozenset() for film in films)
    said = f"{learnt} normal films to learn from, where the protocol has 29,310"
    assert said in description["deviations"] and len(description["deviations"]) == 3
    assert f"not as published: {said}" in capsys.readouterr().err


def test_negbio_where_chexpert_is_not(mimic: Mimic) -> None:
    mimic.film("c", Edema="1.0")
    mimic.write()
    folder = mimic.root / "mimic-cxr-jpg" / "2.0.0"
    before = mimic.cohort()["c"].findings
    (folder / f"{CXR}-chexpert.csv.gz").rename(folder / f"{CXR}-negbio.csv.gz")
    mimic.write = lambda: None  # type: ignore[method-assign]
    assert mimic.cohort()["c"].findings == before == {"Edema"}


def test_a_film_is_found_wherever_it_lies(example: Path, tmp_path: Path) -> None:
    """A smaller copy of the films in one flat folder will do."""
    flat = tmp_path / "flat"
    flat.mkdir()
    base = example / "mimic-cxr-jpg/2.1.0"
    for file in base.glob("mimic*"):
        (flat / file.name).write_bytes(file.read_bytes())
    for file in base.rglob("*.jpg"):
        (flat / file.name).write_bytes(file.read_bytes())
    counts = []
    for name, root in (("one", base), ("two", flat)):
        assert main(["cohort", f"mimic-cxr:{root}", "--out", str(tmp_path / name)]) == 0
        counts.append(len([*SOURCES["cohort"].read(str(tmp_path / name), FIELDS)]))
    assert counts[0] == counts[1] > 25
