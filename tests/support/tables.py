"""Writing the tables that tests feed to the program."""

import csv
from pathlib import Path

COLUMNS = ["image_id", "path", "patient_id", "sex", "age", "view", "bmi", "findings", "split"]
Rows = list[dict[str, str]]


def write_table(path: Path, rows: Rows, columns: list[str] = COLUMNS) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return f"table:{path}"
