"""A dataset in the folder that its publisher ships, as a source like any other."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nofinding.data.ehr import EhrField
from nofinding.datasets.build.choices import Choices
from nofinding.datasets.build.cohort_folder import DESCRIPTION, CohortFolder, write_table
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.finalize import complete, flow_of
from nofinding.types import Exam

__all__ = ["Publisher", "read_assembled"]


def folder_of(place: str) -> Path:
    """The folder that is written there."""
    return Path(place).expanduser()


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """The source: what stands before the colon, and how its films get into an assembly."""

    name: str
    summary: str
    assemble: Callable[[CohortDatabase], None]
    """Calls `csv`, `films`, `drop` and `remark` of the assembly; in SQL."""
    official: bool
    """Whether the publisher splits the films."""
    layout: tuple[str, ...]
    """The files that it reads, as they lie under the folder."""
    record: str = ""
    """What --record may be; empty: nothing."""
    fields: tuple[str, ...] = ()
    """The fields of the record that the source can give, if it is not told otherwise."""
    folder: Callable[[str], Path] = folder_of
    """The folder that the films lie in, of what the user wrote behind the colon."""

    def read(self, root: str, fields: Mapping[str, EhrField]) -> Iterator[Exam]:
        """The films under the default choices, which `nofinding cohort` changes.

        Puts the cohort together anew each time; a cohort folder saves that.
        """
        choices = Choices(verify="present")
        with tempfile.TemporaryDirectory() as workshop:
            folder = Path(workshop)
            (folder / "spill").mkdir()
            path, spill = self.folder(root), folder / "spill"
            with closing(
                CohortDatabase(self.name, path, fields, choices, spill, place=root)
            ) as database:
                self.assemble(database)
                complete(database, official=self.official)
                yield from read_assembled(database, folder)

    def offers(self, root: str, fields: Mapping[str, EhrField]) -> tuple[str, ...]:
        """The fields that the publisher ships, whether or not anything stands in them."""
        return tuple(name for name in fields if name in self.fields)


def read_assembled(database: CohortDatabase, folder: Path) -> Iterator[Exam]:
    """The records of a finished assembly, by way of a cohort in an empty folder."""
    description = write_table(database, flow_of(database), folder)
    (folder / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
    yield from CohortFolder().read(str(folder), database.fields)
