"""`fhir:FOLDER`: films beside a record in FHIR R4, as Bulk Data exports it, or in Bundles.

Read are Patient (sex, age) and Observation (all else), and of Media and DocumentReference where
the films lie; films.csv (patient, path, taken, ...) stands in for those. The record may also come
from a server, `--record http...`, which is asked for the patients of the films alone.
"""

import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from nofinding.data.ehr import FIELDS
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
from nofinding.datasets.hospital.fhir.reading import is_address, read_folder, read_server
from nofinding.datasets.hospital.fhir.resources import (
    MADE,
    PANELS,
    birth_date,
    clock_time,
    identifiers,
    mapping,
    measured_at,
    objects,
    patient_id,
    printable,
    sex_of,
    values_of,
)
from nofinding.datasets.hospital.film_headers import drop_raw_twins, read_headers
from nofinding.datasets.hospital.film_list import take_film_list
from nofinding.datasets.hospital.pseudonyms import pseudonymise
from nofinding.errors import UserError
from nofinding.storage.file_names import as_text

__all__ = ["FHIR", "take_fhir"]

VIEWS = {"399348003": "AP", "272479007": "PA", "R-10206": "AP", "R-40888": "PA", "AP": "AP",
         "PA": "PA"}  # fmt: skip
ROWS = 20_000  # that are in Python's memory at a time
TABLES = {
    "fhir_patients": ("id", "sex", "born"),
    "fhir_names": ("id", "name"),
    "fhir_values": ("id", "updated", "good", "patient", "field", "made", "number", "unit"),
    "fhir_media": ("patient", "taken", "local", "view", "good"),
}
TYPES = {"made": "TIMESTAMP", "taken": "TIMESTAMP", "number": "DOUBLE", "good": "BOOLEAN",
         "born": "DATE"}  # fmt: skip


class _Rows:
    """What the resources say, gathered into the tables TABLES."""

    def __init__(self, database: CohortDatabase, counts: Counter[str]) -> None:
        self.database, self.counts = database, counts
        self.fields = loinc_fields(database.fields)
        self.waiting: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
        for table, columns in TABLES.items():
            typed = ", ".join(f"{name} {TYPES.get(name, 'VARCHAR')}" for name in columns)
            database.run(f"CREATE OR REPLACE TABLE {table} ({typed})")

    def take(self, resources: Iterable[dict[str, Any]]) -> None:
        """Goes through all of them once."""
        kinds = {"Patient": self._patient, "Observation": self._observation,
                 "Media": self._media, "DocumentReference": self._document}  # fmt: skip
        for resource in resources:
            kinds[resource["resourceType"]](resource)
            for table, rows in self.waiting.items():
                if len(rows) >= ROWS:
                    self._write(table)
        for table in TABLES:
            self._write(table)

    def _write(self, table: str) -> None:
        rows, self.waiting[table] = self.waiting[table], []
        if not rows:
            return
        arrow = {"TIMESTAMP": pa.timestamp("us"), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_(),
                 "DATE": pa.timestamp("us")}  # fmt: skip
        columns = {
            name: pa.array(values, arrow.get(TYPES.get(name, ""), pa.string()))
            for name, values in zip(TABLES[table], zip(*rows, strict=True), strict=True)
        }
        self.database.run_with(pa.table(columns), f"INSERT INTO {table} SELECT * FROM chunk")

    def _patient(self, one: dict[str, Any]) -> None:
        if (own := printable(one.get("id"))) is None:
            return
        self.waiting["fhir_patients"].append((own, sex_of(one), birth_date(one.get("birthDate"))))
        names = {own, *(value for _, value in identifiers(one))}
        self.waiting["fhir_names"] += [(own, name) for name in sorted(names)]

    def _observation(self, one: dict[str, Any]) -> None:
        """Its own value and those of its components, each by its code."""
        when = clock_time(measured_at(one))
        head = (printable(one.get("id")), printable(mapping(one.get("meta")).get("lastUpdated")),
                str(one.get("status")) in MADE, patient_id(one.get("subject")))  # fmt: skip
        for field, number, unit in values_of(one, self.fields):
            self.waiting["fhir_values"].append((*head, field, when, number, unit))

    def _media(self, one: dict[str, Any]) -> None:
        coded = [c.get("code") for c in objects(mapping(one.get("view")).get("coding"))]
        view = next((VIEWS[c] for c in coded if isinstance(c, str) and c in VIEWS), None)
        period = mapping(one.get("createdPeriod"))
        taken = clock_time(one.get("createdDateTime")) or clock_time(period.get("start"))
        self._film(one, mapping(one.get("content")), taken, view, one.get("status") == "completed")

    def _document(self, one: dict[str, Any]) -> None:
        for content in objects(one.get("content")):
            attachment = mapping(content.get("attachment"))
            taken = clock_time(attachment.get("creation")) or clock_time(one.get("date"))
            self._film(one, attachment, taken, None, one.get("status") == "current")

    def _film(
        self, one: dict[str, Any], attachment: dict[str, Any], taken: datetime | None,
        view: str | None, good: bool,
    ) -> None:  # fmt: skip
        kind = str(attachment.get("contentType")).partition(";")[0]
        if kind not in ("application/dicom", "image/png", "image/jpeg"):
            self.counts["Media and documents that are neither DICOM, PNG nor JPEG"] += 1
            return
        url = printable(attachment.get("url"))
        local = (
            re.sub(r"^file://", "", url) if url and not re.match(r"(?!file:)\w+:", url) else None
        )
        self.waiting["fhir_media"].append(
            (patient_id(one.get("subject")), taken, local, view, good)
        )


def take_fhir(database: CohortDatabase, text: str, asked: str, by: str) -> None:
    """Gives the films the record of a FHIR export, or of a server.

    Patients are found by their id or by an identifier's value. A server is asked for those that
    the SELECT `asked` names, `by` "_id" or "identifier". Raises UserError as `fhir_reading` does.
    """
    counts: Counter[str] = Counter()
    rows = _Rows(database, counts)
    if is_address(text):
        ids = [row[0] for row in database.run(f"SELECT DISTINCT id FROM ({asked}) t(id) "
                                              "WHERE trim(id) != '' ORDER BY 1")]  # fmt: skip
        rows.take(read_server(text, ids, by, [*rows.fields, *PANELS]))
    else:
        folder = Path(text).expanduser()
        if not folder.is_dir():
            raise UserError(f"fhir:{text}: is neither a folder nor http(s)://...")
        rows.take(read_folder(folder, ("Patient", "Observation"), counts))
    _record(database, counts)


def _record(database: CohortDatabase, counts: Counter[str]) -> None:
    """The tables of `ehr_linkage.py` from those of the resources, then the EHR of the films."""
    start_record(database)
    database.run("INSERT INTO people SELECT pseudonym('patient', id), sex, born FROM fhir_patients")
    database.run(
        "INSERT INTO aliases SELECT DISTINCT pseudonym('patient', name), pseudonym('patient', id) "
        "FROM fhir_names"
    )
    # Of several versions of an observation the last counts: it may take the value back.
    database.run(
        """
        CREATE OR REPLACE TABLE vitals AS SELECT pseudonym('patient', patient) AS patient, field,
          made, number, unit, good
        FROM fhir_values QUALIFY id IS NULL OR updated IS NOT DISTINCT FROM
          max(updated) OVER (PARTITION BY id)
        """
    )
    for where, what in (
        ("NOT good", "observations entered in error, cancelled or not made, not used"),
        ("patient IS NULL", "observations of no patient, not used"),
        ("made IS NULL", "observations without a day, not used"),
    ):
        database.remark(what, database.one(f"SELECT count(*) FROM vitals WHERE {where}"))
        database.run(f"DELETE FROM vitals WHERE {where}")
    database.run("INSERT INTO readings SELECT patient, field, made, number, unit FROM vitals")
    for what, count in counts.items():
        database.remark(what, count)
    only_of_films(database)
    convert_readings(database)
    take_people(database)
    take_nearest(database)
    body_mass_index(database)


def films_folder(text: str) -> Path:
    """The folder. Raises UserError for a server, which has no films that are files."""
    if is_address(text):
        raise UserError("fhir:http...: films lie in a folder; give fhir:FOLDER with films.csv, and "
                        "the server as --record")  # fmt: skip
    return Path(text).expanduser()


def assemble(database: CohortDatabase) -> None:
    """The films of films.csv, or of Media and DocumentReference, and the record of each."""
    pseudonymise(database)
    listed = database.find_if_there("films.csv")
    record = database.choices.record
    if listed is not None:
        take_film_list(database, listed, "patient")
        asked = "SELECT regexp_replace(trim(patient), '^Patient/', '') FROM list"
    else:
        counts: Counter[str] = Counter()
        rows = _Rows(database, counts)
        rows.take(read_folder(database.root, ("Media", "DocumentReference"), counts))
        for what, count in counts.items():
            database.remark(what, count)
        asked = "SELECT patient FROM medias"
        _attachments(database)
    take_fhir(database, str(record) if record is not None else str(database.root), asked, "_id")


def _attachments(database: CohortDatabase) -> None:
    """The films of Media and DocumentReference: DICOM by its header; PNG and JPEG where Media says
    that the view is PA or AP."""
    if not database.one("SELECT count(*) FROM fhir_media"):
        raise UserError(f"fhir:{database.root}: has neither films.csv nor a film in Media or "
                        "DocumentReference")  # fmt: skip
    database.list_files(any_ending=True)
    database.run(r"DELETE FROM present WHERE regexp_matches(lower(name), '\.(nd)?json(\.gz)?$')")
    base = as_text(f"{database.base.resolve()}/")
    database.run(
        r"""
        CREATE OR REPLACE TABLE medias AS SELECT * REPLACE (regexp_replace(CASE WHEN
          starts_with(local, ?) THEN substr(local, length(?) + 1) ELSE local END, '^\./', '')
          AS local) FROM fhir_media
        """,
        [base, base],
    )
    pictures = r"'\.(png|jpe?g)$'"
    read_headers(
        database,
        "SELECT path FROM present WHERE path IN (SELECT local FROM medias) "
        f"AND NOT regexp_matches(lower(path), {pictures})",
    )
    database.films(
        """
        SELECT pseudonym('film', coalesce(dicom.sop, local)) AS image_id, local AS path,
          pseudonym('patient', medias.patient) AS patient_id,
          pseudonym('study', dicom.study) AS study_id, coalesce(dicom.taken, medias.taken) AS taken,
          CASE WHEN dicom.path IS NULL THEN medias.view WHEN facing IN ('PA', 'AP') THEN facing END
            AS view,
          CASE WHEN NOT good THEN 'its status is not that of a finished film'
            WHEN local IS NULL THEN 'not a local file; nothing is fetched'
            WHEN local NOT IN (SELECT path FROM present) THEN 'its file is not in the folder'
            WHEN dicom.path IS NOT NULL THEN dicom.unfit
            WHEN medias.view IS NULL THEN 'frontal or lateral is not stated' END AS unfit
        FROM medias LEFT JOIN dicom ON dicom.path = local
        """
    )
    drop_raw_twins(database)


FHIR = Publisher(
    name="fhir",
    summary="films beside FHIR R4 resources (ndjson, Bundles): the nearest observations to each",
    assemble=assemble,
    official=True,
    layout=(
        "*.ndjson, *.json (Bundles or single resources), also .gz",
        "films.csv (patient, path, taken, ...), or Media or DocumentReference with local paths",
    ),
    record="another folder of FHIR, or a server's base address",
    fields=tuple(FIELDS),
    folder=films_folder,
)
