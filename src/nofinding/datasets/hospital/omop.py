"""`omop:FOLDER`: films beside a record in the OMOP Common Data Model, 5.3 or 5.4.

The CDM is a folder of CSV, .csv.gz or Parquet files, one a table, or a DuckDB file; with DuckDB's
extensions installed, SQLite or PostgreSQL. Read are PERSON (sex, age), MEASUREMENT (all else),
CONCEPT where it is there, and IMAGE_OCCURRENCE of the imaging extension (MI-CDM); films.csv
(person_id, path, taken, ...) stands in for that.
"""

import re
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nofinding.data.ehr import FIELDS
from nofinding.data.units import SPELLINGS, factor
from nofinding.datasets.build.column_titles import lacks_column
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.ehr_linkage import (
    body_mass_index,
    convert_readings,
    loinc_fields,
    only_of_films,
    start_record,
    take_nearest,
    take_people,
)
from nofinding.datasets.build.publisher import Publisher
from nofinding.datasets.hospital.film_headers import drop_raw_twins, read_headers
from nofinding.datasets.hospital.film_list import take_film_list
from nofinding.datasets.hospital.pseudonyms import pseudonymise
from nofinding.errors import UserError
from nofinding.storage.file_names import as_text

__all__ = ["OMOP", "take_cdm"]

CONCEPTS = {  # standard concepts (LOINC) of the fields, where there is no table CONCEPT to ask
    3025315: "weight", 3013762: "weight", 3036277: "height", 3023540: "height", 3038553: "bmi",
    3004249: "systolic", 3012888: "diastolic", 3027018: "heart_rate",
    3024171: "respiratory_rate", 3020891: "temperature", 40762499: "spo2", 3016502: "spo2",
}  # fmt: skip
UNITS = {  # unit concepts (UCUM)
    8582: "cm", 9546: "m", 9330: "[in_i]", 9529: "kg", 8504: "g", 8739: "[lb_av]", 9531: "kg/m2",
    8876: "mm[Hg]", 8541: "/min", 8483: "/min", 586323: "Cel", 9289: "[degF]", 8554: "%",
}  # fmt: skip
EQUAL = 4172703  # operator "="; any other makes a value a bound
DATABASES = {".duckdb": "duckdb", ".sqlite": "sqlite", ".sqlite3": "sqlite", ".db": "sqlite"}
NO_FILMS = r"\.(csv|csv\.gz|parquet|duckdb|wal|sqlite3?|db|json|txt|md)$"


class _Place(NamedTuple):
    """Where a CDM is."""

    kind: str  # folder, duckdb, sqlite or postgres
    target: str
    schema: str


def _place(text: str) -> _Place:
    """Raises UserError for what is neither a folder nor a database that can be read."""
    given, _, query = text.partition("?")
    schema = query.removeprefix("schema=")
    if (query and not query.startswith("schema=")) or not re.fullmatch(r"\w*", schema):
        raise UserError(f"omop:{text}: behind the ? there may be schema=NAME, and nothing else")
    if re.match(r"postgres(ql)?:", given):
        if "password" in given or re.search(r":/+[^/@]*:[^/@]*@", given):
            raise UserError("omop:postgres...: keep the password in ~/.pgpass, not on the command")
        return _Place("postgres", re.sub(r"^postgres(ql)?:/*", "postgresql://", given)
                      if "/" in given else given.partition(":")[2], schema or "public")  # fmt: skip
    stated = re.match(r"(duckdb|sqlite):", given)
    bare = given[stated.end() :].lstrip("/") if stated else given
    file = Path(f"/{bare}" if stated and Path(f"/{bare}").exists() else bare).expanduser()
    if file.is_dir():
        return _Place("folder", str(file), "")
    kind = stated[1] if stated else DATABASES.get(file.suffix.lower())
    if kind is None or not file.is_file():
        raise UserError(f"omop:{text}: is neither a folder nor a .duckdb or .sqlite file")
    return _Place(kind, str(file), schema or "main")


def films_folder(text: str) -> Path:
    """The folder itself, or the one that the database lies in."""
    place = _place(text)
    if place.kind == "postgres":
        raise UserError("omop:postgres...: has no films; give omop:FOLDER with films.csv, and the "
                        "database as --record")  # fmt: skip
    path = Path(place.target)
    return path if path.is_dir() else path.parent


class _Cdm:
    """The tables of a CDM, each as a view of texts."""

    def __init__(self, database: CohortDatabase, text: str) -> None:
        self.database, self.place = database, _place(text)
        if self.place.kind != "folder":
            self._attach()

    def _attach(self) -> None:
        """Raises UserError where the database, or DuckDB's extension for it, cannot be had."""
        kind, target, schema = self.place
        con = self.database.con
        con.execute("SET autoinstall_known_extensions=false")
        con.execute("DETACH DATABASE IF EXISTS cdm")
        installed = con.execute(
            "SELECT installed FROM duckdb_extensions() WHERE extension_name = ?",
            [f"{kind}_scanner"],
        ).fetchone()
        if kind != "duckdb" and not (installed and installed[0]):
            raise UserError(
                f"omop:{kind}: needs DuckDB's extension {kind}, which is not installed; nothing is "
                "downloaded here. Export the tables as CSV or Parquet, or install it"
            )
        quoted = target if kind == "postgres" else self.database.reachable(Path(target))
        quoted = quoted.replace("'", "''")
        try:
            con.execute(f"ATTACH '{quoted}' AS cdm (TYPE {kind}, READ_ONLY)")
        except duckdb.Error:
            raise UserError(f"omop:{kind}: cannot be opened as a {kind} database") from None
        names = con.execute(
            "SELECT DISTINCT schema_name FROM duckdb_schemas() WHERE database_name = 'cdm'"
        ).fetchall()
        if (schema,) not in names:
            raise UserError(f"omop:{target}: has no schema {schema!r}")

    def view(self, table: str, needs: tuple[str, ...], also: tuple[str, ...] = ()) -> bool:
        """Lets `cdm_TABLE` stand for a table; gives whether it is there.

        Raises UserError where it lacks a column of `needs`; those of `also` are NULL then.
        """
        if self.place.kind != "folder":
            _, target, schema = self.place
            columns = self.database.run(
                "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'cdm' "
                "AND schema_name = ? AND lower(table_name) = ?",
                [schema, table],
            )
            if not columns:
                return False
            self._texts(table, f'cdm."{schema}"."{columns[0][0]}"', [row[1] for row in columns],
                        f"{target}: {table}", needs, also)  # fmt: skip
            return True
        names = (f"{table}.csv", f"{table}.csv.gz", f"{table}.parquet")
        entries = sorted(Path(self.place.target).iterdir())
        file = next((f for f in entries if f.name.lower() in names and f.is_file()), None)
        if file is None:
            return False
        if file.suffix.lower() == ".parquet":
            quoted = self.database.reachable(file).replace("'", "''")
            try:
                with file.open("rb") as stream:
                    titles = pq.read_schema(stream).names
            except (pa.ArrowException, OSError):
                raise UserError(f"{file}: is not a Parquet file") from None
            self._texts(table, f"read_parquet('{quoted}')", titles, str(file), needs, also)
            return True
        # Athena's vocabularies are separated by tabs
        separator = "\t" if len(self.database.titles(file, "\t")) > 1 else ","
        self.database.csv(f"cdm_{table}", file, needs, also=also, separator=separator)
        return True

    def _texts(
        self, table: str, of: str, titles: list[str], named: str, needs: tuple[str, ...],
        also: tuple[str, ...],
    ) -> None:  # fmt: skip
        spelt = {title.lower(): title for title in titles}
        absent = next((name for name in needs if name not in spelt), None)
        if absent is not None:
            raise UserError(lacks_column(named, absent, titles))
        cells = ", ".join(
            f'stated(CAST("{spelt[name]}" AS VARCHAR)) AS {name}' if name in spelt
            else f"NULL::VARCHAR AS {name}"
            for name in (*needs, *also)
        )  # fmt: skip
        self.database.run(f"CREATE OR REPLACE VIEW cdm_{table} AS SELECT {cells} FROM {of}")


def take_cdm(database: CohortDatabase, text: str) -> None:
    """Gives the films the record of a CDM: sex, age, and of each measurement the nearest one.

    Patients are found by person_id or person_source_value. Raises UserError where PERSON or
    MEASUREMENT, or one of their columns, is absent.
    """
    cdm = _Cdm(database, text)
    start_record(database)
    _people(database, cdm)
    _measurements(database, cdm)
    only_of_films(database)
    convert_readings(database)
    take_people(database)
    take_nearest(database)
    body_mass_index(database)


def _people(database: CohortDatabase, cdm: _Cdm) -> None:
    """A day or month of birth that is not known is the middle of the month, or of the year."""
    needs = ("person_id", "gender_concept_id", "year_of_birth")
    also = ("month_of_birth", "day_of_birth", "person_source_value")
    if not cdm.view("person", needs, also):
        raise UserError(f"omop:{cdm.place.target}: has no table PERSON")
    database.run(
        """
        INSERT INTO people SELECT pseudonym('patient', whole(person_id)),
          CASE whole(gender_concept_id) WHEN '8507' THEN 'M' WHEN '8532' THEN 'F' END,
          try_strptime(format('{}-{}-{}', whole(year_of_birth),
            coalesce(whole(month_of_birth), '7'), coalesce(whole(day_of_birth),
              CASE WHEN month_of_birth IS NULL THEN '1' ELSE '15' END)), '%Y-%m-%d')::DATE
        FROM cdm_person
        """
    )
    for name in ("person_id", "person_source_value"):
        database.run(
            f"INSERT INTO aliases SELECT pseudonym('patient', whole({name})), "
            f"pseudonym('patient', whole(person_id)) FROM cdm_person WHERE {name} IS NOT NULL"
        )


def _measurements(database: CohortDatabase, cdm: _Cdm) -> None:
    """Fills readings. What a row is, its standard concept says, or else its LOINC source code."""
    needs = ("person_id", "measurement_concept_id", "measurement_date", "value_as_number")
    also = ("measurement_datetime", "operator_concept_id", "unit_concept_id",
            "measurement_source_value", "unit_source_value")  # fmt: skip
    if not cdm.view("measurement", needs, also):
        raise UserError(f"omop:{cdm.place.target}: has no table MEASUREMENT")
    _meanings(database, cdm)
    database.run(
        f"""
        CREATE OR REPLACE TABLE vitals AS
        SELECT pseudonym('patient', whole(person_id)) AS patient,
          coalesce(concept.field, source.field) AS field,
          CASE WHEN moment(measurement_datetime)::DATE = moment(measurement_date)::DATE
            THEN moment(measurement_datetime) ELSE moment(measurement_date) END AS made,
          CASE WHEN coalesce(whole(operator_concept_id), '0') IN ('0', '{EQUAL}')
            THEN number(value_as_number) END AS number,
          -- two units that are not one: nobody knows which is right
          CASE WHEN one.meaning != other.meaning THEN 'two units'
            ELSE coalesce(stated.unit, unit_source_value) END AS unit
        FROM cdm_measurement
        LEFT JOIN meanings concept ON concept.code = whole(measurement_concept_id)
        LEFT JOIN loinc source ON source.code = trim(measurement_source_value)
        LEFT JOIN unit_concepts stated ON stated.code = whole(unit_concept_id)
        LEFT JOIN spellings one ON one.unit = lower(stated.unit)
        LEFT JOIN spellings other ON other.unit = lower(trim(unit_source_value))
        WHERE coalesce(concept.field, source.field) IS NOT NULL
        """
    )
    database.remark(
        "measurements without a date, not used",
        database.one("SELECT count(*) FROM vitals WHERE made IS NULL"),
    )
    database.run("INSERT INTO readings SELECT * FROM vitals WHERE made IS NOT NULL")
    database.run("DROP TABLE vitals")


def _meanings(database: CohortDatabase, cdm: _Cdm) -> None:
    """The tables meanings (concept, field), loinc (code, field), unit_concepts (concept, unit) and
    spellings (unit, meaning)."""
    codes = loinc_fields(database.fields)
    concepts = {str(i): name for i, name in CONCEPTS.items() if name in database.fields}
    units = {str(i): unit for i, unit in UNITS.items()}
    meaning = {spelling: str(factor(spelling)) for spelling in SPELLINGS}
    for table, columns, rows in (
        ("meanings", ("code", "field"), concepts),
        ("loinc", ("code", "field"), codes),
        ("unit_concepts", ("code", "unit"), units),
        ("spellings", ("unit", "meaning"), meaning),
    ):
        content = dict(zip(columns, ([*rows], [*rows.values()]), strict=True))
        database.run_with(
            pa.table(content), f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM chunk"
        )
    if not cdm.view("concept", ("concept_id", "vocabulary_id", "concept_code")):
        return
    database.run(
        "INSERT INTO meanings SELECT whole(concept_id), field FROM cdm_concept JOIN loinc ON "
        "loinc.code = concept_code WHERE vocabulary_id = 'LOINC' "
        "AND whole(concept_id) NOT IN (SELECT code FROM meanings)"
    )
    database.run(
        "INSERT INTO unit_concepts SELECT whole(concept_id), concept_code FROM cdm_concept "
        "WHERE vocabulary_id = 'UCUM' AND whole(concept_id) NOT IN (SELECT code FROM unit_concepts)"
    )


def assemble(database: CohortDatabase) -> None:
    """The films of films.csv, or of IMAGE_OCCURRENCE, and the record at the day of each."""
    pseudonymise(database)
    listed = next((f for f in database.root.iterdir() if f.name.lower() == "films.csv"), None)
    if listed is not None:
        take_film_list(database, listed, "person_id")
    else:
        _occurrences(database, _Cdm(database, database.place))
    record = database.choices.record
    take_cdm(database, str(record) if record is not None else database.place)


def _occurrences(database: CohortDatabase, cdm: _Cdm) -> None:
    """The films of IMAGE_OCCURRENCE, which says nothing of the view: the DICOM headers do. A path
    may be that of a film or of a series' folder."""
    needs = ("person_id", "image_occurrence_date", "local_path")
    if not cdm.view("image_occurrence", needs):
        raise UserError(f"omop:{database.place}: has neither films.csv nor a table "
                        "IMAGE_OCCURRENCE")  # fmt: skip
    database.list_files(any_ending=True)
    database.run(f"DELETE FROM present WHERE regexp_matches(lower(name), '{NO_FILMS}')")
    base = as_text(f"{database.base.resolve()}/")
    database.run(
        r"""
        CREATE OR REPLACE TABLE occurrences AS SELECT person_id, image_occurrence_date,
          rtrim(CASE WHEN starts_with(bare, ?) THEN substr(bare, length(?) + 1) ELSE bare END, '/')
            AS local
        FROM (SELECT *, regexp_replace(trim(local_path), '^(file://|\./)', '') AS bare
              FROM cdm_image_occurrence)
        """,
        [base, base],
    )
    database.run(
        r"""
        CREATE OR REPLACE TABLE placed AS
        SELECT occurrences.*, present.path FROM occurrences JOIN present ON present.path = local
        UNION ALL
        SELECT occurrences.*, present.path FROM occurrences
        JOIN present ON regexp_replace(present.path, '/[^/]*$', '') = local
        """
    )
    read_headers(database, "SELECT path FROM placed")
    database.films(
        r"""
        SELECT pseudonym('film', dicom.sop) AS image_id, placed.path,
          pseudonym('patient', whole(person_id)) AS patient_id,
          pseudonym('study', dicom.study) AS study_id, dicom.unfit,
          CASE WHEN facing IN ('PA', 'AP') THEN facing END AS view,
          -- the record's dates may be shifted: the CDM's own date counts
          CASE WHEN dicom.taken::DATE = moment(image_occurrence_date)::DATE
            THEN dicom.taken ELSE moment(image_occurrence_date) END AS taken
        FROM placed JOIN dicom USING (path)
        UNION ALL BY NAME
        SELECT local AS path, CASE WHEN local IS NULL THEN 'no local path; nothing is fetched'
          ELSE 'its file is not in the folder' END AS unfit
        FROM occurrences WHERE local IS NULL OR local NOT IN (SELECT local FROM placed)
        """
    )
    drop_raw_twins(database)


OMOP = Publisher(
    name="omop",
    summary="films beside an OMOP CDM (CSV, Parquet, DuckDB): the nearest measurements to each",
    assemble=assemble,
    official=True,
    layout=(
        "PERSON, MEASUREMENT (.csv, .csv.gz, .parquet), or one .duckdb file with both",
        "CONCEPT (optional)",
        "films.csv (person_id, path, taken, ...), or IMAGE_OCCURRENCE with local paths of DICOM",
    ),
    record="the CDM, where it is not in the folder of the films",
    fields=tuple(FIELDS),
    folder=films_folder,
)
