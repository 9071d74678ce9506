"""What every source is to the rest of the program."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, overload, runtime_checkable

from nofinding.data.ehr import EhrField
from nofinding.data.nearest_value import EhrWindow
from nofinding.datasets.build.flow import Remark
from nofinding.types import Exam

__all__ = ["ExamSequence", "Remarking", "Source", "StoredSource", "Windowed"]


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

    def read(self, root: str, fields: Mapping[str, EhrField]) -> Iterator[Exam]:
        """The records, one after the other. Raises UserError naming file, row and column."""
        ...

    def offers(self, root: str, fields: Mapping[str, EhrField]) -> tuple[str, ...]:
        """The names of the fields that this source can give, in the order of `fields`."""
        ...


@runtime_checkable
class StoredSource(Protocol):
    """A source whose films are kept in a table and made one by one, checked when it was written:
    no id occurs twice, no patient is in two splits, and what is listed was there."""

    def sequence(self, root: str, fields: Mapping[str, EhrField]) -> Sequence[Exam]:
        """All films by number. Raises UserError where the table is not the one written."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """A source that has something to say of a table beside its films."""

    def remarks(self, root: str, fields: Mapping[str, EhrField]) -> tuple[Remark, ...]:
        """What was noticed, and how often. Raises UserError where the table cannot be read."""
        ...


@runtime_checkable
class Windowed(Protocol):
    """A source whose films were given the values of an EHR by their times."""

    def ehr_window(self, root: str) -> EhrWindow:
        """When a value counted. Raises UserError where the source cannot be read."""
        ...


class ExamSequence(Sequence[Exam]):
    """Films by number, each made when it is asked for; of a part of them, a list is made."""

    @abstractmethod
    def exam(self, index: int) -> Exam:
        """The film of that number, from 0 to below `len`."""

    @overload
    def __getitem__(self, index: int) -> Exam: ...
    @overload
    def __getitem__(self, index: slice) -> list[Exam]: ...
    def __getitem__(self, index: int | slice) -> Exam | list[Exam]:
        if isinstance(index, slice):
            return [self.exam(i) for i in range(*index.indices(len(self)))]
        return self.exam(range(len(self))[index])
