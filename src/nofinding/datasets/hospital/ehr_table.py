"""A table as the record of films that lie elsewhere: `--record table.csv`, or Parquet.

It has one of the columns image_id, study_id, patient_id (the finest one counts): the pseudonym,
or the id as the films have it. Further columns are fields of the record, with their units as in
`table:` ("height [in]"), and `findings`, joined by "|", where empty or "No Finding" is normal.
With patient_id and `taken`, a number counts for the films within --window days, the nearest one;
`findings` count for the films of the same day alone.
"""

from collections.abc import Sequence
from pathlib import Path

from nofinding.data.ehr import NUMBER_AND_UNIT, EhrField, convert
from nofinding.datasets.build.column_titles import Titles, read_titles
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.ehr_linkage import (
    convert_readings,
    start_record,
    take_nearest,
    take_people,
)
from nofinding.datasets.build.rows import list_columns, read_header
from nofinding.errors import UserError

__all__ = ["take_table"]

KEYS = {"image_id": "film", "study_id": "study", "patient_id": "patient"}
NUMBER = rf"^\s*{NUMBER_AND_UNIT.replace('LETTER', chr(92) + 'pL')}\s*$"


def take_table(database: CohortDatabase, file: Path) -> None:
    """Gives the films what the table says of them, before what they brought along themselves.

    Raises UserError where the file is no table, has no id, or a column has an impossible unit.
    """
    written, titles = _titles(database, file)
    names = [name for name, _ in titles.columns if name]
    key = next((key for key in KEYS if key in names), None)
    if key is None:
        raise UserError(f"{file}: has none of the columns {', '.join(KEYS)}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{file}: two columns are called {twice!r}")
    column = {name: written[place] for place, (name, _) in enumerate(titles.columns) if name}
    units = dict(titles.columns)
    for remark in titles.remarks:
        database.remark(f"{file.name}: {remark.what}", remark.count)
    _view(database, file, [*column.values()])
    at = f'moment("{column["taken"]}")' if key == "patient_id" and "taken" in column else None
    database.run(
        f"""
        CREATE OR REPLACE TABLE told AS SELECT *, {at or "NULL::TIMESTAMP"} AS told_at,
          CASE WHEN trim("{column[key]}") IN (SELECT {key} FROM films) THEN trim("{column[key]}")
          ELSE pseudonym('{KEYS[key]}', "{column[key]}") END AS told_of
        FROM record_table
        """
    )
    if at is not None:
        undated = database.one("SELECT count(*) FROM told WHERE told_at IS NULL")
        database.remark("rows of the record table without a date, not used", undated)
        database.run("DELETE FROM told WHERE told_at IS NULL")
    database.remark(
        "rows of the record table that are of none of the films",
        database.one(f"SELECT count(*) FROM told WHERE told_of NOT IN (SELECT {key} FROM films)"),
    )
    _numbers(database, file, column, units, at is not None, key)
    _texts(database, column, key)
    if "findings" in column:
        title = column["findings"]
        _findings(database, title, key, same_day=at is not None, lists=title in list_columns(file))


def _titles(database: CohortDatabase, file: Path) -> tuple[list[str], Titles]:
    """The titles as they are written, and what they mean."""
    parquet = file.suffix.lower() == ".parquet"
    written = [*(read_header(file) if parquet else database.titles(file))]
    written = [title for title in written if '"' not in title]
    return written, read_titles(written, (*KEYS, "taken", "findings", *database.fields))


def _view(database: CohortDatabase, file: Path, titles: Sequence[str]) -> None:
    """The table as the view record_table, all text."""
    if file.suffix.lower() != ".parquet":
        database.csv("record_table", file, titles)
        return
    lists = list_columns(file)
    cells = ", ".join(
        f"""array_to_string("{title}", '|') AS "{title}\"""" if title in lists
        else f'stated(CAST("{title}" AS VARCHAR)) AS "{title}"'
        for title in titles
    )  # fmt: skip
    quoted = database.reachable(file).replace("'", "''")
    database.run(f"CREATE VIEW record_table AS SELECT {cells} FROM read_parquet('{quoted}')")


def _numbers(
    database: CohortDatabase, file: Path, column: dict[str, str], units: dict[str, str | None],
    dated: bool, key: str,
) -> None:  # fmt: skip
    start_record(database)
    fields: list[EhrField] = []
    for name, title in column.items():
        unit, field = units[name], database.fields.get(name)
        if field is None or field.kind != "numeric":
            continue
        try:
            convert(0, unit or field.unit, field)
        except UserError as error:
            raise UserError(f"{file}: column {title!r}: {error}") from None
        fields.append(field)
        database.run(
            f"""
            INSERT INTO readings SELECT told_of, ?, told_at,
              number(regexp_extract("{title}", ?, 1)),
              coalesce(nullif(trim(regexp_extract("{title}", ?, 2)), ''), ?)
            FROM told WHERE NOT missing("{title}")
            """,
            [name, NUMBER, NUMBER, unit or field.unit],
        )
    database.offered |= {field.name for field in fields}
    convert_readings(database)
    if dated:
        database.run("INSERT INTO aliases SELECT DISTINCT told_of, told_of FROM told")
        take_people(database)
        take_nearest(database)
        return
    for field in fields:
        of = f"SELECT patient, value FROM singly WHERE field = '{field.name}'"
        _only_one(database, field.name, key, of)


def _only_one(database: CohortDatabase, column: str, key: str, of: str) -> None:
    """Fills a column of the films with what all rows of one key agree in, and counts those that
    do not. `of` is a SELECT of (patient, value), where patient is what the key says."""
    database.run(
        "CREATE OR REPLACE TABLE agreed AS SELECT patient, min(value) AS value, "
        f"count(DISTINCT value) AS many FROM ({of}) WHERE value IS NOT NULL GROUP BY 1"
    )
    database.remark(
        f"{column}: the record table has two values for one {key}, not used",
        database.one("SELECT count(*) FROM agreed WHERE many > 1"),
    )
    database.run(
        f'UPDATE films SET "{column}" = agreed.value FROM agreed '
        f"WHERE many = 1 AND agreed.patient = films.{key}"
    )


def _texts(database: CohortDatabase, column: dict[str, str], key: str) -> None:
    """The categories, which do not change with the day."""
    for field in database.fields.values():
        if field.kind != "categorical" or field.name not in column:
            continue
        database.offered.add(field.name)
        title = column[field.name]
        spelt = " ".join(
            f"WHEN lower('{category}') THEN '{category}'" for category in field.categories
        )
        other = f'trim("{title}")'
        other = f'coalesce(sex_of("{title}"), {other})' if field.name == "sex" else other
        _only_one(
            database, field.name, key,
            f'SELECT told_of AS patient, CASE lower(trim("{title}")) {spelt} '
            f'ELSE {other} END AS value FROM told WHERE NOT missing("{title}")',
        )  # fmt: skip


def _findings(
    database: CohortDatabase, title: str, key: str, *, same_day: bool, lists: bool
) -> None:  # fmt: skip
    """Findings by film, study or patient (of the same day); none where two rows disagree. In a
    column of lists nothing is no label; in one of texts it is a normal film."""
    stated = f'"{title}" IS NOT NULL' if lists else ""
    database.run(
        f"""
        CREATE OR REPLACE TABLE found AS SELECT told_of, told_at::DATE AS day,
          list_sort(list_distinct(findings_in("{title}"))) AS named,
          len(list_filter(named, lambda x: no_finding(x))) AS said_none
        FROM told {"WHERE " + stated if stated else ""}
        """
    )
    database.run(
        f"""
        UPDATE films SET findings = one.found FROM (
          SELECT told_of, day, CASE WHEN count(DISTINCT found) = 1 THEN min(found) END AS found
          FROM (SELECT told_of, day, CASE
                  WHEN said_none = 0 THEN named
                  WHEN said_none = len(named) THEN [] END AS found FROM found)
          GROUP BY ALL) one
        WHERE one.told_of = films.{key} {"AND one.day = films.taken::DATE" if same_day else ""}
        """
    )
    both = database.one("SELECT count(*) FROM found WHERE said_none > 0 AND said_none < len(named)")
    database.remark("rows of the record table with No Finding beside a finding, not used", both)
    database.remark(
        f"findings: the record table has two for one {key}, not used",
        database.one(
            "SELECT count(*) FROM (SELECT told_of FROM found GROUP BY told_of, day "
            "HAVING count(DISTINCT CASE WHEN said_none = len(named) THEN [] ELSE named END) > 1)"
        ),
    )
