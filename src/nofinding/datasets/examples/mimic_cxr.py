"""A small copy of MIMIC-CXR-JPG 2.1.0, MIMIC-IV 3.1 and MIMIC-IV-ED 2.2, as PhysioNet lays them."""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta

import numpy as np

from nofinding.datasets.examples.writing import Copy
from nofinding.datasets.public.mimic_cxr import LABELS

__all__ = ["write_mimic_cxr"]

FILMS, HOSPITAL, EMERGENCY = "mimic-cxr-jpg/2.1.0", "mimiciv/3.1", "mimic-iv-ed/2.2"
FINDINGS = {"nodule": "Lung Lesion", "effusion": "Pleural Effusion", "mass": "Lung Opacity"}
COLUMNS = sorted((*LABELS, "No Finding"))
METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition",
    "Rows", "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
CODES = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral"}
NEWBORN = 7  # the patient whose film is older than he
UNSEEN = 5  # the patient without a row in omr
UNLISTED = 6  # the patient without a row in patients
AGED = 4  # the patient over 89


def write_mimic_cxr(copy: Copy) -> None:
    """The tables of all three with what is odd in them: StudyTime without leading zeros, laterals
    and films without a view, results under both names, ">60", "unable", heights in centimetres,
    seq_num twice, temperatures in Celsius, a patient over 89, one without omr, one unknown to
    MIMIC-IV. One listed film is not there, one film is not listed, one study has no label."""
    rng = copy.rng("mimic-cxr")
    films: list[list[object]] = []
    labels: list[list[object]] = []
    parts: list[list[object]] = []
    persons: list[list[object]] = []
    results: list[list[object]] = []
    stays: list[list[object]] = []
    triage: list[list[object]] = []
    signs: list[list[object]] = []
    for number in range(copy.patients):
        subject = 10_000_032 + 977 * number
        who = copy.person(number)
        year = 2120 + int(rng.integers(0, 70))
        first = datetime(year, 1 + number % 12, 1 + number % 28, number % 24, 7 * number % 60, 30)
        if number != UNLISTED:
            born = {AGED: 91, NEWBORN: 20}.get(number, round(who["age"]))
            anchor = year + (30 if number == NEWBORN else number % 3)
            persons.append([subject, "FM"[int(who["sex"])], born, anchor, "2011 - 2013", ""])
        part = ("train", "train", "test", "train", "validate")[number % 5]
        for visit in range(1 + number % 2):
            study = 50_000_000 + 1009 * number + visit
            when = first + timedelta(days=40 * visit)
            kind = [*FINDINGS][number % 3] if number % 6 in (2, 3) and visit == 0 else None
            for view, name in _study(copy, number, visit, kind, subject, study):
                films.append([name, subject, study, *_shot(view, copy.size, when)])
                parts.append([name, study, subject, part])
            if (number, visit) != (9, 1):  # one of the eight studies without a label
                labels.append([subject, study, *_labels(number, visit, kind)])
            if number != UNSEEN:
                results += _results(rng, subject, when.date(), who)
            if number % 2 == 0:
                stay = 30_000_000 + 31 * number + visit
                stays.append([subject, "", stay, f"{when - timedelta(hours=3)}",
                              f"{when + timedelta(hours=5)}", "FM"[int(who["sex"])], "UNKNOWN",
                              "WALK IN", "HOME"])  # fmt: skip
                triage.append([subject, stay, *_signs(rng, who, number), 3, 3.0, "Cough"])
                signs.append([subject, stay, f"{when - timedelta(minutes=50)}",
                              *_signs(rng, who, number + 1), "", "0"])  # fmt: skip
    _write_films(copy, films, labels, parts)
    results += _odd_results(films)
    copy.table(f"{HOSPITAL}/hosp/patients.csv.gz",
               ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"),
               persons)  # fmt: skip
    copy.table(f"{HOSPITAL}/hosp/omr.csv.gz",
               ("subject_id", "chartdate", "seq_num", "result_name", "result_value"),
               results)  # fmt: skip
    copy.table(f"{EMERGENCY}/ed/edstays.csv.gz",
               ("subject_id", "hadm_id", "stay_id", "intime", "outtime", "gender", "race",
                "arrival_transport", "disposition"), stays)  # fmt: skip
    vitals = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp")
    copy.table(f"{EMERGENCY}/ed/triage.csv.gz",
               ("subject_id", "stay_id", *vitals, "pain", "acuity", "chiefcomplaint"),
               triage)  # fmt: skip
    copy.table(f"{EMERGENCY}/ed/vitalsign.csv.gz",
               ("subject_id", "stay_id", "charttime", *vitals, "rhythm", "pain"),
               signs)  # fmt: skip


def _study(
    copy: Copy, number: int, visit: int, kind: str | None, subject: int, study: int
) -> Iterator[tuple[str, str]]:
    """View and id of the films of a study; writes them."""
    views = ["AP" if number % 3 == 1 else "PA", "LATERAL" if number % 2 else "LL"]
    if number % 8 == 5:
        views.append("")
    if number == 14:
        views.append("SWIMMERS")
    for place, view in enumerate(views[: 1 if number % 3 == 1 else None]):
        digest = hashlib.sha256(f"{copy.seed} {study} {view}".encode()).hexdigest()
        name = "-".join(digest[place : place + 8] for place in range(0, 40, 8))
        path = f"{FILMS}/files/p{str(subject)[:2]}/p{subject}/s{study}/{name}.jpg"
        copy.picture(path, copy.film(number, kind, visit + 2 * place))
        yield view, name


def _shot(view: str, size: int, when: datetime) -> list[object]:
    """What the metadata say of a film."""
    procedure = "CHEST (PORTABLE AP)" if view == "AP" else "CHEST (PA AND LAT)"
    clock = float(when.strftime("%H%M%S")) + 0.5  # 83045.5 is half past eight
    return [procedure, view, size, size, when.strftime("%Y%m%d"), clock, procedure,
            CODES.get(view, ""), "Erect" if view == "PA" else ""]  # fmt: skip


def _labels(number: int, visit: int, kind: str | None) -> list[str]:
    """What CheXpert's labeller read in the report: 1.0, 0.0, -1.0 or nothing."""
    said = dict.fromkeys(COLUMNS, "")
    if kind:
        said |= {FINDINGS[kind]: "1.0", "Pneumothorax": "0.0", "Pneumonia": "-1.0"}
    elif number == 13 and visit == 0:
        said |= {"Pneumonia": "-1.0", "Edema": "0.0"}  # uncertain only
    elif number == 11 and visit == 0:
        said |= {"Edema": "0.0"}  # "Hyperinflation.": neither a finding nor none
    else:
        said |= {"No Finding": "1.0"}
        said |= {"Support Devices": "1.0"} if number == 12 else {}
    return [*said.values()]


def _results(
    rng: np.random.Generator, subject: int, day: date, who: Mapping[str, float]
) -> Iterator[list[object]]:
    """Outpatient measurements around the day of a film, two visits, one with pressure taken
    twice."""
    for gap in (-int(rng.integers(1, 60)), int(rng.integers(0, 80))):
        chart = day + timedelta(days=gap)
        height = who["height"] / 2.54
        weight = (who["weight"] + float(rng.normal(0, 1.5))) / 0.45359237
        long = rng.random() < 0.8
        yield [subject, chart, 1, "Height (Inches)" if long else "Height", f"{height:.2f}"]
        yield [subject, chart, 1, "Weight (Lbs)" if long else "Weight", f"{weight:.1f}"]
        yield [subject, chart, 1, "BMI (kg/m2)" if long else "BMI",
               f"{weight * 0.45359237 / (height * 0.0254) ** 2:.1f}"]  # fmt: skip
        for turn in (1, 2):
            high, low = who["systolic"] + rng.normal(0, 6), who["diastolic"] + rng.normal(0, 4)
            yield [subject, chart, turn, "Blood Pressure", f"{high:.0f}/{min(low, high):.0f}"]


def _odd_results(films: list[list[object]]) -> list[list[object]]:
    """Rows as they are in life: on the very day of the film, and not to be believed."""
    subject = films[0][1]
    day = datetime.strptime(str(films[0][7]), "%Y%m%d").date()
    return [
        [subject, day, 1, "Blood Pressure", "unable"],
        [subject, day, 2, "Blood Pressure", "80/120"],  # the lower above the upper
        [subject, day, 1, "Blood Pressure Standing (1 min)", "1180/70"],
        [subject, day, 1, "Blood Pressure Sitting", ">60"],
        [subject, day, 1, "BMI (kg/m2)", "0.0"],
        [subject, day, 1, "BMI", ">60"],
        [subject, day, 1, "Height (Inches)", "165"],  # centimetres
        [subject, day, 1, "Weight (Lbs)", "1500"],
        [subject, day, 1, "eGFR", ">60"],
        [subject, day.strftime("%m/%d/%Y"), 1, "BMI (kg/m2)", "24.0"],
        [99_999_999, day, 1, "BMI (kg/m2)", "24.0"],  # has no film
    ]


def _signs(rng: np.random.Generator, who: Mapping[str, float], number: int) -> list[object]:
    """Vital signs of the emergency department: Fahrenheit, now and then Celsius or nonsense."""
    temperature = [98.6, 36.6, 99.1, 986.0][number % 4] + round(float(rng.normal(0, 0.2)), 1)
    high, low = who["systolic"] + rng.normal(0, 8), who["diastolic"] + rng.normal(0, 5)
    return [
        f"{temperature:.4f}",
        f"{rng.normal(84, 12):.1f}",
        f"{rng.normal(18, 2):.1f}" if number % 3 else "",
        f"{min(rng.normal(97, 2), 100):.1f}" if number % 5 else "0.0",
        round(high),
        round(min(low, high)),
    ]


def _write_films(
    copy: Copy, films: list[list[object]], labels: list[list[object]], parts: list[list[object]]
) -> None:
    """The tables of MIMIC-CXR-JPG; one listed film is taken away, one put there is not listed."""
    _, subject, study, *_ = films[-1]
    lost = f"{FILMS}/files/p{str(subject)[:2]}/p{subject}/s{study}"
    for row in films:
        if row[2] == study and row[4] in ("PA", "AP"):
            (copy.root / lost / f"{row[0]}.jpg").unlink()
    copy.picture(f"{FILMS}/files/p10/p10999999/s59999999/unlisted.jpg", copy.film(copy.patients))
    titles = ("subject_id", "study_id", *COLUMNS)
    copy.table(f"{FILMS}/mimic-cxr-2.0.0-metadata.csv.gz", METADATA, films)
    copy.table(f"{FILMS}/mimic-cxr-2.0.0-chexpert.csv.gz", titles, labels)
    copy.table(f"{FILMS}/mimic-cxr-2.0.0-negbio.csv.gz", titles, labels)
    copy.table(f"{FILMS}/mimic-cxr-2.0.0-split.csv.gz",
               ("dicom_id", "study_id", "subject_id", "split"), parts)  # fmt: skip
    names = [f"files/p{str(row[1])[:2]}/p{row[1]}/s{row[2]}/{row[0]}.jpg" for row in films]
    copy.text(f"{FILMS}/IMAGE_FILENAMES", names)
    tested = {row[1] for row in parts if row[3] == "test"}
    spoken = ["Airspace Opacity" if name == "Lung Opacity" else name for name in COLUMNS]
    copy.table(f"{FILMS}/mimic-cxr-2.1.0-test-set-labeled.csv", ("study_id", *spoken),
               [row[1:] for row in labels if row[1] in tested])  # fmt: skip
