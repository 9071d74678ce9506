"""`chexpert:FOLDER`: CheXpert as Stanford ships it (Irvin et al., AAAI 2019).

224,316 films of 65,240 patients, JPEG, labels by text mining (train) and by radiologists (valid).
Reads train.csv and valid.csv of CheXpert-v1.0 and CheXpert-v1.0-small, wherever below the folder
they lie, and the labels of the test set (test_labels.csv, published in 2022) where they are. The
films are found by patient, study and view, so that the batches of the full download are read, too.
"""

from pathlib import Path

from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.publisher import Publisher
from nofinding.errors import UserError

__all__ = ["CHEXPERT"]

LABELS = ("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
          "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
          "Pleural Other", "Fracture", "Support Devices")  # fmt: skip
RECORD = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
NAMED = r"(patient\d+)/(study\d+)/(view\d+_(?:frontal|lateral))\.[A-Za-z]+$"
DEVICES = "Support Devices"  # a film with devices and nothing else is No Finding by the publisher
UNNAMED = "Finding without a label"


def assemble(database: CohortDatabase) -> None:
    """The frontal films, with labels, age, sex, view and the official split."""
    database.list_files()
    _tables(database)
    _labels(database)
    database.films(
        f"""
        WITH there AS (
          SELECT regexp_replace(regexp_extract(path, '{NAMED}'), '\\.[A-Za-z]+$', '') AS tail,
            min(path) AS path
          FROM present GROUP BY 1)
        SELECT nullif(concat_ws('_', named.patient, named.study, named.view), '__') AS image_id,
          nullif(named.patient, '') AS patient_id,
          nullif(concat_ws('_', named.patient, named.study), '_') AS study_id,
          -- a path that leads out stays as it is, to be counted as such
          CASE WHEN regexp_matches(judged."Path", '^/|(^|/)\\.\\.(/|$)') THEN judged."Path"
            ELSE there.path END AS path,
          judged.split AS split,
          findings,
          sex_of("Sex") AS sex,
          nullif(number("Age"), 0) AS age,
          -- the test set's table says nothing of the view but in the film's name
          CASE WHEN ends_with(named.view, 'lateral') OR "Frontal/Lateral" = 'Lateral' THEN 'lateral'
            WHEN "Frontal/Lateral" IS NULL THEN coalesce("AP/PA", 'unstated')
            ELSE "AP/PA" END AS view,
          list_filter([kind,
            CASE WHEN "Sex" IS NOT NULL AND sex_of("Sex") IS NULL
              THEN 'sex: stated as unknown' END,
            CASE WHEN number("Age") = 0 THEN 'age: 0 stands for unknown' END,
            CASE WHEN number("Age") >= 90 THEN 'age: 90 stands for 90 and above' END,
            CASE WHEN devices AND kind = 'normal' THEN 'devices' END
          ], lambda flag: flag IS NOT NULL) AS flags
        FROM judged LEFT JOIN there
          ON there.tail = concat_ws('/', named.patient, named.study, named.view)
        """
    )
    database.drop("view = 'lateral'", "not frontal")
    database.drop("view IS NULL OR view NOT IN ('PA', 'AP', 'unstated')", "neither PA nor AP")
    database.run("UPDATE films SET view = NULL WHERE view = 'unstated'")
    _decide(database)


def _tables(database: CohortDatabase) -> None:
    """The table entries: all rows of train, valid and, where it is, test, with their split."""
    train = _only(database, "train.csv", "*/train.csv", "*/*/train.csv")
    valid = database.find("valid.csv", under=train.parent, what="it lies beside train.csv")
    known = "train.csv and valid.csv of CheXpert-v1.0 and CheXpert-v1.0-small have it"
    needs = ("Path", "No Finding", *LABELS)
    database.csv("train", train, (*needs, *RECORD), versions=known)
    database.csv("valid", valid, (*needs, *RECORD), versions=known)
    test = database.find_if_there(
        *(f"{where}{name}" for name in ("test_labels.csv", "groundtruth.csv")
          for where in ("", "*/", "*/*/"))
    )  # fmt: skip
    parts = [("train", "train"), ("valid", "test" if test is None else "val")]
    if test is not None:
        _test_labels(database, test)
        parts.append(("test", "test"))
    rows = " UNION ALL ".join(
        f"""SELECT * REPLACE (replace("Path", '\\', '/') AS "Path"), '{split}' AS split
        FROM {name}"""
        for name, split in parts
    )
    database.run(f"CREATE TABLE entries AS {rows}")
    if test is not None:
        database.remark("films of valid.csv, which is val since the test set's labels are here",
                        database.one("SELECT count(*) FROM valid"))  # fmt: skip


def _test_labels(database: CohortDatabase, file: Path) -> None:
    """The table test: a row a film, by column Path; or by column Study, a row a study, whose labels
    count for each film of it that is here. A study without one has a row, to be counted."""
    labels = ("No Finding", *LABELS)
    titles = {title.casefold() for title in database.titles(file)}
    known = "the test set's labels have it"
    if "path" in titles or "study" not in titles:
        database.csv("test", file, ("Path", *labels), also=RECORD, versions=known)
        return
    database.csv("studies", file, ("Study", *labels), also=RECORD, versions=known)
    study = r"(patient\d+/study\d+)"
    database.run(
        f"""
        CREATE TABLE test AS SELECT coalesce(path, "Study" || '/view1_frontal.jpg') AS "Path",
          * EXCLUDE ("Study", place, path)
        FROM (SELECT *, regexp_extract(replace("Study", '\\', '/'), '{study}', 1) AS place
              FROM studies)
        LEFT JOIN (SELECT regexp_extract(path, '{study}/view\\d+_[a-z]+[.][A-Za-z]+$', 1) AS place,
                     regexp_extract(path, '{study}/view.*$') AS path
                   FROM present GROUP BY ALL) here USING (place)
        """
    )


def _only(database: CohortDatabase, *patterns: str) -> Path:
    """The one file of the patterns. Raises UserError for none, and for two copies."""
    first = database.find(*patterns, what="the folder of CheXpert-v1.0(-small), or the one above")
    every = {file for pattern in patterns for file in database.root.glob(pattern)}
    if len(every) > 1:
        one, two, *_ = sorted(str(file.parent) for file in every)
        raise UserError(f"{database.root}: holds two copies, {one} and {two}; name one")
    return first


def _labels(database: CohortDatabase) -> None:
    """The table judged: entries with what their labels mean under --uncertain.

    kind is normal, abnormal, both (No Finding and a finding), uncertain, nothing (neither stated),
    or odd (a label other than 1, 0, -1 and empty).
    """
    every = ", ".join(f"'{name}': number(\"{name}\")" for name in LABELS)
    odd = " OR ".join(
        f'("{name}" IS NOT NULL AND coalesce(number("{name}") NOT IN (1, 0, -1), true))'
        for name in ("No Finding", *LABELS)
    )
    listed = ", ".join(
        f"CASE WHEN labels.\"{name}\" = {{0}} THEN '{name}' END" for name in LABELS
    )  # the names of the labels that have one value
    positive, uncertain = (f"list_filter([{listed.format(v)}], lambda n: n IS NOT NULL)"
                           for v in (1, -1))  # fmt: skip
    policy = database.choices.uncertain
    database.run(
        f"""
        CREATE TABLE judged AS
        WITH stated AS (
          SELECT *, {{{every}}} AS labels, number("No Finding") AS none, {odd} AS odd,
            regexp_extract("Path", '{NAMED}', ['patient', 'study', 'view']) AS named
          FROM entries),
        told AS (SELECT *, {positive} AS positive, {uncertain} AS uncertain FROM stated),
        taken AS (
          SELECT * EXCLUDE (positive, uncertain),
            {"list_concat(positive, uncertain)" if policy == "positive" else "positive"} AS found,
            {"uncertain" if policy in ("drop", "unlabelled") else "[]::VARCHAR[]"} AS doubted,
            len(uncertain) > 0 AS was_doubted
          FROM told)
        SELECT * EXCLUDE (found, doubted), list_contains(found, '{DEVICES}') AS devices,
          CASE WHEN odd THEN 'odd'
            WHEN none = 1 AND len(list_filter(found, lambda n: n != '{DEVICES}')) > 0 THEN 'both'
            WHEN none = -1
              OR (none = 1 AND len(list_filter(doubted, lambda n: n != '{DEVICES}')) > 0)
              THEN 'uncertain'
            WHEN none = 1 THEN 'normal'
            WHEN len(found) > 0 THEN 'abnormal'
            WHEN len(doubted) > 0 THEN 'uncertain'
            WHEN {"was_doubted" if policy == "negative" else "false"} THEN 'normal'
            WHEN none = 0 THEN 'abnormal'
            ELSE 'nothing' END AS kind,
          CASE kind WHEN 'normal' THEN [] WHEN 'abnormal' THEN
            CASE WHEN len(found) > 0 THEN found ELSE ['{UNNAMED}'] END END AS findings
        FROM taken
        """
    )


def _decide(database: CohortDatabase) -> None:
    """Leaves out by label, and takes the notes that were for this file out of the flags."""
    for kind, reason in (
        ("odd", "a label other than 1, 0, -1 and empty"),
        ("both", "labelled No Finding and a finding at once"),
        ("nothing", "labelled neither No Finding nor a finding"),
    ):
        database.drop("list_contains(flags, ?)", reason, [kind])
    if database.choices.uncertain == "unlabelled":
        database.remark("films with uncertain labels, kept without a label",
                        _flagged(database, "uncertain"))  # fmt: skip
    else:
        database.drop("list_contains(flags, 'uncertain')", "labels uncertain")
    database.remark("normal films with support devices, which the publisher calls No Finding",
                    _flagged(database, "devices"))  # fmt: skip
    database.remark("sex stated as unknown, missing", _flagged(database, "sex: stated as unknown"))
    database.remark("age 0, which stands for unknown, set to missing",
                    _flagged(database, "age: 0 stands for unknown"))  # fmt: skip
    database.remark("age 90, which stands for 90 and above",
                    _flagged(database, "age: 90 stands for 90 and above"))  # fmt: skip
    database.run("UPDATE films SET flags = list_filter(flags, lambda flag: contains(flag, ':'))")


def _flagged(database: CohortDatabase, flag: str) -> int:
    return int(database.one("SELECT count(*) FROM films WHERE list_contains(flags, ?)", [flag]))


CHEXPERT = Publisher(
    name="chexpert",
    summary="CheXpert of Stanford, full or small, as downloaded: age, sex, view, official split",
    assemble=assemble,
    official=True,
    layout=(
        "CheXpert-v1.0-small/train.csv, CheXpert-v1.0-small/valid.csv, or in the folder itself",
        "test_labels.csv (optional: valid.csv is test without it, and val with it)",
        "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg, and so on; or the "
        "batches of the full download",
    ),
    fields=("age", "sex", "view"),
)
