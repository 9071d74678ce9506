"""`nih:FOLDER`: ChestX-ray14 as the NIH Clinical Center ships it (Wang et al., CVPR 2017).

112,120 frontal films of 30,805 patients, PNG, labels by text mining; 984 boxes on 880 films.
Reads Data_Entry_2017.csv or Data_Entry_2017_v2020.csv; BBox_List_2017.csv, train_val_list.txt and
test_list.txt where they are. The films may lie in images_001/images to images_012/images, or in
any other folder below: they are found by name.
"""

from nofinding.datasets.build.database import COLUMNS, CohortDatabase
from nofinding.datasets.build.publisher import Publisher
from nofinding.errors import UserError

__all__ = ["NIH"]

LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}


def assemble(database: CohortDatabase) -> None:
    """All films, with labels, age, sex, view, boxes and the official split."""
    entries = database.find(
        "Data_Entry_2017*.csv", what="Data_Entry_2017.csv or Data_Entry_2017_v2020.csv"
    )
    titles = database.csv(
        "entries",
        entries,
        ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position"),
        also=("Patient Sex", "Patient Gender"),
        versions="the tables of 2017 and 2020 have it",
    )
    if not {"Patient Sex", "Patient Gender"} & set(titles):
        raise UserError(f"{entries}: has no column 'Patient Gender' (2017) or 'Patient Sex' (2020)")
    _boxes(database)
    _lists(database)
    database.list_files()
    database.films(
        r"""
        SELECT stem("Image Index") AS image_id,
          'nih' || lpad("Patient ID", 5, '0') AS patient_id,
          there.path AS path,
          CASE WHEN "Finding Labels" = 'No Finding' THEN []::VARCHAR[]
               ELSE string_split("Finding Labels", '|') END AS findings,
          coalesce("Patient Sex", "Patient Gender") AS sex,
          "View Position" AS view,
          -- "058Y", "011M" and "006D" in early copies of the table, a bare number of years later
          number(regexp_extract("Patient Age", '^(\d+)[YMD]?$', 1))
            / CASE right("Patient Age", 1) WHEN 'M' THEN 12 WHEN 'D' THEN 365.25 ELSE 1 END AS age,
          parts.split AS split,
          boxes.boxes AS boxes
        FROM entries
        LEFT JOIN (SELECT name, min(path) AS path FROM present GROUP BY name) there
          ON there.name = "Image Index"
        LEFT JOIN parts ON parts.film = "Image Index"
        LEFT JOIN boxes ON boxes.film = "Image Index"
        """
    )
    database.drop("findings IS NULL", "no label")
    database.drop(
        "list_contains(findings, 'No Finding')", "labelled No Finding and a finding at once"
    )
    database.drop("view IS NULL OR view NOT IN ('PA', 'AP')", "neither PA nor AP")
    if database.one("SELECT count(*) FROM parts") and database.choices.split == "official":
        database.drop("split IS NULL", "in neither official list")


def _boxes(database: CohortDatabase) -> None:
    """The table boxes (film, boxes); without a row where the file is not there."""
    file = database.find_if_there("BBox_List_2017*.csv")
    if file is None:
        database.run(f"CREATE TABLE boxes (film VARCHAR, boxes {COLUMNS['boxes']})")
        return
    database.csv("drawn", file, ("Image Index", "Bbox [x", "y", "w", "h]"))
    database.run(
        """
        CREATE TABLE boxes AS SELECT "Image Index" AS film, list({
          'left': number("Bbox [x"), 'top': number(y), 'wide': number(w), 'high': number("h]"),
          'of_wide': 1024.0, 'of_high': 1024.0}) AS boxes
        FROM drawn WHERE number(w) > 0 AND number("h]") > 0 GROUP BY 1
        """
    )


def _lists(database: CohortDatabase) -> None:
    """The table parts (film, split) from the official lists, one film a line."""
    database.run("CREATE TABLE parts (film VARCHAR, split VARCHAR)")
    for name, split in LISTS.items():
        file = database.find_if_there(name)
        if file is None:
            continue
        try:
            lines = file.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{file}: cannot be read as a list of films") from None
        database.run("INSERT INTO parts SELECT unnest(?), ?", [lines, split])
    both = "SELECT film FROM parts GROUP BY 1 HAVING count(DISTINCT split) > 1"
    if count := database.one(f"SELECT count(*) FROM ({both})"):
        raise UserError(f"{database.root}: {count:,} films are in both official lists")


NIH = Publisher(
    name="nih",
    summary="ChestX-ray14 of the NIH, as downloaded: age, sex, view, boxes, official lists",
    assemble=assemble,
    official=True,
    layout=(
        "Data_Entry_2017.csv or Data_Entry_2017_v2020.csv",
        "BBox_List_2017.csv (optional)",
        "train_val_list.txt, test_list.txt (optional: without them patients are drawn)",
        "images_001/images/*.png to images_012/images/*.png, or *.png anywhere below",
    ),
    fields=("age", "sex", "view"),
)
