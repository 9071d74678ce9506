"""What an option may be: declared beside its type, and checked here.

steps: Annotated[int, Range(1)] = 1000
ema: Annotated[float, Range(0, below=1)] = 0.9999
image_size: Annotated[int, Range(64, multiple=32)] = 224
kinds: Annotated[tuple[str, ...], Names("blob", "line")] = ("blob",)
"""

import math
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any

from nofinding.errors import UserError

__all__ = ["Checked", "Names", "Range", "range_of", "require_ranges"]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both allowed; or above and below a number that is not; of a
    list each one, and `count` of them."""

    low: float = -math.inf
    high: float = math.inf
    above: float | None = None
    below: float | None = None
    multiple: int = 1
    count: int | None = None

    def __contains__(self, value: float) -> bool:
        inside = self.low <= value <= self.high
        inside = inside and (self.multiple == 1 or value % self.multiple == 0)
        inside = inside and (self.above is None or value > self.above)
        return inside and (self.below is None or value < self.below)

    def __str__(self) -> str:
        """What to give: "1 to 4096", "1 or more", "above 0", "0 or more and below 1", "a multiple
        of 32, 64 or more"."""
        if self.multiple > 1:
            more = str(Range(self.low, self.high, self.above, self.below))
            least = self.low in (0, 1, self.multiple) and self.high == math.inf
            return f"a multiple of {self.multiple}" + ("" if least else f", {more}")
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
        numbers = _listed(value)
        for number in numbers:
            if number is not None and number not in self:
                raise UserError(f"{name} {_plain(number)}: give {self}")
        if numbers is value and len(numbers) != (self.count or len(numbers) or 1):
            shown = ", ".join(map(_plain, numbers)) or "(none)"
            raise UserError(f"{name} {shown}: give {self.count or '1 or more'} numbers, {self}")


class Names:
    """Words that there are; of a list each one, and at least one."""

    def __init__(self, *names: str | int) -> None:
        self.names = names

    def __str__(self) -> str:
        """What to give."""
        return ", ".join(map(str, self.names))

    def require(self, name: str, value: Any) -> None:
        """Raises UserError where the word, or one of a list, is none of them."""
        words = _listed(value)
        wrong = next((word for word in words if word not in self.names), None)
        if wrong is not None or not words:
            some = "some" if words is value else "one"
            raise UserError(f"{name} {wrong or '(none)'}: give {some} of {self}")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Options that are what is declared of them, or are never made."""

    def __post_init__(self) -> None:
        require_ranges(self)


def range_of(hint: Any) -> Range | Names | None:
    """What is declared beside a type, or none."""
    if typing.get_origin(hint) is not typing.Annotated:
        return None
    return next((part for part in typing.get_args(hint) if isinstance(part, Range | Names)), None)


def require_ranges(options: Any, *, typed: bool = False) -> None:
    """Raises UserError where a field of a dataclass is out of its range.

    `typed`: the fields are options of a command, and are named as one types them, --batch-size.
    """
    for name, allowed in _ranges(type(options)).items():  # type: ignore[arg-type]
        shown = f"--{name.replace('_', '-')}" if typed else name
        allowed.require(shown, getattr(options, name))


@cache
def _ranges(cls: type) -> dict[str, Range | Names]:
    """What is declared of its fields, words of a Literal among it; a field that only gives another
    default keeps the range."""
    ranges: dict[str, Range | Names] = {}
    for one in reversed(cls.__mro__[:-1]):
        for name, hint in typing.get_type_hints(one, include_extras=True).items():
            if (allowed := range_of(hint)) is not None:
                ranges[name] = allowed
            elif typing.get_origin(hint) is typing.Literal:
                ranges[name] = Names(*typing.get_args(hint))
    return ranges


def _listed(value: Any) -> Any:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
