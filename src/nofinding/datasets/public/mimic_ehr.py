"""What MIMIC-IV and MIMIC-IV-ED know of a patient around a film: age, sex, vital signs.

From hosp/patients.csv.gz age and sex; from hosp/omr.csv.gz body mass index, height, weight and
blood pressure by day; from ed/triage.csv.gz and ed/vitalsign.csv.gz vital signs by time. The
names of the results, and what they are measured in, are those of the table's documentation
(mimic.mit.edu, "omr table", v2.2: 13 names). A value that cannot be read, or that no living
patient could have, is left out before the nearest is chosen, and counted.
"""

from dataclasses import dataclass
from pathlib import Path

from nofinding.data.ehr import EhrField
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.nearest_reading import choose_nearest, final_choices
from nofinding.datasets.public.mimic_folders import MimicFolders
from nofinding.errors import UserError

__all__ = ["EMERGENCY_FIELDS", "OMR_FIELDS", "join_record"]

PATIENT_FIELDS = ("age", "sex")
OMR_FIELDS = ("bmi", "height", "weight", "systolic", "diastolic")
EMERGENCY_FIELDS = ("heart_rate", "respiratory_rate", "temperature", "spo2")  # and the pressures
PRESSURE = "blood pressure"  # the kind that has two values
INCH, POUND = 2.54, 0.45359237  # cm, kg
CELSIUS = (25, 45)  # no living patient has 25 to 45 degrees Fahrenheit

# name: (kind, factor into the field's unit, preference among equally near ones)
RESULTS = {
    "bmi (kg/m2)": ("bmi", 1.0, 0),
    "bmi": ("bmi", 1.0, 1),
    "height (inches)": ("height", INCH, 0),
    "height": ("height", INCH, 1),  # example in the documentation: 64.50
    "weight (lbs)": ("weight", POUND, 0),
    "weight": ("weight", POUND, 1),  # example in the documentation: 150.00
    "blood pressure": (PRESSURE, 1.0, 0),
    "blood pressure sitting": (PRESSURE, 1.0, 1),
    "blood pressure lying": (PRESSURE, 1.0, 2),
    "blood pressure standing": (PRESSURE, 1.0, 3),
    "blood pressure standing (1 min)": (PRESSURE, 1.0, 4),
    "blood pressure standing (3 mins)": (PRESSURE, 1.0, 5),
}
VITALS = {  # column: kind
    "heartrate": "heart_rate",
    "resprate": "respiratory_rate",
    "temperature": "temperature",
    "o2sat": "spo2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """What a living patient can have, in SQL and in words."""

    sql: str
    words: str


def join_record(database: CohortDatabase, folders: MimicFolders) -> tuple[str, ...]:
    """Makes the tables `persons` (patient, sex, anchor_age, anchor_year) and `vitals` (patient,
    taken, and a column a field), and gives the fields that there are files for.

    Needs the tables `shots` (patient, ...) and `moments`. Raises UserError for a faulty table, or
    where --complete asks for a field whose file is not there.
    """
    hospital = folders.hospital
    offers = ["view"]
    persons = hospital and database.find_if_there("hosp/patients.csv", under=hospital)
    omr = hospital and database.find_if_there("hosp/omr.csv", under=hospital)
    emergency = folders.emergency
    signs = emergency and database.find_if_there("ed/vitalsign.csv", under=emergency)
    triage = emergency and database.find_if_there("ed/triage.csv", under=emergency)
    offers += PATIENT_FIELDS if persons else ()
    offers += OMR_FIELDS if omr else ("systolic", "diastolic") if signs or triage else ()
    offers += EMERGENCY_FIELDS if signs or triage else ()
    _require(database, offers, hospital)
    _persons(database, persons)
    if omr:
        _omr(database, omr)
    if emergency and (signs or triage):
        _emergency(database, emergency, signs, triage)
    final_choices(database)
    kinds = [name for name in (*OMR_FIELDS, *EMERGENCY_FIELDS) if name not in _PAIR]
    columns = [f"max(value) FILTER (kind = '{kind}') AS \"{kind}\"" for kind in kinds]
    columns.append(f"max(value) FILTER (kind = '{PRESSURE}') AS systolic")
    columns.append(f"max(second) FILTER (kind = '{PRESSURE}') AS diastolic")
    database.run(
        f"CREATE TABLE vitals AS SELECT patient, taken, {', '.join(columns)} "
        "FROM chosen GROUP BY ALL"
    )
    return tuple(offers)


_PAIR = ("systolic", "diastolic")


def _require(database: CohortDatabase, offers: list[str], hospital: Path | None) -> None:
    """Raises UserError where --complete asks for what no file here can give."""
    for name in database.choices.complete:
        if name in offers:
            continue
        if name in (*PATIENT_FIELDS, *OMR_FIELDS):
            where = "MIMIC-IV's hosp/patients.csv.gz" if name in PATIENT_FIELDS else (
                "MIMIC-IV's hosp/omr.csv.gz")  # fmt: skip
            beneath = hospital or database.choices.record or database.root
            raise UserError(
                f"--complete {name}: needs {where}, which is not under {beneath}; "
                "--record FOLDER names that of MIMIC-IV"
            )
        if name in EMERGENCY_FIELDS:
            raise UserError(
                f"--complete {name}: needs MIMIC-IV-ED's ed/vitalsign.csv.gz or ed/triage.csv.gz, "
                "which is not there; put it in or beside the folder of --record"
            )


# --- age and sex -----------------------------------------------------------------------------


def _persons(database: CohortDatabase, file: Path | None) -> None:
    """The table `persons`; empty without the file."""
    if file is None:
        database.run(
            "CREATE TABLE persons (patient BIGINT, sex VARCHAR, anchor_age DOUBLE, "
            "anchor_year DOUBLE)"
        )
        return
    database.csv(
        "patients",
        file,
        ("subject_id", "gender", "anchor_age", "anchor_year"),
        versions="MIMIC-IV 1.0 to 3.1 have it",
    )
    database.run(
        "CREATE TABLE persons AS SELECT DISTINCT try_cast(subject_id AS BIGINT) AS patient, "
        "upper(trim(gender)) AS sex, number(anchor_age) AS anchor_age, "
        "number(anchor_year) AS anchor_year FROM patients "
        "WHERE try_cast(subject_id AS BIGINT) IN (SELECT patient FROM shots)"
    )
    if twice := database.run("SELECT patient FROM persons GROUP BY 1 HAVING count(*) > 1 LIMIT 1"):
        raise UserError(f"{file}: subject_id {twice[0][0]} has two different rows")
    database.remark(
        "patients without an anchor_age and anchor_year that are numbers: age not known",
        database.one(
            "SELECT count(*) FROM persons WHERE anchor_age IS NULL OR anchor_year IS NULL"
        ),
    )


# --- outpatient measurements -----------------------------------------------------------------


def _omr(database: CohortDatabase, file: Path) -> None:
    """Chooses among the readings of hosp/omr.csv.gz."""
    database.csv(
        "omr",
        file,
        ("subject_id", "chartdate", "result_name", "result_value"),
        also=("seq_num",),
        versions="MIMIC-IV 2.0 to 3.1 have it",
    )
    database.run(
        "CREATE TABLE results (name VARCHAR, kind VARCHAR, factor DOUBLE, preference INTEGER)"
    )
    for name, row in RESULTS.items():
        database.run("INSERT INTO results VALUES (?, ?, ?, ?)", [name, *row])
    # %Y-%m-%d alone first: it is the documented one, and a failed try is slow.
    database.run(
        f"""
        CREATE TABLE measured AS
        SELECT try_cast(subject_id AS BIGINT) AS patient,
          coalesce(try_strptime(trim(chartdate), '%Y-%m-%d'), moment(chartdate)) AS noted,
          coalesce(kind, '') AS kind, preference, coalesce(try_cast(seq_num AS BIGINT), 0) AS seq,
          CASE WHEN kind = '{PRESSURE}'
            THEN CASE WHEN len(string_split(result_value, '/')) = 2
              THEN number(split_part(result_value, '/', 1)) END
            ELSE number(result_value) * factor END AS value,
          CASE WHEN kind = '{PRESSURE}' THEN number(split_part(result_value, '/', 2)) END AS second
        FROM omr LEFT JOIN results ON results.name = lower(trim(result_name))
        WHERE try_cast(subject_id AS BIGINT) IN (SELECT patient FROM moments)
        """
    )
    database.remark(
        "omr: results of other kinds (eGFR, ...), not used",
        database.one("SELECT count(*) FROM measured WHERE kind = ''"),
    )
    database.remark(
        "omr: results without a chartdate that can be read, left out",
        database.one("SELECT count(*) FROM measured WHERE kind != '' AND noted IS NULL"),
    )
    _usable(database, "omr")
    choose_nearest(database, "usable")
    database.run("DROP TABLE measured")


def _usable(database: CohortDatabase, file: str) -> None:
    """The view `usable` of the table `measured`: what can be read, dated and lived with. Counts
    the rest by kind."""
    kinds = [row[0] for row in database.run("SELECT DISTINCT kind FROM measured ORDER BY 1")]
    good = []
    for kind in kinds:
        bounds = _bounds(database, kind)
        if bounds is None:
            continue
        known = "value IS NOT NULL" + (" AND second IS NOT NULL" if kind == PRESSURE else "")
        of = f"FROM measured WHERE kind = '{kind}' AND noted IS NOT NULL"
        database.remark(
            f"{file}, {kind}: readings that are no number{'s' * (kind == PRESSURE)}, left out",
            database.one(f"SELECT count(*) {of} AND NOT ({known})"),
        )
        database.remark(
            f"{file}, {kind}: readings {bounds.words}, left out",
            database.one(f"SELECT count(*) {of} AND {known} AND NOT ({bounds.sql})"),
        )
        good.append(f"(kind = '{kind}' AND {known} AND {bounds.sql})")
    database.run(
        "CREATE OR REPLACE VIEW usable AS SELECT * FROM measured "
        f"WHERE noted IS NOT NULL AND ({' OR '.join(good) or 'false'})"
    )


def _bounds(database: CohortDatabase, kind: str) -> _Bounds | None:
    """What the kind may be; None for one that is no field of the record."""
    fields = database.fields
    if kind == PRESSURE:
        if not set(_PAIR) <= fields.keys():
            return None
        upper, upper_words = _between("value", fields["systolic"])
        lower, lower_words = _between("second", fields["diastolic"])
        return _Bounds(
            sql=f"{upper} AND {lower} AND second <= value",
            words=f"outside {upper_words} over {lower_words}, or the lower above the upper",
        )
    if kind not in fields:
        return None
    sql, words = _between("value", fields[kind])
    return _Bounds(sql=sql, words=f"outside {words}")


def _between(column: str, field: EhrField) -> tuple[str, str]:
    low = "-inf" if field.low is None else f"{field.low:g}"
    high = "inf" if field.high is None else f"{field.high:g}"
    sql = f"{column} BETWEEN '{low}'::DOUBLE AND '{high}'::DOUBLE"
    return sql, f"{low} to {high} {field.unit}".rstrip()


# --- vital signs in the emergency department -------------------------------------------------


def _emergency(
    database: CohortDatabase, folder: Path, signs: Path | None, triage: Path | None
) -> None:
    """Chooses among the readings of ed/vitalsign.csv.gz and ed/triage.csv.gz."""
    columns = (*VITALS, "sbp", "dbp")
    database.run("CREATE TABLE taken_down (patient BIGINT, noted TIMESTAMP, preference INTEGER, "
                 "raw STRUCT(kind VARCHAR, value VARCHAR, second VARCHAR))")  # fmt: skip
    raw = ", ".join(f"{{'kind': '{kind}', 'value': {column}, 'second': NULL}}"
                    for column, kind in VITALS.items())  # fmt: skip
    raw = f"unnest([{raw}, {{'kind': '{PRESSURE}', 'value': sbp, 'second': dbp}}])"
    if signs:
        database.csv("vitalsign", signs, ("subject_id", "charttime", *columns))
        database.run(
            f"INSERT INTO taken_down SELECT try_cast(subject_id AS BIGINT), moment(charttime), 0, "
            f"{raw} FROM vitalsign "
            "WHERE try_cast(subject_id AS BIGINT) IN (SELECT patient FROM moments)"
        )
    if triage:
        stays = database.find(
            "ed/edstays.csv", under=folder, what="it says when the patients of triage came"
        )
        database.csv("edstays", stays, ("stay_id", "intime"))
        database.csv("triage", triage, ("subject_id", "stay_id", *columns))
        database.run(
            f"INSERT INTO taken_down SELECT try_cast(subject_id AS BIGINT), arrived, 1, {raw} "
            "FROM triage LEFT JOIN (SELECT stay_id, min(moment(intime)) AS arrived FROM edstays "
            "GROUP BY 1) stays USING (stay_id) "
            "WHERE try_cast(subject_id AS BIGINT) IN (SELECT patient FROM moments)"
        )
    database.run("DELETE FROM taken_down WHERE raw.value IS NULL AND raw.second IS NULL")
    database.remark(
        "ed: readings without a time that can be read, left out",
        database.one("SELECT count(*) FROM taken_down WHERE noted IS NULL"),
    )
    _fahrenheit(database)
    _usable(database, "ed")
    choose_nearest(database, "usable")
    database.run("DROP TABLE measured")


def _fahrenheit(database: CohortDatabase) -> None:
    """The table `measured` from `taken_down`, with temperatures in degrees Celsius."""
    low, high = CELSIUS
    celsius = f"raw.kind = 'temperature' AND number(raw.value) BETWEEN {low} AND {high}"
    database.remark(
        f"ed, temperature: readings of {low} to {high}, taken as degrees Celsius",
        database.one(f"SELECT count(*) FROM taken_down WHERE noted IS NOT NULL AND {celsius}"),
    )
    database.run(
        f"""
        CREATE TABLE measured AS SELECT patient, noted, raw.kind AS kind, preference, 0 AS seq,
          CASE WHEN raw.kind = 'temperature' AND NOT ({celsius})
            THEN (number(raw.value) - 32) * 5 / 9 ELSE number(raw.value) END AS value,
          number(raw.second) AS second
        FROM taken_down
        """
    )
    database.run("DROP TABLE taken_down")
