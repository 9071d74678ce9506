"""A small copy of a CDM 5.4, with a list of films beside it."""

from datetime import date, timedelta

from nofinding.datasets.examples.writing import Copy

__all__ = ["write_omop"]

LABELS = {"nodule": "Nodule", "effusion": "Pleural effusion", "mass": "Mass"}
PERSON = ("person_id", "gender_concept_id", "year_of_birth", "month_of_birth", "day_of_birth",
          "birth_datetime", "race_concept_id", "ethnicity_concept_id", "location_id",
          "provider_id", "care_site_id", "person_source_value", "gender_source_value",
          "gender_source_concept_id", "race_source_value", "race_source_concept_id",
          "ethnicity_source_value", "ethnicity_source_concept_id")  # fmt: skip
MEASUREMENT = ("measurement_id", "person_id", "measurement_concept_id", "measurement_date",
               "measurement_datetime", "measurement_time", "measurement_type_concept_id",
               "operator_concept_id", "value_as_number", "value_as_concept_id",
               "unit_concept_id", "range_low", "range_high", "provider_id",
               "visit_occurrence_id", "visit_detail_id", "measurement_source_value",
               "measurement_source_concept_id", "unit_source_value", "unit_source_concept_id",
               "value_source_value", "measurement_event_id",
               "meas_event_field_concept_id")  # fmt: skip
VISIT = ("visit_occurrence_id", "person_id", "visit_concept_id", "visit_start_date",
         "visit_start_datetime", "visit_end_date", "visit_end_datetime",
         "visit_type_concept_id")  # fmt: skip
# field: concept, LOINC, unit concept, unit as written
VITALS = {
    "height": (3036277, "8302-2", 8582, "cm"), "weight": (3025315, "29463-7", 9529, "kg"),
    "systolic": (3004249, "8480-6", 8876, "mm[Hg]"),
    "diastolic": (3012888, "8462-4", 8876, "mm[Hg]"),
    "heart_rate": (3027018, "8867-4", 8541, "/min"),
    "respiratory_rate": (3024171, "9279-1", 8541, "/min"),
    "temperature": (3020891, "8310-5", 586323, "Cel"), "spo2": (3016502, "2708-6", 8554, "%"),
}  # fmt: skip


def write_omop(copy: Copy) -> None:
    """Tables in capitals, as ETL programs write them, MEASUREMENT gzipped; each person measured
    three times around a film, one in pounds, one without a unit, one below a limit."""
    rng = copy.rng("omop")
    persons, visits, films = [], [], []
    measured: list[list[object]] = []
    for number in range(copy.patients):
        who, person = copy.person(number), number + 1
        taken = date(2015, 1, 1) + timedelta(days=int(rng.integers(2000)))
        born = taken - timedelta(days=round(who["age"] * 365.25) + 100)
        male = bool(who["sex"])
        persons.append(
            [person, 8507 if male else 8532, born.year, "" if number == 1 else born.month,
             "" if number < 3 else born.day, "", 0, 0, "", "", "", f"MRN{100_000 + 7 * number}",
             "FM"[male], 0, "", 0, "", 0]
        )  # fmt: skip
        kind = [*LABELS][number % 3] if number % 5 in (2, 3) else None
        path = f"films/{person:04d}.png"
        copy.picture(path, copy.film(number, kind))
        films.append([person, path, taken, "AP" if who["view"] else "PA",
                      LABELS[kind] if kind else ""])  # fmt: skip
        for visit, days in enumerate((-400, -20, 3)):
            day = taken + timedelta(days=days)
            visits.append([3 * number + visit + 1, person, 9202, day, f"{day} 00:00:00", day,
                           f"{day} 00:00:00", 44818517])  # fmt: skip
            for name, (concept, loinc, unit, written) in VITALS.items():
                value = round(who[name] + visit, 1)
                operator = 0
                if name == "weight" and number % 4 == 0:
                    value, unit, written = round(value / 0.45359237, 1), 8739, "[lb_av]"
                elif name == "height" and number % 6 == 1 and visit == 2:
                    unit, written = 0, ""
                elif name == "spo2" and number % 6 == 2 and visit == 2:
                    operator = 4171756  # below
                measured.append(
                    [len(measured) + 1, person, concept, day, f"{day} 00:00:00", day, 38000267,
                     operator, value, 0, unit, "", "", "", 3 * number + visit + 1, "", loinc,
                     concept, written, "", value, "", ""]
                )  # fmt: skip
    copy.table("PERSON.csv", PERSON, persons)
    copy.table("MEASUREMENT.csv.gz", MEASUREMENT, measured)
    copy.table("VISIT_OCCURRENCE.csv", VISIT, visits)
    copy.table("films.csv", ("person_id", "path", "taken", "view", "findings"), films)
