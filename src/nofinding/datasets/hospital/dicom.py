"""`dicom:FOLDER`: the frontal chest films among the DICOM files of a hospital's folder.

All files below are looked at, whatever they are called; `headers.py` says which are kept. The
record is in the headers (sex, age, height, weight), and what --record gives counts before it: a
table (`record_table.py`; record.csv in the folder, if there is one), `omop:` or `fhir:`.
"""

from pathlib import Path

from nofinding.data.decoding.limits import unusable
from nofinding.data.ehr import FIELDS
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.ehr_linkage import body_mass_index
from nofinding.datasets.build.publisher import Publisher
from nofinding.datasets.hospital.ehr_table import take_table
from nofinding.datasets.hospital.fhir.source import take_fhir
from nofinding.datasets.hospital.film_headers import drop_raw_twins, read_headers
from nofinding.datasets.hospital.omop import take_cdm
from nofinding.datasets.hospital.pseudonyms import pseudonymise

__all__ = ["DICOM"]


def assemble(database: CohortDatabase) -> None:
    """All files, those that are no frontal chest film left out by reason."""
    pseudonymise(database)
    database.list_files(any_ending=True)
    own = None
    if database.choices.record is None:
        own = database.find_if_there("record.csv", "record.parquet")
    database.run("DELETE FROM present WHERE path = ?", ["" if own is None else own.name])
    read_headers(database, "SELECT path FROM present WHERE NOT outside")
    quoted = {name: "'" + unusable(name).replace("'", "''") + "'" for name in ("height", "weight")}
    database.films(
        """
        SELECT pseudonym('film', sop) AS image_id, pseudonym('patient', patient) AS patient_id,
          pseudonym('study', study) AS study_id, path, taken, unfit,
          CASE WHEN facing IN ('PA', 'AP') THEN facing END AS view,
          CASE WHEN upper(sex) IN ('M', 'F') THEN upper(sex) END AS sex,
          years AS age, number(height) * 100 AS height, number(weight) AS weight,
          list_filter([age_flag,
            CASE WHEN height IS NOT NULL AND number(height) IS NULL THEN {height} END,
            CASE WHEN weight IS NOT NULL AND number(weight) IS NULL THEN {weight} END],
            lambda flag: flag IS NOT NULL) AS flags
        FROM dicom
        UNION ALL BY NAME
        SELECT path, 'a link out of the folder (--follow-links takes it)' AS unfit
        FROM present WHERE outside
        """.format_map(quoted)
    )
    drop_raw_twins(database)
    _one_patient_each(database)
    _record(database, own)


def _one_patient_each(database: CohortDatabase) -> None:
    """Counts ids that cannot be one person's: they end up in one split, which is safe, but the
    record by id would be wrong of them."""
    database.remark(
        "PatientIDs with two sexes or two dates of birth",
        database.one(
            "SELECT count(*) FROM (SELECT patient FROM dicom WHERE unfit IS NULL GROUP BY 1 "
            "HAVING count(DISTINCT sex) > 1 OR count(DISTINCT born) > 1)"
        ),
    )


def _record(database: CohortDatabase, own: Path | None) -> None:
    place = database.choices.record or own
    kind, colon, rest = str(place or "").partition(":")
    if colon and kind == "omop":
        take_cdm(database, rest)
    elif colon and kind == "fhir":
        take_fhir(database, rest, "SELECT patient FROM dicom WHERE unfit IS NULL", "identifier")
    elif place is not None:
        take_table(database, place)
    body_mass_index(database)


DICOM = Publisher(
    name="dicom",
    summary="the frontal chest films in a folder of DICOM files, by their headers; pseudonymised",
    assemble=assemble,
    official=False,
    layout=("any files anywhere below", "record.csv or record.parquet (optional)"),
    record="a table by image_id, study_id or patient_id; omop:FOLDER; fhir:FOLDER or fhir:URL",
    fields=tuple(FIELDS),
)
