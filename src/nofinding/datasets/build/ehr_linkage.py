"""The record at the time of a film: of each patient's measurements the one nearest to it.

A loader fills `readings` (patient, field, made, number, unit: as written) and, where it knows them,
`people` (patient, sex, born) and `aliases` (alias, patient). The rules are the same whatever the
records come from: a unit that is not known, or not stated, makes a value missing; so does a value
that no living patient could have; and of what is left the nearest counts (data/nearest_value.py).
"""

from collections.abc import Mapping

import pyarrow as pa

from nofinding.data.ehr import EhrField, convert
from nofinding.data.units import SPELLINGS
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.nearest_reading import choose_nearest, final_choices
from nofinding.errors import UserError

__all__ = ["body_mass_index", "convert_readings", "loinc_fields", "only_of_films",
           "start_record", "take_nearest", "take_people"]  # fmt: skip

# Codes beside the field's own that mean the same to a film's reader.
LOINC_ALSO = {
    "weight": ("3141-9", "8341-0"),  # measured; dry
    "height": ("3137-7", "8306-3"),  # measured; lying
    "spo2": ("2708-6",),  # in arterial blood, by whatever means
    "temperature": ("8331-1",),  # oral
}


def start_record(database: CohortDatabase) -> None:
    """Makes the empty tables that a loader fills."""
    for table, columns in (
        ("readings", "patient VARCHAR, field VARCHAR, made TIMESTAMP, number DOUBLE, unit VARCHAR"),
        ("people", "patient VARCHAR, sex VARCHAR, born DATE"),
        ("aliases", "alias VARCHAR, patient VARCHAR"),
    ):
        database.run(f"CREATE OR REPLACE TABLE {table} ({columns})")


def loinc_fields(fields: Mapping[str, EhrField]) -> dict[str, str]:
    """The numeric field of each LOINC code that means one; age is told by the date of birth."""
    codes: dict[str, str] = {}
    for field in _numeric(fields):
        for code in (field.loinc, *LOINC_ALSO.get(field.name, ())):
            if code:
                codes.setdefault(code, field.name)
    return codes


def _numeric(fields: Mapping[str, EhrField]) -> list[EhrField]:
    return [f for f in fields.values() if f.kind == "numeric" and f.name != "age"]


def only_of_films(database: CohortDatabase) -> None:
    """Forgets the readings of people of whom there is no film: they are not to be counted."""
    database.run(
        "DELETE FROM readings WHERE patient NOT IN "
        "(SELECT patient FROM aliases WHERE alias IN (SELECT patient_id FROM films))"
    )


def convert_readings(database: CohortDatabase) -> None:
    """Makes `singly` and `measured` (patient, field, made, value) of the readings, in the fields'
    units, one a row and one a time, and counts those that cannot be used."""
    units = []
    for field in database.fields.values():
        for spelling in {*SPELLINGS, field.unit.lower()} if field.kind == "numeric" else ():
            try:
                at_zero = convert(0, spelling, field)
                units.append((field.name, spelling, convert(1, spelling, field) - at_zero, at_zero))
            except UserError:  # of another quantity
                continue
    names, spellings, scales, shifts = zip(*units, strict=True)
    database.run_with(
        pa.table({"field": names, "unit": spellings, "scale": scales, "shift": shifts}),
        "CREATE OR REPLACE TABLE units AS SELECT * FROM chunk",
    )
    limits = " ".join(
        f"WHEN '{f.name}' THEN value BETWEEN '{_bound(f.low, '-')}'::DOUBLE AND "
        f"'{_bound(f.high, '')}'::DOUBLE"
        for f in database.fields.values()
        if f.kind == "numeric"
    )
    database.run(
        f"""
        CREATE OR REPLACE TABLE judged AS
        SELECT *, CASE WHEN number IS NULL THEN 'no number'
          WHEN value IS NULL
            THEN CASE WHEN trim(coalesce(unit, '')) = '' THEN 'no unit' ELSE 'unknown unit' END
          WHEN NOT (CASE field {limits} END) THEN 'out of range' END AS wrong
        FROM (SELECT patient, readings.field, made, number, readings.unit,
                -- a unit that is the field's own changes not a digit
                CASE WHEN scale = 1 AND shift = 0 THEN number ELSE number * scale + shift END
                  AS value
              FROM readings LEFT JOIN units ON units.field = readings.field
              AND units.unit = lower(trim(coalesce(readings.unit, ''))))
        """
    )
    for field, wrong, count in database.run(
        "SELECT field, wrong, count(*) FROM judged WHERE wrong IS NOT NULL GROUP BY 1, 2 ORDER BY 1"
    ):
        database.remark(f"{field}: readings with {wrong}, not used", count)
    database.run(
        "CREATE OR REPLACE TABLE singly AS SELECT patient, field, made, value FROM judged "
        "WHERE wrong IS NULL AND patient IS NOT NULL"
    )
    database.run(
        "CREATE OR REPLACE TABLE measured AS SELECT patient, field, made, median(value) AS value "
        "FROM singly WHERE made IS NOT NULL GROUP BY ALL"
    )
    database.run("DROP TABLE judged")


def _bound(limit: float | None, sign: str) -> str:
    return f"{sign}inf" if limit is None else repr(float(limit))


def take_people(database: CohortDatabase) -> None:
    """Sex, and age at the film, by the aliases of its patient.

    Two rows of one person that differ say nothing; an alias of two persons is nobody's.
    """
    database.run(
        "CREATE OR REPLACE TABLE holders AS SELECT alias, min(patient) AS patient FROM aliases "
        "GROUP BY alias HAVING count(DISTINCT patient) = 1"
    )
    database.remark(
        "ids that the record gives to more than one person, not used",
        database.one("SELECT count(DISTINCT alias) FROM aliases")
        - database.one("SELECT count(*) FROM holders"),
    )
    database.run(
        """
        CREATE OR REPLACE TABLE persons AS SELECT patient,
          CASE WHEN count(DISTINCT sex) = 1 THEN min(sex) END AS sex,
          CASE WHEN count(DISTINCT born) = 1 THEN min(born) END AS born
        FROM people GROUP BY 1
        """
    )
    by_name = "FROM holders JOIN persons USING (patient) WHERE holders.alias = films.patient_id"
    if "sex" in database.fields:
        database.remark(
            "films of patients who have another sex in the record; the record's is taken",
            database.one(
                "SELECT count(*) FROM films, holders JOIN persons USING (patient) "
                "WHERE holders.alias = films.patient_id AND films.sex != persons.sex"
            ),
        )
        database.run(f"UPDATE films SET sex = coalesce(persons.sex, films.sex) {by_name}")
    if "age" in database.fields:
        database.run(
            "UPDATE films SET age = coalesce(date_diff('day', persons.born, films.taken::DATE) "
            f"/ 365.25, films.age) {by_name}"
        )
    database.offered |= {"sex", "age"} & database.fields.keys()
    database.remark(
        "films of patients whom the record does not have",
        database.one(
            "SELECT count(*) FROM films WHERE patient_id NOT IN (SELECT alias FROM holders)"
        ),
    )


def take_nearest(database: CohortDatabase) -> None:
    """Gives every film, for each numeric field, the measurement nearest to it within the window.
    Films without a date get none, and are counted; so are the values from after the film. What the
    film had already stays where there is no measurement."""
    database.run(
        "CREATE OR REPLACE TABLE moments AS SELECT DISTINCT holders.patient, taken FROM films "
        "JOIN holders ON holders.alias = films.patient_id WHERE taken IS NOT NULL"
    )
    database.run("DROP TABLE IF EXISTS choices")
    choose_nearest(
        database,
        "(SELECT patient, made AS noted, field AS kind, 0 AS preference, 0 AS seq, value, "
        "NULL::DOUBLE AS second FROM measured)",
    )
    final_choices(database)
    for field in _numeric(database.fields):
        database.run(
            f'UPDATE films SET "{field.name}" = chosen.value FROM chosen JOIN holders '
            "USING (patient) WHERE holders.alias = films.patient_id "
            "AND chosen.taken = films.taken AND kind = ?",
            [field.name],
        )
        if database.one("SELECT count(*) FROM measured WHERE field = ?", [field.name]):
            database.offered.add(field.name)
    database.remark("values of the record from after the film",
                    database.one("SELECT count(*) FROM chosen JOIN holders USING (patient) "
                                 "JOIN films ON holders.alias = films.patient_id "
                                 "AND films.taken = chosen.taken WHERE later"))  # fmt: skip
    database.remark(
        "films without a date, for which no measurement can be chosen",
        database.one("SELECT count(*) FROM films WHERE taken IS NULL"),
    )


def body_mass_index(database: CohortDatabase) -> None:
    """Fills in BMI from weight and height, where both are known and it was not recorded."""
    if not {"bmi", "weight", "height"} <= database.fields.keys():
        return
    where = (
        "bmi IS NULL AND weight BETWEEN 0.5 AND 400 AND height BETWEEN 30 AND 250"  # FIELDS' ranges
    )
    database.remark(
        "bmi: from weight and height, where it was not recorded",
        database.one(f"SELECT count(*) FROM films WHERE {where}"),
    )
    database.run(f"UPDATE films SET bmi = weight / (height / 100) ** 2 WHERE {where}")
    if database.one("SELECT count(bmi) FROM films"):
        database.offered.add("bmi")
