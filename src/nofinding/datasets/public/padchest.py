"""`padchest:FOLDER`: PadChest, as the BIMCV ships it (Bustos et al., Medical Image Analysis 2020).

160,861 films of some 67,000 patients of one hospital, PNG of 16 bits, with 174 findings from
reports. Reads PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv, or its .gz. The films may lie
in the folders 0 to 54 of the archive or in any other below: they are found by name.
"""

from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.publisher import Publisher

__all__ = ["PADCHEST"]

# Labels that say neither that a film is normal nor that it is not.
SILENT = ("unchanged", "suboptimal study")


def assemble(database: CohortDatabase) -> None:
    """The frontal films, with labels, age, sex and view. The publisher has no split."""
    table = database.find("PADCHEST_chest_x_ray_images_labels_160K*.csv",
                          "*/PADCHEST_chest_x_ray_images_labels_160K*.csv")  # fmt: skip
    database.csv(
        "entries", table,
        ("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth",
         "PatientSex_DICOM", "Projection", "Labels"),
        versions="the table of 1 February 2019 has it",
        also=("PhotometricInterpretation_DICOM", "BitsStored_DICOM"),
    )  # fmt: skip
    database.list_files()
    _labels(database)
    database.films(
        r"""
        WITH there AS (SELECT name, list(path ORDER BY length(path), path) AS paths
                       FROM present GROUP BY name)
        SELECT stem("ImageID") AS image_id,
          'padchest' || "PatientID" AS patient_id,
          "StudyID" AS study_id,
          CASE WHEN regexp_matches("ImageID", '/|\\|^\.\.') THEN "ImageID"
            ELSE coalesce(list_filter(paths, lambda path: regexp_matches(path,
              '(^|/)' || regexp_extract("ImageDir", '^\d+') || '/[^/]+$'))[1], paths[1])
            END AS path,
          try_strptime(regexp_extract("StudyDate_DICOM", '^\d{8}'), '%Y%m%d') AS taken,
          CASE upper("PatientSex_DICOM") WHEN 'F' THEN 'F' WHEN 'M' THEN 'M' END AS sex,
          -- the year of birth is all there is
          year(taken) - number("PatientBirth") AS age,
          CASE "Projection" WHEN 'PA' THEN 'PA' WHEN 'AP' THEN 'AP' WHEN 'AP_horizontal' THEN 'AP'
            END AS view,
          CASE WHEN kind IN ('normal', 'abnormal', 'taken') THEN findings END AS findings,
          -- the films are as the detector stored them: white and depth are in the table alone
          nullif(concat_ws(' ',
            CASE upper(trim("PhotometricInterpretation_DICOM")) WHEN 'MONOCHROME1'
              THEN 'MONOCHROME1' END,
            CASE WHEN number("BitsStored_DICOM") BETWEEN 8 AND 16
              THEN number("BitsStored_DICOM")::INTEGER END), '') AS greys,
          list_filter([kind, CASE WHEN "Projection" = 'AP_horizontal' THEN 'lying' END],
            lambda flag: flag IS NOT NULL) AS flags
        FROM judged LEFT JOIN there ON there.name = "ImageID"
        """
    )
    _decide(database)


def _labels(database: CohortDatabase) -> None:
    """The table judged: entries with findings, and kind as normal, abnormal, both, excluded,
    nothing, uncertain, or taken (uncertain, as --uncertain says).

    Labels are a Python list in text, with stray blanks: "['normal']", "[' pleural effusion']".
    """
    policy = database.choices.uncertain
    silent = ", ".join(f"'{label}'" for label in SILENT)
    doubted = {"positive": "silent", "negative": "[]"}.get(policy, "NULL")
    database.run(
        rf"""
        CREATE TABLE judged AS
        WITH told AS (
          SELECT *, list_sort(list_distinct(list_filter(list_transform(
            regexp_extract_all("Labels", '[''"]([^''"]*)[''"]', 1),
            lambda label: lower(trim(label))), lambda label: label != ''))) AS words
          FROM entries),
        sorted AS (
          SELECT *, list_filter(words, lambda l: l NOT IN ('normal', {silent})) AS sure,
            list_filter(words, lambda l: l IN ({silent})) AS silent,
            list_contains(words, 'normal') AS normal
          FROM told)
        SELECT * EXCLUDE (sure, silent, normal, words),
          CASE WHEN list_contains(words, 'exclude') THEN 'excluded'
            WHEN words = ['normal'] THEN 'normal'
            WHEN normal AND len(sure) > 0 THEN 'both'
            WHEN len(sure) > 0 THEN 'abnormal'
            WHEN len(silent) > 0 THEN '{"taken" if doubted != "NULL" else "uncertain"}'
            ELSE 'nothing' END AS kind,
          CASE kind WHEN 'normal' THEN [] WHEN 'taken' THEN {doubted} ELSE sure END AS findings
        FROM sorted
        """
    )


def _decide(database: CohortDatabase) -> None:
    database.drop("view IS NULL", "not frontal (PA, AP or AP_horizontal)")
    for kind, reason in (
        ("excluded", "labelled exclude by the publisher"),
        ("nothing", "no label"),
        ("both", "labelled normal and a finding at once"),
    ):
        database.drop("list_contains(flags, ?)", reason, [kind])
    policy = database.choices.uncertain
    silent_reason = f"nothing but {' or '.join(SILENT)}, perhaps beside normal"
    if policy == "drop":
        database.drop("list_contains(flags, 'uncertain')", f"labelled {silent_reason}")
    for flags, what in (
        (["uncertain", "taken"], f"films labelled {silent_reason}, taken as {policy}"),
        (["lying"], "films of lying patients (AP_horizontal), taken as AP"),
    ):
        database.remark(what, database.one(
            "SELECT count(*) FROM films WHERE list_has_any(flags, ?)", [flags]))  # fmt: skip
    database.run("UPDATE films SET flags = []")


PADCHEST = Publisher(
    name="padchest",
    summary="PadChest of the BIMCV, as downloaded: age, sex, view, findings from reports",
    assemble=assemble,
    official=False,
    layout=(
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv or .csv.gz",
        "0/*.png to 54/*.png, or *.png anywhere below",
    ),
    fields=("age", "sex", "view"),
)
