"""What numbers an option may take: declared beside its type, and checked here.

steps: Annotated[int, Range(1)] = 1000
ema: Annotated[float, Range(0, below=1)] = 0.9999
"""

import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from nofinding.errors import UserError

__all__ = ["Range", "range_of", "require_ranges"]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both allowed; or above and below a number that is not."""

    low: float = -math.inf
    high: float = math.inf
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        inside = self.low <= value <= self.high
        inside = inside and (self.above is None or value > self.above)
        return inside and (self.below is None or value < self.below)

    def __str__(self) -> str:
        """What to give: "1 to 4096", "1 or more", "above 0", "0 or more and below 1"."""
        if self.low > -math.inf and self.high < math.inf:
            return f"{_plain(self.low)} to {_plain(self.high)}"
        parts = []
        if self.above is not None:
            parts.append(f"above {_plain(self.above)}")
        if self.low > -math.inf:
            parts.append(f"{_plain(self.low)} or more")
        if self.below is not None:
            parts.append(f"below {_plain(self.below)}")
        if self.high < math.inf:
            parts.append(f"up to {_plain(self.high)}" if parts else f"{_plain(self.high)} or less")
        return " and ".join(parts)

    def require(self, name: str, value: Any) -> None:
        """Raises UserError where the number, or one of a list, is not in the range."""
        several = isinstance(value, Iterable) and not isinstance(value, str)
        for number in value if several else (value,):
            if number is not None and number not in self:
                raise UserError(f"{name} {_plain(number)}: give {self}")


def range_of(hint: Any) -> Range | None:
    """The range beside a type, or none."""
    if typing.get_origin(hint) is not typing.Annotated:
        return None
    return next((part for part in typing.get_args(hint) if isinstance(part, Range)), None)


def require_ranges(options: Any, *, typed: bool = False) -> None:
    """Raises UserError where a field of a dataclass is out of its range.

    `typed`: the fields are options of a command, and are named as one types them, --batch-size.
    """
    for name, allowed in _ranges(type(options)).items():  # type: ignore[arg-type]
        shown = f"--{name.replace('_', '-')}" if typed else name
        allowed.require(shown, getattr(options, name))


@cache
def _ranges(cls: type) -> dict[str, Range]:
    """The ranges of its fields; one that only gives another default keeps the range."""
    ranges: dict[str, Range] = {}
    for one in reversed(cls.__mro__[:-1]):
        for name, hint in typing.get_type_hints(one, include_extras=True).items():
            if (allowed := range_of(hint)) is not None:
                ranges[name] = allowed
    return ranges


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
