"""`mimic-cxr:FOLDER`: MIMIC-CXR-JPG as PhysioNet ships it (Johnson et al. 2019), with MIMIC-IV.

377,110 films of 65,379 patients in 227,835 studies. Reads mimic-cxr-2.0.0-metadata.csv.gz,
mimic-cxr-2.0.0-chexpert.csv.gz (or, where it is not there, -negbio) and
mimic-cxr-2.0.0-split.csv.gz; age, sex and vital signs from MIMIC-IV (`mimic_record`).
"""

from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.publisher import Publisher
from nofinding.datasets.public.mimic_ehr import EMERGENCY_FIELDS, OMR_FIELDS, join_record
from nofinding.datasets.public.mimic_folders import find_mimic
from nofinding.errors import UserError

__all__ = ["LABELS", "MIMIC_CXR"]

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
    "Fracture", "Lung Lesion", "Lung Opacity", "Pleural Effusion", "Pleural Other", "Pneumonia",
    "Pneumothorax", "Support Devices",
)  # fmt: skip
NORMAL, DEVICES = "No Finding", "Support Devices"
LATERAL = "('LATERAL', 'LL', 'RL', 'XTABLE LATERAL')"
OLDEST = 91  # anchor_age of everybody over 89


def assemble(database: CohortDatabase) -> None:
    """All films with labels, view, split, and the record around the time of the study."""
    folders = find_mimic(database.root, database.choices.record)
    database.base = folders.films
    _shots(database)
    _labels(database)
    split = _split(database)
    offers = join_record(database, folders)
    _films(database, offers)
    _count_record(database, folders.hospital is not None, offers)
    database.drop("view IS NULL", "no ViewPosition")
    database.drop(f"view IN {LATERAL}", "lateral")
    database.drop("view NOT IN ('PA', 'AP')", "another view than PA and AP")
    _drop_by_label(database)
    if split and database.choices.split == "official" and database.choices.lists is None:
        database.drop("split IS NULL", "in no part of the official split")


def _shots(database: CohortDatabase) -> None:
    """The tables `shots` (dicom, patient, study, view, taken) and `moments`."""
    file = database.find("mimic-cxr-*-metadata.csv", under=database.base)
    database.csv(
        "metadata",
        file,
        ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"),
        versions="2.0.0 and 2.1.0 have it",
    )
    # The time is a decimal number without its leading zeros: 83045.25 is half past eight.
    database.run(
        r"""
        CREATE TABLE shots AS SELECT trim(dicom_id) AS dicom,
          try_cast(subject_id AS BIGINT) AS patient, try_cast(study_id AS BIGINT) AS study,
          upper(trim(ViewPosition)) AS view,
          coalesce(try_strptime(trim(StudyDate), '%Y%m%d'), moment(StudyDate)) AS day,
          try_strptime(CASE WHEN regexp_full_match(trim(StudyTime), '\d{1,6}(\.\d*)?') THEN
            lpad(split_part(trim(StudyTime), '.', 1), 6, '0') END, '%H%M%S') AS clock,
          date_trunc('day', day) + coalesce(clock - TIMESTAMP '1900-01-01', INTERVAL 0 DAY) AS taken
        FROM metadata
        """
    )
    database.remark(
        "films without a StudyDate that can be read: no age, no vital signs",
        database.one("SELECT count(*) FROM shots WHERE day IS NULL"),
    )
    database.remark(
        "films without a StudyTime that can be read: taken as midnight",
        database.one("SELECT count(*) FROM shots WHERE day IS NOT NULL AND clock IS NULL"),
    )
    database.run("CREATE TABLE moments (patient BIGINT, taken TIMESTAMP)")
    database.run(
        "INSERT INTO moments SELECT DISTINCT patient, taken FROM shots "
        "WHERE view IN ('PA', 'AP') AND patient IS NOT NULL AND taken IS NOT NULL"
    )


def _labels(database: CohortDatabase) -> None:
    """The table `labels` (patient, study, normal, positive, uncertain), one row a study."""
    file = database.find(
        "mimic-cxr-*-chexpert.csv", "mimic-cxr-*-negbio.csv", under=database.base,
        what="nor mimic-cxr-2.0.0-negbio.csv.gz",
    )  # fmt: skip
    database.csv(
        "reported",
        file,
        ("subject_id", "study_id", NORMAL, *LABELS),
        versions="2.0.0 and 2.1.0 have it",
    )

    def named(value: int) -> str:
        names = ", ".join(f"CASE WHEN number(\"{n}\") = {value} THEN '{n}' END" for n in LABELS)
        return f"list_filter([{names}], lambda name: name IS NOT NULL)"

    database.run(
        f"""
        CREATE TABLE labels AS SELECT DISTINCT try_cast(subject_id AS BIGINT) AS patient,
          try_cast(study_id AS BIGINT) AS study, coalesce(number("{NORMAL}") = 1, false) AS normal,
          {named(1)} AS positive, {named(-1)} AS uncertain
        FROM reported
        """
    )
    if twice := database.run(
        "SELECT study FROM labels WHERE study IS NOT NULL GROUP BY 1 HAVING count(*) > 1 LIMIT 1"
    ):
        raise UserError(f"{file}: study_id {twice[0][0]} has two different rows")
    odd = " + ".join(
        f'("{name}" IS NOT NULL AND coalesce(number("{name}") NOT IN (-1, 0, 1), true))::INTEGER'
        for name in (NORMAL, *LABELS)
    )
    database.remark(
        "labels that are none of 1, 0, -1 and empty, taken as not mentioned",
        database.one(f"SELECT coalesce(sum({odd}), 0) FROM reported"),
    )


def _split(database: CohortDatabase) -> bool:
    """The table `parts` (dicom, split); whether there is an official split.

    Raises UserError where it is wanted and not there, or has a word of its own.
    """
    database.run("CREATE TABLE parts (dicom VARCHAR, split VARCHAR)")
    choices = database.choices
    if choices.lists is not None or choices.split == "seeded":
        return False
    file = database.find(
        "mimic-cxr-*-split.csv", under=database.base, what="without it give --split seeded"
    )
    database.csv("official", file, ("dicom_id", "split"), versions="2.0.0 and 2.1.0 have it")
    database.run(
        "INSERT INTO parts SELECT DISTINCT trim(dicom_id), CASE lower(trim(split)) "
        "WHEN 'validate' THEN 'val' ELSE lower(trim(split)) END FROM official"
    )
    if other := database.run(
        "SELECT split FROM parts WHERE split NOT IN ('train', 'val', 'test') LIMIT 1"
    ):
        raise UserError(
            f"{file}: column split: {other[0][0][:40]!r} is not one of train, validate, test"
        )
    if twice := database.run("SELECT dicom FROM parts GROUP BY 1 HAVING count(*) > 1 LIMIT 1"):
        raise UserError(f"{file}: dicom_id {twice[0][0][:60]} is in two parts")
    return True


def _findings(uncertain: str) -> str:
    """SQL: the findings of a study, NULL without a label."""
    alone = {"positive": "uncertain", "negative": "[]", "drop": "NULL", "unlabelled": "NULL"}
    both = "list_concat(positive, uncertain)" if uncertain == "positive" else "positive"
    return (
        f"CASE WHEN normal AND len(list_filter(positive, lambda name: name != '{DEVICES}')) = 0 "
        f"THEN [] WHEN normal THEN list_concat(['{NORMAL}'], positive) "
        f"WHEN len(positive) > 0 THEN {both} "
        f"WHEN len(uncertain) > 0 THEN {alone[uncertain]} END"
    )


def _films(database: CohortDatabase, offers: tuple[str, ...]) -> None:
    """Hands the films over, each with its labels, its part and its record."""
    database.run("CREATE TABLE found (stem VARCHAR, path VARCHAR)")
    if database.choices.verify != "none":
        database.list_files()
        database.run(
            "INSERT INTO found SELECT stem, "
            "arg_min(path, (NOT regexp_matches(path, '^files/p.*jpg$'), path)) "
            "FROM present GROUP BY 1"
        )
    lived = ", ".join(f'vitals."{name}"' for name in (*OMR_FIELDS, *EMERGENCY_FIELDS))
    # Its own place, or wherever else a film of that name lies: ids are unique.
    database.films(
        f"""
        SELECT shots.dicom AS image_id, 'p' || shots.patient AS patient_id,
          's' || shots.study AS study_id,
          coalesce(found.path, printf('files/p%s/p%d/s%d/%s.jpg',
            substr(shots.patient::VARCHAR, 1, 2), shots.patient, shots.study, shots.dicom)) AS path,
          shots.taken, parts.split, shots.view,
          {_findings(database.choices.uncertain)} AS findings,
          persons.sex, persons.anchor_age + year(shots.taken) - persons.anchor_year AS age,
          CASE WHEN persons.anchor_age >= {OLDEST} THEN
            ['age: over 89 in the anchor year, counted from {OLDEST}'] ELSE [] END AS flags,
          {lived}
        FROM shots
        LEFT JOIN labels USING (patient, study)
        LEFT JOIN parts USING (dicom)
        LEFT JOIN persons USING (patient)
        LEFT JOIN vitals ON vitals.patient = shots.patient AND vitals.taken = shots.taken
          AND shots.view IN ('PA', 'AP')
        LEFT JOIN found ON found.stem = shots.dicom
        """,
        offers,
    )


def _count_record(database: CohortDatabase, hospital: bool, offers: tuple[str, ...]) -> None:
    """Says of how many frontal films the record is missing or coarse."""
    of = "FROM films WHERE view IN ('PA', 'AP')"
    frontal = database.one(f"SELECT count(*) {of}")
    if not hospital:
        database.remark("no MIMIC-IV (--record FOLDER): PA and AP films without a record", frontal)
        return
    if "age" in offers:
        known = "patient_id IN (SELECT 'p' || patient FROM persons)"
        database.remark(
            "PA and AP films of patients who are not in hosp/patients",
            database.one(f"SELECT count(*) {of} AND NOT {known}"),
        )
        database.remark(
            f"PA and AP films of patients over 89 in the anchor year, age counted from {OLDEST}",
            database.one(f"SELECT count(*) {of} AND len(flags) > 0"),
        )
    if "bmi" not in offers:
        database.remark("no hosp/omr: PA and AP films without BMI, height and weight", frontal)


def _drop_by_label(database: CohortDatabase) -> None:
    """Leaves out films whose report says nothing, or two things at once."""
    choice = database.choices.uncertain
    database.drop(
        f"list_contains(findings, '{NORMAL}')", "labelled No Finding and a finding at once"
    )
    if choice == "drop":
        database.drop(
            "findings IS NULL AND study_id IN "
            "(SELECT 's' || study FROM labels WHERE len(uncertain) > 0)",
            "uncertain labels only",
        )
    if choice != "unlabelled":
        database.drop("findings IS NULL", "no label: neither No Finding nor a finding")
    database.remark(
        "No Finding with Support Devices, which are no finding then",
        database.one(
            "SELECT count(*) FROM films WHERE len(findings) = 0 AND study_id IN "
            "(SELECT 's' || study FROM labels WHERE normal AND "
            f"list_contains(positive, '{DEVICES}'))"
        ),
    )


MIMIC_CXR = Publisher(
    name="mimic-cxr",
    summary="MIMIC-CXR-JPG with the record of MIMIC-IV: age, sex, view, vital signs near the film",
    assemble=assemble,
    official=True,
    layout=(
        "mimic-cxr-2.0.0-metadata.csv.gz",
        "mimic-cxr-2.0.0-chexpert.csv.gz (or mimic-cxr-2.0.0-negbio.csv.gz)",
        "mimic-cxr-2.0.0-split.csv.gz (not needed with --split seeded)",
        "files/p10/p10000032/s50414267/*.jpg",
        "of MIMIC-IV: hosp/patients.csv.gz, hosp/omr.csv.gz (optional)",
        "of MIMIC-IV-ED: ed/edstays.csv.gz, ed/triage.csv.gz, ed/vitalsign.csv.gz (optional)",
    ),
    record="the folder of MIMIC-IV (mimiciv/3.1), with MIMIC-IV-ED in or beside it",
    fields=("age", "sex", "view", *OMR_FIELDS, *EMERGENCY_FIELDS),
)
