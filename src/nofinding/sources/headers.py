"""DICOM headers as a table, and which of the files are frontal chest films, by the header alone.

A film is kept where the header says that it is one: a CR or DX image of the chest, PA or AP.
What is not said is not guessed at: such files are left out and counted.
"""

import os
import re
from collections.abc import Mapping

import pyarrow as pa

from nofinding.data.decode import FilmFile, read_studies
from nofinding.errors import UserError
from nofinding.sources.assembly import Assembly

__all__ = ["drop_raw_twins", "read_headers", "stated_unfit"]

COLUMNS = ("sop_class", "sop", "study", "modality", "image_type", "intent", "view", "view_code",
           "orientation", "body_part", "region_code", "frames", "burned", "patient", "sex",
           "born", "age", "height", "weight", "source", "taken", "unfit")  # fmt: skip
CHUNK = 5000  # headers that are in Python's memory at a time

# PS3.3 C.8.1, C.8.11; PS3.16 CID 4009, 4010 in SNOMED CT and in the older SNOMED RT.
IMAGES = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1",
          "1.2.840.10008.5.1.4.1.1.1.1.1")  # fmt: skip
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
CHEST = ("CHEST", "THORAX", "PORT CHEST", "PORTABLE CHEST", "CHEST PORT", "CHEST PORTABLE")
CHEST_CODES = ("816094009", "51185008", "T-D3000")
PA, AP = ("272479007", "R-40888"), ("399348003", "R-10206")


def _in(values: tuple[str, ...]) -> str:
    return "(" + ", ".join(f"'{value}'" for value in values) + ")"


# What is not kept, in the order in which it is asked.
REASONS = rf"""
  CASE
    WHEN unfit IS NOT NULL AND modality IS NULL AND sop IS NULL THEN unfit
    WHEN sop_class = '{SECONDARY}' OR starts_with(sop_class, '{SECONDARY}.')
      THEN 'a secondary capture'
    WHEN modality IS NULL OR modality NOT IN ('CR', 'DX') THEN 'neither CR nor DX'
    WHEN sop_class IS NULL OR sop_class NOT IN {_in(IMAGES)} THEN 'neither a CR nor a DX image'
    WHEN contains(upper(image_type), 'LOCALIZER') THEN 'a localiser'
    WHEN frames IS NOT NULL AND number(frames) IS DISTINCT FROM 1 THEN 'more than one frame'
    WHEN sop IS NULL THEN 'no SOP Instance UID'
    WHEN patient IS NULL THEN 'no PatientID'
    WHEN part IS NULL AND region_code IS NULL THEN 'body part not stated'
    WHEN coalesce(part NOT IN {_in(CHEST)}, region_code NOT IN {_in(CHEST_CODES)})
      THEN 'another body part than the chest'
    WHEN facing NOT IN ('PA', 'AP') THEN 'neither PA nor AP'
    WHEN lying IS NOT NULL AND NOT lying
      THEN CASE WHEN facing IS NULL THEN 'neither PA nor AP' ELSE
        'ViewPosition and PatientOrientation contradict each other' END
    WHEN facing IS NULL AND lying IS NULL THEN 'frontal or lateral is not stated'
    WHEN unfit IS NOT NULL THEN
      CASE WHEN starts_with(unfit, 'is not') OR NOT regexp_matches(unfit, '\d') THEN unfit
        ELSE 'its size or depth is not decoded' END
  END
"""


def stated_unfit(header: Mapping[str, str]) -> str | None:
    """Why one file (`data.dicom.study`) is left out by what its header says, in the words of
    REASONS; None where it says nothing against it. What is not stated is left to the input gate.
    """
    part = header.get("body_part", "").upper().replace("_", " ")
    coded = header.get("view_code")
    coded = "PA" if coded in PA else "AP" if coded in AP else coded
    views = {view.upper() for view in (coded, header.get("view")) if view}
    frontal = r"[LR].*\\[FH].*" if views else r"[LR]\\[FH]"
    lying = re.fullmatch(frontal, header.get("orientation", "L\\F").upper())
    region = CHEST_CODES[0] if part else header.get("region_code", CHEST_CODES[0])
    if "sop" not in header:
        return header.get("unfit", "no SOP Instance UID")
    if header.get("sop_class") not in IMAGES:
        return "neither a CR nor a DX image"
    if part not in ("", *CHEST) or region not in CHEST_CODES:
        return "another body part than the chest"
    if len(views) > 1 or not views <= {"PA", "AP"} or not lying:
        return "neither PA nor AP"
    return header.get("unfit")


def read_headers(assembly: Assembly, paths: str) -> None:
    """Makes the table `dicom`, a row for each file that the SELECT `paths` names.

    Its columns are those of `data.dicom.study`, with `taken` as a time, `facing` (PA, AP, NULL
    where only PatientOrientation says that a film is frontal) and `unfit`: why the file is left
    out, or NULL. Of files with one SOP Instance UID the first is kept where all are equal, none
    where they are not. A DICOMDIR is passed over.
    """
    titles = ", ".join(f"{name} VARCHAR" for name in ("path", *COLUMNS))
    assembly.run(f"CREATE OR REPLACE TABLE headers ({titles})")
    names = [row[0] for row in assembly.run(f"SELECT DISTINCT path FROM ({paths}) ORDER BY 1")]
    files = [assembly.file(name) for name in names]
    rows: list[dict[str, str]] = []
    found = read_studies(files, min(os.cpu_count() or 1, 16, 1 + len(files) // 200))
    shown = assembly.progress(files, "reading headers")
    for name, _, header in zip(names, shown, found, strict=True):
        rows.append({"path": name, **header})
        if len(rows) == CHUNK:
            _add(assembly, rows)
    _add(assembly, rows)
    assembly.run("DELETE FROM present WHERE path IN "
                 "(SELECT path FROM headers WHERE unfit = 'a DICOMDIR')")  # fmt: skip
    assembly.run("DELETE FROM headers WHERE unfit = 'a DICOMDIR'")
    assembly.run(
        rf"""
        CREATE OR REPLACE TABLE dicom AS
        SELECT * REPLACE ({REASONS} AS unfit, try_strptime(taken, '%Y%m%d%H%M%S') AS taken)
        FROM (
          SELECT *,
            CASE WHEN upper(view) != coded THEN 'two views' ELSE coalesce(coded, upper(view)) END
              AS facing,
            upper(replace(body_part, '_', ' ')) AS part,
            -- rows run to the patient's left or right, columns to the feet or the head; obliquely,
            -- where nothing else says that the film is frontal, is not enough
            regexp_full_match(upper(orientation),
              CASE WHEN coalesce(coded, view) IS NULL THEN '[LR]\\[FH]' ELSE '[LR].*\\[FH].*' END
            ) AS lying
          FROM (SELECT *, CASE WHEN view_code IN {_in(PA)} THEN 'PA' WHEN view_code IN {_in(AP)}
                  THEN 'AP' ELSE view_code END AS coded FROM headers))
        """
    )
    _same_uid(assembly)


def _add(assembly: Assembly, rows: list[dict[str, str]]) -> None:
    if not rows:
        return
    columns = {
        name: pa.array([row.get(name) for row in rows], pa.string()) for name in ("path", *COLUMNS)
    }
    assembly.run_with(pa.table(columns), "INSERT INTO headers SELECT * FROM chunk")
    rows.clear()


def _same_uid(assembly: Assembly) -> None:
    """Marks files that share a SOP Instance UID, by whether they are equal."""
    twice = "SELECT sop FROM dicom WHERE unfit IS NULL GROUP BY 1 HAVING count(*) > 1"
    paths = [row[0] for row in assembly.run(
        f"SELECT path FROM dicom WHERE unfit IS NULL AND sop IN ({twice}) ORDER BY 1"
    )]  # fmt: skip
    if not paths:
        return
    hashes = [_hash(assembly, path) for path in paths]
    chunk = pa.table({"path": paths, "hash": pa.array(hashes, pa.string())})
    assembly.run_with(chunk, "CREATE OR REPLACE TABLE bytes AS SELECT * FROM chunk")
    assembly.run(
        """
        UPDATE dicom SET unfit = CASE WHEN before > 1 THEN 'the same file once more' ELSE
          'the SOP Instance UID of another file with other content' END
        FROM (SELECT path, row_number() OVER (PARTITION BY sop, hash ORDER BY path) AS before,
                min(hash) OVER (PARTITION BY sop) != max(hash) OVER (PARTITION BY sop) AS differ
              FROM bytes JOIN dicom USING (path)) told
        WHERE told.path = dicom.path AND (before > 1 OR differ)
        """
    )


def _hash(assembly: Assembly, path: str) -> str:
    try:
        return FilmFile(assembly.file(path)).fingerprint()
    except UserError:
        return "cannot be read"


def drop_raw_twins(assembly: Assembly) -> None:
    """Leaves out FOR PROCESSING images of which the FOR PRESENTATION one is there, too: the one
    made of it by its own word, or else the one of the same study, view and minute. Films of which
    only the raw image is there get a flag."""
    assembly.drop(
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
        assembly.remark(
            f"{flag}; kept", assembly.one(f"SELECT count(*) FROM films WHERE image_id IN ({ids})")
        )
        assembly.run(
            f"UPDATE films SET flags = list_append(flags, ?) WHERE image_id IN ({ids})", [flag]
        )
