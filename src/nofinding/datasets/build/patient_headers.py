"""What the headers of many DICOM films say of age, sex, view, height and weight, as a table."""

from itertools import islice
from typing import Any

import pyarrow as pa

from nofinding.data.decoding.decode import read_headers
from nofinding.data.patient_age import age_of
from nofinding.datasets.build.database import CohortDatabase

__all__ = ["count_unusable", "read_headers_of"]

ASKED = {"PatientSex": "sex", "ViewPosition": "view", "PatientSize": "height",
         "PatientWeight": "weight"}  # fmt: skip
SIZE = 2000  # films at a time


def read_headers_of(database: CohortDatabase, select: str) -> None:
    """Fills the table `headers` for the paths that a SELECT gives: path, readable, sex, view, age
    (years), height (cm), weight (kg), and flags for what a header says and cannot be used.

    Each header is read in a decoder process that may be killed; readable is false where none could
    be. PNG and JPEG have none: readable, and nothing known. A flag does not quote the header.
    """
    paths = [str(row[0]) for row in database.run(select)]
    files = [database.file(path) for path in paths]
    columns = ", ".join(f"{name} VARCHAR" for name in ("path", *ASKED.values(), "age_flag"))
    database.run(f"CREATE OR REPLACE TABLE written ({columns}, age DOUBLE, readable BOOLEAN)")
    headers = read_headers(files, database.threads)
    shown = database.progress(files, "reading headers")
    answers = zip(paths, shown, headers, strict=True)
    while rows := [*islice(answers, SIZE)]:
        table: dict[str, list[Any]] = {"path": [path for path, _, _ in rows]}
        for keyword, name in ASKED.items():
            table[name] = [(header or {}).get(keyword) for _, _, header in rows]
        ages = [age_of(header or {}) for _, _, header in rows]
        table["age_flag"] = [age.flag or None for age in ages]
        kinds = pa.schema(
            [*((n, pa.string()) for n in table), ("age", pa.float64()), ("readable", pa.bool_())]
        )
        table["age"] = [age.years for age in ages]
        table["readable"] = [header is not None for _, _, header in rows]
        database.run_with(pa.table(table, schema=kinds), "INSERT INTO written SELECT * FROM chunk")
    database.run(
        r"""
        CREATE OR REPLACE TABLE headers AS
        WITH told AS (
          SELECT path, readable,
            CASE WHEN upper(sex) IN ('F', 'M') THEN upper(sex) END AS sex,
            nullif(upper(view), '') AS view,
            age, age_flag,
            number(height) * 100 AS height,
            number(weight) AS weight,
            {'sex': sex, 'height': height, 'weight': weight} AS stated
          FROM written)
        SELECT * EXCLUDE (stated), list_filter([
          CASE WHEN stated.sex IS NOT NULL AND sex IS NULL THEN 'sex' END,
          CASE WHEN contains(age_flag, 'cannot be used') THEN 'age' END,
          CASE WHEN stated.height IS NOT NULL AND height IS NULL THEN 'height' END,
          CASE WHEN stated.weight IS NOT NULL AND weight IS NULL THEN 'weight' END
          ], lambda name: name IS NOT NULL) AS unusable,
          list_filter(list_append(list_transform(list_filter(unusable, lambda name: name != 'age'),
            lambda name: name || ': what the file''s header says cannot be used'), age_flag),
            lambda flag: flag IS NOT NULL) AS flags
        FROM told
        """
    )
    database.run("DROP TABLE written")


def count_unusable(database: CohortDatabase) -> None:
    """Remarks how often each field stood in a header of a kept film and could not be used."""
    for name in ("sex", "age", "height", "weight"):
        database.remark(
            f"{name}: what the file's header says cannot be used, missing",
            database.one(
                "SELECT count(*) FROM films JOIN headers USING (path) "
                "WHERE list_contains(unusable, ?)", [name],
            ),
        )  # fmt: skip
