"""`vindr:FOLDER`: VinDr-CXR, as PhysioNet or Kaggle ships it (Nguyen et al., Scientific Data 2022).

18,000 PA films of adults: 15,000 read by three of 17 radiologists each (train), 3,000 by a
consensus of five (test). Reads annotations/image_labels_train.csv, image_labels_test.csv,
annotations_train.csv and annotations_test.csv of PhysioNet 1.0.0; or train.csv of Kaggle, whose
test films have no labels, with train_meta.csv (dim0 rows, dim1 columns) where the films are PNG or
JPEG copies of another size. Sex and age from the DICOM headers.
"""

from pathlib import Path

from nofinding.data.patient_age import ZERO
from nofinding.datasets.build.database import COLUMNS, CohortDatabase
from nofinding.datasets.build.patient_headers import count_unusable, read_headers_of
from nofinding.datasets.build.publisher import Publisher
from nofinding.errors import UserError

__all__ = ["VINDR"]

NONE = "No finding"
MAJORITY = 2  # readers of three who must have found something
BOX = ("x_min", "y_min", "x_max", "y_max")


def assemble(database: CohortDatabase) -> None:
    """All films with labels, boxes, age and sex; the split of PhysioNet."""
    database.run("CREATE TABLE read (film VARCHAR, split VARCHAR, reader VARCHAR, label VARCHAR)")
    database.run(
        "CREATE TABLE drawn (film VARCHAR, label VARCHAR, x_min DOUBLE, y_min DOUBLE, "
        "x_max DOUBLE, y_max DOUBLE)"
    )
    if (first := database.find_if_there(
        *(f"{where}image_labels_train.csv" for where in ("annotations/", "", "*/annotations/"))
    )) is not None:  # fmt: skip
        _physionet(database, first)
    else:
        file = database.find("annotations/image_labels_train.csv", "train.csv", "*/train.csv",
                             what="PhysioNet's, nor Kaggle's train.csv")  # fmt: skip
        _kaggle(database, file)
    _votes(database)
    database.list_files()
    database.run(
        """
        CREATE TABLE entries AS SELECT votes.*, path FROM votes LEFT JOIN (
          SELECT stem, first(path ORDER BY length(path), path) AS path FROM present GROUP BY 1)
          ON stem = film
        """
    )
    _boxes(database)
    read_headers_of(
        database,
        "SELECT DISTINCT path FROM entries JOIN present USING (path) WHERE NOT outside "
        "ORDER BY path",
    )
    _films(database)


def _physionet(database: CohortDatabase, first: Path) -> None:
    for split in ("train", "test"):
        file = first if split == "train" else database.find(
            "image_labels_test.csv", under=first.parent, what="PhysioNet 1.0.0 has it")  # fmt: skip
        readers = ("rad_id",) if split == "train" else ()
        known = f"image_labels_{split}.csv of PhysioNet 1.0.0 has it"
        titles = database.csv("labels", file, ("image_id", NONE, *readers), versions=known)
        labels = [t for t in titles if t not in ("image_id", "rad_id", "") and '"' not in t]
        database.csv("labels", file, ("image_id", *readers, *labels), versions=known)
        named = ", ".join(f'"{label}"' for label in labels)
        database.run(
            f"INSERT INTO read SELECT image_id, '{split}', {'rad_id' if readers else 'NULL'}, "
            "CASE WHEN number(told) = 1 THEN label WHEN told IS NULL OR number(told) = 0 THEN NULL "
            f"ELSE '?' END FROM labels UNPIVOT INCLUDE NULLS (told FOR label IN ({named}))"
        )
        file = database.find(f"annotations_{split}.csv", under=first.parent)
        database.csv("boxes", file, ("image_id", "class_name", *BOX), versions=known)
        _draw(database)


def _kaggle(database: CohortDatabase, file: Path) -> None:
    database.csv("boxes", file, ("image_id", "class_name", "rad_id", *BOX),
                 versions="train.csv of Kaggle's challenge has it")  # fmt: skip
    database.run("INSERT INTO read SELECT image_id, NULL, rad_id, class_name FROM boxes")
    _draw(database)


def _draw(database: CohortDatabase) -> None:
    database.run(
        f"INSERT INTO drawn SELECT image_id, class_name, {', '.join(f'number({c})' for c in BOX)} "
        f"FROM boxes WHERE class_name != '{NONE}'"
    )


def _votes(database: CohortDatabase) -> None:
    """The table votes (film, split, kind, findings): normal where every reader said No finding,
    abnormal where two found something; the findings are those that two readers named, or all that
    were named if no two agree. In the test set there is one reader, the consensus."""
    both = "SELECT 1 FROM read GROUP BY film HAVING count(DISTINCT split) > 1"
    if database.run(both):
        raise UserError(f"{database.root}: a film is in the labels of train and of test")
    database.run(
        f"""
        CREATE TABLE votes AS
        WITH sheets AS (
          SELECT film, any_value(split) AS split, reader,
            bool_or(label = '?') AS odd, bool_or(label = '{NONE}') AS none,
            list(DISTINCT label) FILTER (label NOT IN ('{NONE}', '?')) AS named
          FROM read GROUP BY film, reader),
        counted AS (
          SELECT film, any_value(split) AS split, count(*) AS readers,
            bool_or(coalesce(odd, false)) AS odd,
            bool_or(coalesce(none, false) = (coalesce(len(named), 0) > 0)) AS torn,
            count(*) FILTER (len(named) > 0) AS found
          FROM sheets GROUP BY film),
        shared AS (
          SELECT film, label, count(DISTINCT coalesce(reader, '')) AS votes
          FROM read WHERE label NOT IN ('{NONE}', '?') GROUP BY ALL),
        listed AS (
          SELECT film, list(label ORDER BY label) AS every,
            list(label ORDER BY label) FILTER (votes >= {MAJORITY}) AS agreed
          FROM shared GROUP BY film)
        SELECT film, split,
          CASE WHEN odd THEN 'odd' WHEN torn THEN 'both' WHEN found = 0 THEN 'normal'
            WHEN found >= least({MAJORITY}, readers) THEN 'abnormal' ELSE 'uncertain' END AS kind,
          CASE WHEN kind = 'normal' THEN []
            WHEN len(agreed) > 0 THEN agreed ELSE every END AS findings
        FROM counted LEFT JOIN listed USING (film)
        """
    )


def _boxes(database: CohortDatabase) -> None:
    """The table boxed (film, boxes), in pixels of the film as it was taken: of every reader, for
    the findings that the film has. Copies of another size need the size of the original."""
    meta = database.find_if_there("train_meta.csv", "*/train_meta.csv")
    if meta is None:
        database.run("CREATE TABLE sizes (film VARCHAR, high DOUBLE, wide DOUBLE)")
    else:
        database.csv("meta", meta, ("image_id", "dim0", "dim1"))
        database.run("CREATE TABLE sizes AS SELECT image_id AS film, min(number(dim0)) AS high, "
                     "min(number(dim1)) AS wide FROM meta GROUP BY 1")  # fmt: skip
    database.run(
        f"""
        CREATE TABLE boxed AS SELECT film, list({{'left': x_min, 'top': y_min,
            'wide': x_max - x_min, 'high': y_max - y_min, 'of_wide': sizes.wide,
            'of_high': sizes.high}})::{COLUMNS["boxes"]} AS boxes,
          bool_or(sizes.wide IS NULL AND NOT regexp_matches(path, '(?i)\\.(dicom|dcm)$')) AS lost
        FROM (SELECT DISTINCT * FROM drawn) JOIN entries USING (film) LEFT JOIN sizes USING (film)
        WHERE x_max > x_min AND y_max > y_min AND list_contains(findings, label)
        GROUP BY film
        """
    )


def _films(database: CohortDatabase) -> None:
    policy = database.choices.uncertain
    doubted = {"positive": "findings", "negative": "[]"}.get(policy, "NULL")
    database.films(
        f"""
        SELECT film AS image_id, film AS patient_id, entries.path AS path, split,
          CASE kind WHEN 'uncertain' THEN {doubted} ELSE findings END AS findings,
          CASE WHEN NOT coalesce(lost, true) AND (kind = 'abnormal' OR
            (kind = 'uncertain' AND '{policy}' = 'positive')) THEN boxes END AS boxes,
          sex,
          age,
          coalesce(view, 'PA') AS view,  -- the publisher has no other
          list_concat(coalesce(flags, []), list_filter([kind,
            CASE WHEN readable = false THEN 'unreadable' END,
            CASE WHEN lost THEN 'lost' END
          ], lambda flag: flag IS NOT NULL)) AS flags
        FROM entries LEFT JOIN boxed USING (film) LEFT JOIN headers ON headers.path = entries.path
        """,
        offers=("age", "sex", "view"),
    )
    for flag, reason in (
        ("odd", "a label other than 1 and 0"),
        ("both", "a reader said No finding and a finding at once, or neither"),
        ("unreadable", "its header cannot be read"),
    ):
        database.drop("list_contains(flags, ?)", reason, [flag])
    if policy == "drop":
        database.drop("list_contains(flags, 'uncertain')", "its readers disagree")
    database.drop("view NOT IN ('PA', 'AP')", "neither PA nor AP")
    for flag, what in (
        ("uncertain", f"films whose readers disagree, taken as {policy}"),
        ("lost", "films whose boxes are left out: a picture, and train_meta.csv lacks its size"),
        (ZERO, "age 0, which stands for unknown, set to missing"),
    ):
        database.remark(what, database.one(
            "SELECT count(*) FROM films WHERE list_contains(flags, ?)", [flag]))  # fmt: skip
    count_unusable(database)
    database.remark("films whose patient is not known, each counted as one patient",
                    database.one("SELECT count(*) FROM films"))  # fmt: skip
    database.run("UPDATE films SET flags = list_filter(flags, lambda flag: contains(flag, ':'))")


VINDR = Publisher(
    name="vindr",
    summary="VinDr-CXR of PhysioNet or Kaggle, as downloaded: age, sex, boxes, votes of readers",
    assemble=assemble,
    official=True,
    layout=(
        "annotations/image_labels_train.csv, image_labels_test.csv, annotations_train.csv, "
        "annotations_test.csv; train/*.dicom, test/*.dicom (PhysioNet)",
        "train.csv and train/*.dicom, *.png or *.jpg (Kaggle; patients are drawn)",
        "train_meta.csv (Kaggle's copies of another size: without it their boxes are left out)",
    ),
    fields=("age", "sex", "view"),
)
