"""The rows of a CSV or Parquet table as texts, with the numbers that a spreadsheet shows."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nofinding.datasets.build.column_titles import require_commas
from nofinding.errors import UserError

if TYPE_CHECKING:  # a CSV table needs no Arrow, and a single film no table
    import pyarrow.parquet as pq

__all__ = ["list_columns", "read_header", "read_rows"]


def read_header(file: Path) -> list[str]:
    """The titles of the columns. Raises UserError where the file is absent or no table."""
    if file.suffix.lower() == ".parquet":
        with _parquet(file) as table:
            return list(table.schema_arrow.names)
    titles = next(_csv(file))[1]
    require_commas(file, titles)
    return titles


def list_columns(file: Path) -> frozenset[str]:
    """The columns of a Parquet table whose cells are lists; a CSV table has none."""
    if file.suffix.lower() != ".parquet":
        return frozenset()
    import pyarrow as pa

    with _parquet(file) as table:
        schema = table.schema_arrow
        return frozenset(
            field.name for field in schema
            if pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
        )  # fmt: skip


def read_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells) of every row below the titles, which are row 1. Empty rows are skipped.

    Raises UserError for a row with more or fewer cells than there are titles.
    """
    if file.suffix.lower() == ".parquet":
        yield from _parquet_rows(file)
        return
    rows = _csv(file)
    _, titles = next(rows)
    for row, cells in rows:
        if len(cells) != len(titles):
            raise UserError(f"{file}: row {row} has {len(cells)} cells, not {len(titles)}")
        yield row, cells


def _csv(file: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            empty = True
            for row, cells in enumerate(csv.reader(lines, strict=True), start=1):
                if cells:
                    empty = False
                    yield row, cells
    except FileNotFoundError:
        raise UserError(f"{file}: does not exist") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError):
        raise UserError(f"{file}: is not a CSV file (UTF-8, separated by commas)") from None
    if empty:
        raise UserError(f"{file}: is empty")


@contextmanager
def _parquet(file: Path) -> Iterator["pq.ParquetFile"]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stream = file.open("rb")  # a name that is not UTF-8 is none to Arrow
    except FileNotFoundError:
        raise UserError(f"{file}: does not exist") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    with stream:
        try:
            table = pq.ParquetFile(stream)
        except (pa.ArrowException, OSError):
            raise UserError(f"{file}: is not a Parquet file") from None
        with table:
            yield table


def _parquet_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    import pyarrow as pa

    row = 1
    with _parquet(file) as table:
        try:
            for batch in table.iter_batches(batch_size=4096):
                for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    row += 1
                    yield row, ["" if cell is None else str(cell) for cell in cells]
        except (pa.ArrowException, OSError):
            raise UserError(f"{file}: is damaged at about row {row + 1}") from None
