"""One rule for every element of a DICOM header: an optional one that cannot be read counts as
absent, and is named; a needed one is refused, and named with its value's kind.

pydicom raises for some damaged values and turns others into text ("1,75" for a decimal string);
here both are unreadable.
"""

import math
from typing import Any

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

from nofinding.data.decoding.limits import FilmError, unusable

__all__ = ["Elements", "printable"]


class Elements:
    """The elements of a header, and which optional ones could not be read."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.unreadable: dict[str, None] = {}
        """Keywords, in the order in which they were asked for."""

    @property
    def flags(self) -> tuple[str, ...]:
        """A flag for each element that could not be read."""
        return tuple(map(unusable, self.unreadable))

    def value(self, keyword: str) -> Any:
        """What the element says; None where it is absent, empty or cannot be read."""
        try:
            value = self.dataset.get(keyword)
        except Exception:  # whatever pydicom meets in a damaged value
            self.unreadable[keyword] = None
            return None
        empty = value is None or (isinstance(value, str | bytes | list | MultiValue) and not value)
        return None if empty else value

    def number(self, keyword: str) -> float | None:
        """The first value of a number; None where there is none that is finite."""
        value = _first(self.value(keyword))
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            self.unreadable[keyword] = None
            return None
        return number

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """All values of a number; none where one of them is none."""
        value = self.value(keyword)
        many = value if isinstance(value, list | MultiValue) else [] if value is None else [value]
        try:
            numbers = tuple(float(one) for one in many)
        except (TypeError, ValueError, OverflowError):
            numbers = (math.nan,)
        if not all(map(math.isfinite, numbers)):
            self.unreadable[keyword] = None
            return ()
        return numbers

    def needed(self, keyword: str, otherwise: int | None = None) -> int:
        """A whole number without which there is no picture; `otherwise` where it is not stated.

        Raises FilmError where it is no whole number, or is absent and nothing stands for it.
        """
        number = self.number(keyword)
        if number is None and keyword not in self.unreadable:
            if otherwise is None:
                raise FilmError(f"has no {keyword}")
            return otherwise
        if number is None or number != int(number):
            raise FilmError(f"has a {keyword} that is no whole number")
        return int(number)

    def text(self, keyword: str) -> str:
        """The value, or several joined by a backslash, without blanks around it and characters
        that do not print, at most 64 of them; "" where there is none."""
        value = self.value(keyword)
        many = value if isinstance(value, list | MultiValue) else [value]
        return printable("\\".join("" if one is None else str(one) for one in many))

    def items(self, keyword: str) -> list[Dataset]:
        """The items of a sequence; none where it is no sequence."""
        value = self.value(keyword)
        if value is None:
            return []
        try:
            items = [item for item in value if isinstance(item, Dataset)]
        except Exception:
            items = []
        if not items:
            self.unreadable[keyword] = None
        return items

    def element(self, keyword: str) -> Any:
        """The element itself; None where it is absent or cannot be read."""
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in self.dataset:
            return None
        try:
            return self.dataset[tag]
        except Exception:
            self.unreadable[keyword] = None
            return None


def printable(text: str) -> str:
    """The text without characters that do not print and blanks around it, at most 64 of them."""
    return "".join(c for c in text if c.isprintable()).strip()[:64].strip()


def _first(value: Any) -> Any:
    if isinstance(value, list | MultiValue):
        return value[0] if value else None
    return value
