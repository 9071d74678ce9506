"""Who is in a cohort and who was left out, why, in which order: the data of a flow diagram."""

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any

from nofinding.errors import UserError

__all__ = ["FieldRow", "Flow", "Part", "Remark", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Films left out for one reason."""

    reason: str
    films: int
    patients: int
    """Of whom no film is left thereby."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The films of one split."""

    split: str
    """train, val or test; "none" where a film is in no split."""
    patients: int
    normal: int
    abnormal: int
    unlabelled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something that was changed or noticed without leaving a film out, and how often."""

    what: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRow:
    """One field of the record in one split."""

    field: str
    unit: str
    split: str
    films: int
    known: int
    unusable: int
    """Films of which a value was stated and set to missing: out of range, or contradicted."""
    mean: float | None
    """Of a number, in `unit`; None where nothing is known, or of a category."""
    sd: float | None
    """Population standard deviation."""
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of a category: the share of each value among those known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """From what the publisher lists to the films of the cohort."""

    source: str
    films: int
    """That the publisher's tables list."""
    patients: int
    steps: tuple[Step, ...]
    parts: tuple[Part, ...]
    remarks: tuple[Remark, ...]
    record: tuple[FieldRow, ...]

    @property
    def left(self) -> int:
        """How many films are in the cohort."""
        return self.films - sum(step.films for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Flow":
        """What `to_json` gave. Raises UserError where it could not have."""
        try:
            return cls(
                source=str(data["source"]),
                films=int(data["films"]),
                patients=int(data["patients"]),
                steps=tuple(Step(**step) for step in data["steps"]),
                parts=tuple(Part(**part) for part in data["parts"]),
                remarks=tuple(Remark(**remark) for remark in data["remarks"]),
                record=tuple(FieldRow(**row) for row in data["record"]),
            )
        except (KeyError, TypeError, ValueError):
            raise UserError("the cohort's flow is damaged") from None
