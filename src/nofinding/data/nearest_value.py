"""Which value of an EHR is a film's: of each field the nearest one inside a window of days.

One rule, written twice side by side: in SQL for a cohort, where millions of readings stream past,
and in Python for the film that is being scored. tests/data/test_nearest_value.py holds them equal.

A value counts if its day is at most `days` from the film's and, where the direction is "before",
it is not from after the film. Of those that count the least by these is taken:

1. days from the film: whole ones between two times, else between two dates;
2. a value with a time before one without;
3. the time from the film; one before the film before one after it;
4. the source's own preference (MIMIC-IV: a result with a unit, a seated pressure, ...);
5. the source's own order within a day (MIMIC-IV's seq_num), nearest to the film: the last of a day
   before it, the first of its own day or of a later one.

Values that are equal in all of this are one, their median. Times are those of the film's clock. A
clock at midnight is a day without a time, and a film without a time counts as taken at the end of
its day.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias

from nofinding.ranges import Range, require_ranges

__all__ = ["CHOICE", "COUNTS", "LATER", "Days", "Direction", "EhrWindow", "Nearest", "Reading",
           "is_later", "nearest"]  # fmt: skip

Direction: TypeAlias = Literal["around", "before"]
Days: TypeAlias = Annotated[int, Range(0, 3650)]
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EhrWindow:
    """When a value of the EHR counts for a film: stored with a cohort, and with its models."""

    days: Days = 90
    """At most this many days from the film."""
    direction: Direction = "around"
    """around: before or after the film; before: never from after it."""

    def __post_init__(self) -> None:
        require_ranges(self)

    def __str__(self) -> str:
        return f"{self.days} day{'' if self.days == 1 else 's'} {self.direction} the film"

    def holds(self, at: datetime, taken: datetime) -> bool:
        """Whether a value of that time counts for a film of that time."""
        near = abs((at.date() - taken.date()).days) <= self.days
        return near and not (self.direction == "before" and is_later(at, taken))

    def to_json(self) -> dict[str, Any]:
        """What is written of it."""
        return {"days": self.days, "direction": self.direction}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave. Raises LookupError, TypeError or UserError for anything else."""
        return cls(days=data["days"], direction=data["direction"])


class Reading(NamedTuple):
    """A value in its field's unit, and when it was measured."""

    at: datetime
    value: float


class Nearest(NamedTuple):
    """The value of a film, and how many days it is from it; negative: from after it."""

    value: float
    days: int


# --- in Python -------------------------------------------------------------------------------


def has_time(at: datetime) -> bool:
    """Whether it is more than a day."""
    return at.time() != time.min


def is_later(at: datetime, taken: datetime) -> bool:
    """Whether a value is from after the film, as far as that is known."""
    if has_time(at) and has_time(taken):
        return at > taken
    return at.date() > taken.date()


def distance(at: datetime, taken: datetime) -> tuple[int, bool, timedelta, bool]:
    """By what values are compared; the least is the nearest."""
    both = has_time(at) and has_time(taken)
    film = taken if has_time(taken) else taken + DAY
    apart = abs(film - at) if has_time(at) else timedelta()
    days = apart // DAY if both else abs((taken.date() - at.date()).days)
    return days, not has_time(at), apart, is_later(at, taken)


def nearest(readings: Iterable[Reading], taken: datetime, window: EhrWindow) -> Nearest | None:
    """The value of one field that is a film's; None where none counts."""
    near = [one for one in readings if window.holds(one.at, taken)]
    if not near:
        return None
    least = min(distance(one.at, taken) for one in near)
    equal = [one for one in near if distance(one.at, taken) == least]
    days = (taken.date() - equal[0].at.date()).days
    return Nearest(float(median(one.value for one in equal)), days)


# --- in SQL ----------------------------------------------------------------------------------
# Of readings (noted, preference, seq, value, second) and films (taken).

_TIMED = "noted::TIME != '00:00:00'"
_BOTH = f"({_TIMED} AND taken::TIME != '00:00:00')"
_FILM = "CASE WHEN taken::TIME != '00:00:00' THEN taken ELSE taken + INTERVAL 1 DAY END"
_APART = f"abs(epoch_us({_FILM}) - epoch_us(noted))"

LATER = f"(CASE WHEN {_BOTH} THEN noted > taken ELSE noted::DATE > taken::DATE END)"
"""Whether a value is from after the film."""

COUNTS = f"(abs(taken::DATE - noted::DATE) <= ? AND NOT (? = 'before' AND {LATER}))"
"""Whether a value counts; the parameters are the window's days and direction."""

# Compared from left to right; the least is taken.
CHOICE = f"""{{
  'days': CASE WHEN {_BOTH} THEN {_APART} // 86400000000 ELSE abs(taken::DATE - noted::DATE) END,
  'dated': CASE WHEN {_TIMED} THEN 0 ELSE 1 END,
  'apart': CASE WHEN {_TIMED} THEN {_APART} ELSE 0 END,
  'later': {LATER},
  'preference': preference,
  'turn': CASE WHEN noted::DATE < taken::DATE THEN -seq ELSE seq END,
  'value': value, 'second': second}}"""
"""What a reading is compared by, and its value."""
