"""Where records come from. `SOURCES` is a plain dict: adding a dataset is one file, one line."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from nofinding.data.ehr import EhrField
from nofinding.sources.nifti import NIFTI
from nofinding.sources.phantom import PHANTOM
from nofinding.sources.table import TABLE
from nofinding.types import Record

__all__ = ["SOURCES", "Source"]


class Source(Protocol):
    """A kind of dataset: reads records from what the user wrote behind "name:"."""

    @property
    def name(self) -> str:
        """What stands before the colon: "table" in `--films table:films.csv`."""
        ...

    @property
    def summary(self) -> str:
        """One line that says what it reads."""
        ...

    def read(self, root: str, fields: Mapping[str, EhrField]) -> Iterator[Record]:
        """The records, one after the other. Raises UserError naming file, row and column."""
        ...

    def offers(self, root: str, fields: Mapping[str, EhrField]) -> tuple[str, ...]:
        """The names of the fields that this source can give, in the order of `fields`."""
        ...


SOURCES: dict[str, Source] = {source.name: source for source in (PHANTOM, TABLE, NIFTI)}
