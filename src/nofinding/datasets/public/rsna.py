"""`rsna:FOLDER`: the RSNA Pneumonia Detection Challenge of 2018, stage 2, as Kaggle ships it.

26,684 frontal films of ChestX-ray14, DICOM, labelled by radiologists: Normal, Lung Opacity (with
boxes), or No Lung Opacity / Not Normal; and 3,000 test films without labels. Reads
stage_2_train_labels.csv and stage_2_detailed_class_info.csv; sex, age and view from the headers.

The patientId of the tables is the id of a film. Who the patients are stands in
pneumonia-challenge-dataset-mappings_2018.json, which the RSNA publishes beside the challenge.
"""

import json

import pyarrow as pa

from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.patient_headers import count_unusable, read_headers_of
from nofinding.datasets.build.publisher import Publisher
from nofinding.errors import UserError

__all__ = ["RSNA"]

MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
LARGEST = 2**28  # bytes of the mapping, which has 12 million
SIDE = 1024.0  # pixels of every film of the challenge


def assemble(database: CohortDatabase) -> None:
    """The films of the training set, with labels, boxes, age, sex and view."""
    stage = "stage 2 of the challenge has it"
    labels = database.find("stage_2_train_labels.csv", "*/stage_2_train_labels.csv", what=stage)
    classes = database.find(
        "stage_2_detailed_class_info.csv", "*/stage_2_detailed_class_info.csv", what=stage
    )
    database.csv("drawn", labels, ("patientId", "x", "y", "width", "height", "Target"),
                 versions=stage)  # fmt: skip
    database.csv("classed", classes, ("patientId", "class"), versions=stage)
    _mapping(database)
    database.list_files()
    database.run(
        f"""
        CREATE TABLE entries AS
        WITH boxed AS (
          SELECT trim("patientId") AS film, min("Target") AS least, max("Target") AS most,
            list({{'left': number(x), 'top': number(y), 'wide': number(width),
              'high': number(height), 'of_wide': {SIDE}, 'of_high': {SIDE}}})
              FILTER (number(width) > 0 AND number(height) > 0) AS boxes
          FROM drawn GROUP BY 1),
        named AS (
          SELECT trim("patientId") AS film, min("class") AS least, max("class") AS most
          FROM classed GROUP BY 1),
        there AS (
          SELECT stem, first(path ORDER BY contains(path, 'train') DESC, length(path), path) AS path
          FROM present WHERE NOT contains(path, 'stage_2_test_images') GROUP BY 1)
        SELECT film, path, boxes,
          CASE WHEN named.film IS NULL OR named.least IS NULL THEN 'nothing'
            WHEN named.least != named.most OR (boxed.film IS NOT NULL AND
              (boxed.least != boxed.most
                OR boxed.most != if(named.most = 'Lung Opacity', '1', '0')))
              THEN 'both'
            WHEN named.most = 'Normal' THEN 'Normal'
            WHEN named.most IN ('Lung Opacity', 'No Lung Opacity / Not Normal') THEN named.most
            ELSE 'odd' END AS label
        FROM boxed FULL JOIN named USING (film) LEFT JOIN there ON there.stem = film
        UNION ALL
        SELECT stem, path, NULL, 'test' FROM present WHERE contains(path, 'stage_2_test_images')
        """
    )
    read_headers_of(
        database,
        "SELECT DISTINCT path FROM entries JOIN present USING (path) "
        "WHERE label != 'test' AND NOT outside ORDER BY path",
    )
    _films(database)


def _films(database: CohortDatabase) -> None:
    database.films(
        """
        SELECT film AS image_id,
          coalesce('nih' || nullif(patients.patient, ''), film) AS patient_id,
          entries.path AS path,
          CASE label WHEN 'Normal' THEN [] ELSE [label] END AS findings,
          CASE WHEN label = 'Lung Opacity' THEN boxes END AS boxes,
          sex, view, age,
          list_concat(coalesce(flags, []), CASE WHEN readable = false THEN ['unreadable'] ELSE []
            END) AS flags
        FROM entries
        LEFT JOIN patients USING (film)
        LEFT JOIN headers ON headers.path = entries.path
        """,
        offers=("age", "sex", "view"),
    )
    for label, reason in (
        ("test", "of the challenge's test set, which has no labels"),
        ("nothing", "no class in stage_2_detailed_class_info.csv"),
        ("both", "its class and its Target, or two of its rows, disagree"),
        ("odd", "a class that stage 2 does not have"),
    ):
        database.drop("findings = [?]", reason, [label])
    database.drop("list_contains(flags, 'unreadable')", "its header cannot be read")
    database.drop("view IS NOT NULL AND view NOT IN ('PA', 'AP')", "neither PA nor AP")
    count_unusable(database)
    known = database.one("SELECT count(*) FROM patients")
    database.remark(
        f"films whose patient is not known, each counted as one patient (no {MAPPING})"
        if not known else "films that are not in the mapping, each counted as one patient",
        database.one("SELECT count(*) FROM films WHERE patient_id = image_id"),
    )  # fmt: skip


def _mapping(database: CohortDatabase) -> None:
    """The table patients (film, patient: five digits of ChestX-ray14); empty without a mapping.

    Raises UserError where the file is not what the RSNA publishes.
    """
    database.run("CREATE TABLE patients (film VARCHAR, patient VARCHAR)")
    file = database.find_if_there(MAPPING, f"*/{MAPPING}")
    if file is None:
        return
    fault = UserError(f"{file}: must be a list with subset_img_id and img_id of every film")
    try:
        if file.stat().st_size > LARGEST:
            raise UserError(f"{file}: is larger than {LARGEST // 2**20} MiB; the mapping is not")
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        pairs = [(str(entry["subset_img_id"]), str(entry["img_id"])) for entry in content]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise fault from None
    if not pairs:
        raise fault
    films, images = zip(*pairs, strict=True)
    database.run_with(
        pa.table({"film": films, "image": images}),
        r"""
        INSERT INTO patients SELECT film, lpad(min(regexp_extract(image, '^(\d{1,8})_\d+', 1)::INT)
          ::VARCHAR, 5, '0') FROM chunk WHERE regexp_matches(image, '^\d{1,8}_\d+')
        GROUP BY film HAVING count(DISTINCT regexp_extract(image, '^\d+')) = 1
        """,
    )


RSNA = Publisher(
    name="rsna",
    summary="RSNA Pneumonia Detection Challenge, stage 2, as downloaded: age, sex, view, boxes",
    assemble=assemble,
    official=False,
    layout=(
        "stage_2_train_labels.csv",
        "stage_2_detailed_class_info.csv",
        "stage_2_train_images/*.dcm",
        f"{MAPPING} of the RSNA (optional: says who the patients are)",
    ),
    fields=("age", "sex", "view"),
)
