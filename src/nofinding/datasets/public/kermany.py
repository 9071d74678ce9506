"""`kermany:FOLDER`: the paediatric films of Kermany et al. (Cell 2018), which papers call ZhangLab.

5,856 films of children of 1 to 5 years, JPEG, in folders by split and label; no table, no record.
The folder given is chest_xray itself or one above it. Patient and germ stand in the film's name:
person1_bacteria_2.jpeg, IM-0115-0001.jpeg, NORMAL2-IM-0927-0001.jpeg; in the third version of the
publisher's archive BACTERIA-1008087-0001.jpeg, VIRUS-... and NORMAL-....
"""

from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.publisher import Publisher
from nofinding.errors import UserError

__all__ = ["KERMANY"]

PLACE = r"(?:^|/)(train|val|test)/(NORMAL|PNEUMONIA)/([^/]+)\.[A-Za-z]+$"
# A number counts from 1 within a germ: person1_bacteria and person1_virus are two children.
PATIENT = r"^(person\d+_[a-z]+|(?:NORMAL\d*-)?IM-\d+|(?:NORMAL|BACTERIA|VIRUS)-\d+)(?:[-_].*)?$"


def assemble(database: CohortDatabase) -> None:
    """All films, with labels and the official split; the val folder is part of train."""
    database.list_files()
    database.run(
        f"""
        CREATE TABLE placed AS
        WITH found AS (
          SELECT path, stem,
            regexp_extract(path, '(?i){PLACE}', ['split', 'label', 'stem']) AS place
          FROM present WHERE regexp_matches(path, '(?i){PLACE}'))
        -- the archive on Kaggle holds everything twice, once a folder deeper
        SELECT place, first(path ORDER BY length(path), path) AS path, min(stem) AS stem,
          count(*) - 1 AS copies,
          regexp_extract(place.stem, '{PATIENT}', 1) AS patient
        FROM found GROUP BY place
        """
    )
    if not database.one("SELECT count(*) FROM placed"):
        raise UserError(
            f"{database.root}: has no film chest_xray/train/NORMAL/*.jpeg; the folder chest_xray, "
            "or the one above"
        )
    database.films(
        """
        SELECT 'k-' || stem AS image_id,
          'k-' || coalesce(nullif(patient, ''), stem) AS patient_id,
          path,
          CASE lower(place.split) WHEN 'test' THEN 'test' ELSE 'train' END AS split,
          CASE upper(place.label) WHEN 'NORMAL' THEN [] ELSE list_concat(['Pneumonia'],
            CASE WHEN regexp_matches(place.stem, '(?i)bacteria') THEN ['Bacteria']
                 WHEN regexp_matches(place.stem, '(?i)virus') THEN ['Virus']
                 ELSE [] END) END AS findings,
          CASE WHEN patient = '' THEN ['patient: the name does not say'] ELSE [] END AS flags
        FROM placed
        ORDER BY split, place.stem, path  -- of two with one name, that of test stays
        """
    )
    for what, count in (
        ("films of the val folder, which are train: 16 are too few to tune on",
         "SELECT count(*) FROM placed WHERE lower(place.split) = 'val'"),
        ("second copies of films, one folder deeper", "SELECT sum(copies) FROM placed"),
        ("films whose name does not say the patient: each counts as one",
         "SELECT count(*) FROM films WHERE len(flags) > 0"),
    ):  # fmt: skip
        database.remark(what, database.one(count))


KERMANY = Publisher(
    name="kermany",
    summary="paediatric pneumonia of Kermany et al. (ZhangLab), as downloaded: official split",
    assemble=assemble,
    official=True,
    layout=(
        "chest_xray/train/NORMAL/*.jpeg, chest_xray/train/PNEUMONIA/*.jpeg, the same under test, "
        "and in the archive on Kaggle under val",
    ),
)
