"""DICOM headers as a table, and which of the files are frontal chest films, by the header alone.

A film is kept where the header says that it is one: a CR or DX image of the chest, PA or AP.
What is not said is not guessed at: such files are left out and counted.
"""

import os
from collections.abc import Mapping

import pyarrow as pa

from nofinding.data.decoding.decode import FilmFile, read_studies
from nofinding.data.fitness import IMAGES, SECONDARY, Needs, facing_of, objection
from nofinding.data.patient_age import age_of
from nofinding.datasets.build.database import CohortDatabase
from nofinding.errors import UserError

__all__ = ["IMAGES", "SECONDARY", "drop_raw_twins", "read_headers", "stated_unfit"]

COLUMNS = ("sop_class", "sop", "study", "modality", "image_type", "intent", "view", "view_code",
           "orientation", "body_part", "region_code", "frames", "burned", "patient", "sex",
           "born", "age", "height", "weight", "source", "taken")  # fmt: skip
MADE = ("facing", "unfit", "age_flag")  # by the rules, not written in the header
CHUNK = 5000  # headers that are in Python's memory at a time


def stated_unfit(header: Mapping[str, str]) -> str | None:
    """Why one film of a study (`data.dicom.study`) is left out by what its header says; None where
    it says nothing against it. What is not stated is left to the input gate."""
    return objection(header, Needs.SOP)


def read_headers(database: CohortDatabase, paths: str) -> None:
    """Makes the table `dicom`, a row for each file that the SELECT `paths` names.

    Its columns are those of `data.dicom.study`, with `taken` as a time, `facing` (PA, AP, NULL
    where only PatientOrientation says that a film is frontal), `years` and `age_flag` (the age by
    `data.patient_age`) and `unfit`: why the file is left out (`data.fitness`), or NULL. Of files
    with one SOP Instance UID the first is kept where all are equal, none where they are not. A
    DICOMDIR is passed over.
    """
    titles = ", ".join(f"{name} VARCHAR" for name in ("path", *COLUMNS, *MADE))
    database.run(f"CREATE OR REPLACE TABLE headers ({titles}, years DOUBLE)")
    names = [row[0] for row in database.run(f"SELECT DISTINCT path FROM ({paths}) ORDER BY 1")]
    files = [database.file(name) for name in names]
    rows: list[dict[str, str | float | None]] = []
    headers = read_studies(files, min(os.cpu_count() or 1, 16, 1 + len(files) // 200))
    shown = database.progress(files, "reading headers")
    for name, _, header in zip(names, shown, headers, strict=True):
        rows.append({"path": name, **_judged(header)})
        if len(rows) == CHUNK:
            _add(database, rows)
    _add(database, rows)
    database.run("DELETE FROM present WHERE path IN "
                 "(SELECT path FROM headers WHERE unfit = 'a DICOMDIR')")  # fmt: skip
    database.run("DELETE FROM headers WHERE unfit = 'a DICOMDIR'")
    database.run(
        "CREATE OR REPLACE TABLE dicom AS SELECT * REPLACE "
        "(try_strptime(taken, '%Y%m%d%H%M%S') AS taken) FROM headers"
    )
    _same_uid(database)


def _judged(header: Mapping[str, str]) -> dict[str, str | float | None]:
    """A header, and what the rules make of it: whether it is left out, its view, the age."""
    unfit = header.get("unfit")
    if unfit != "a DICOMDIR":
        unfit = objection(header, Needs.COHORT)
    age = age_of(
        {
            "PatientAge": header.get("age", ""),
            "PatientBirthDate": header.get("born", ""),
            "StudyDate": header.get("day", ""),
        }
    )
    outputs = {"unfit": unfit, "facing": facing_of(header), "years": age.years}
    return {**header, **outputs, "age_flag": age.flag or None}


def _add(database: CohortDatabase, rows: list[dict[str, str | float | None]]) -> None:
    if not rows:
        return
    columns = {
        name: pa.array([row.get(name) for row in rows], pa.string())
        for name in ("path", *COLUMNS, *MADE)
    }
    columns["years"] = pa.array([row.get("years") for row in rows], pa.float64())
    database.run_with(pa.table(columns), "INSERT INTO headers SELECT * FROM chunk")
    rows.clear()


def _same_uid(database: CohortDatabase) -> None:
    """Marks files that share a SOP Instance UID, by whether they are equal."""
    twice = "SELECT sop FROM dicom WHERE unfit IS NULL GROUP BY 1 HAVING count(*) > 1"
    paths = [row[0] for row in database.run(
        f"SELECT path FROM dicom WHERE unfit IS NULL AND sop IN ({twice}) ORDER BY 1"
    )]  # fmt: skip
    if not paths:
        return
    hashes = [_hash(database, path) for path in paths]
    chunk = pa.table({"path": paths, "hash": pa.array(hashes, pa.string())})
    database.run_with(chunk, "CREATE OR REPLACE TABLE bytes AS SELECT * FROM chunk")
    database.run(
        """
        UPDATE dicom SET unfit = CASE WHEN before > 1 THEN 'the same file once more' ELSE
          'the SOP Instance UID of another file with other content' END
        FROM (SELECT path, row_number() OVER (PARTITION BY sop, hash ORDER BY path) AS before,
                min(hash) OVER (PARTITION BY sop) != max(hash) OVER (PARTITION BY sop) AS differ
              FROM bytes JOIN dicom USING (path)) told
        WHERE told.path = dicom.path AND (before > 1 OR differ)
        """
    )


def _hash(database: CohortDatabase, path: str) -> str:
    try:
        return FilmFile(database.file(path)).fingerprint()
    except UserError:
        return "cannot be read"


def drop_raw_twins(database: CohortDatabase) -> None:
    """Leaves out FOR PROCESSING images of which the FOR PRESENTATION one is there, too: the one
    made of it by its own word, or else the one of the same study, view and minute. Films of which
    only the raw image is there get a flag."""
    database.drop(
        """
        image_id IN (SELECT pseudonym('film', raw.sop) FROM dicom raw JOIN dicom shown
          ON raw.patient = shown.patient AND raw.study IS NOT DISTINCT FROM shown.study
          WHERE raw.unfit IS NULL AND shown.unfit IS NULL AND raw.intent = 'FOR PROCESSING'
            AND shown.intent IS DISTINCT FROM 'FOR PROCESSING' AND (shown.source = raw.sop OR
              (shown.source IS NULL AND raw.facing IS NOT DISTINCT FROM shown.facing
               AND date_trunc('minute', raw.taken)
                 IS NOT DISTINCT FROM date_trunc('minute', shown.taken))))
        """,
        "FOR PROCESSING, and the image FOR PRESENTATION is there",
    )
    for where, flag in (
        ("intent = 'FOR PROCESSING'", "film: raw, FOR PROCESSING"),
        (r"orientation IS NOT NULL AND NOT regexp_full_match(upper(orientation), 'L.*\\F.*')",
         "film: stored mirrored or upside down"),
        ("burned = 'YES'", "film: text is burned in"),
    ):  # fmt: skip
        ids = f"SELECT pseudonym('film', sop) FROM dicom WHERE unfit IS NULL AND {where}"
        database.remark(
            f"{flag}; kept", database.one(f"SELECT count(*) FROM films WHERE image_id IN ({ids})")
        )
        database.run(
            f"UPDATE films SET flags = list_append(flags, ?) WHERE image_id IN ({ids})", [flag]
        )
