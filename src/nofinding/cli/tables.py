"""Tables on the terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nofinding.storage.file_names import printed

__all__ = ["print_table"]


def print_table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]], title: str = "") -> None:
    """Prints a table. A bracket in a cell, of a film's name, is no markup."""
    table = Table(*titles, title=title or None, title_justify="left", box=None)
    for row in rows:
        table.add_row(*(Text(printed(cell)) for cell in row))
    Console().print(table)
