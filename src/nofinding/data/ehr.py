"""The record: which fields there are, how their text is read, and how a network sees them.

A field that was not recorded is absent, never zero: `EhrStats.encode` says so in its second
array, and a method masks the token.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from nofinding.data.units import factor, same_unit
from nofinding.errors import UserError
from nofinding.storage.plain_yaml import read_yaml
from nofinding.types import Exam

__all__ = ["FIELDS", "EhrField", "EhrStats", "convert", "parse", "plausible", "read_fields"]

# Ways of writing "not recorded", whatever the case: by pandas, R, SQL dumps and spreadsheets.
MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "<na>", "nat", "null", "none", "\\n"})
# Words for the categories of the field sex.
SEXES = {"m": "M", "male": "M", "man": "M", "f": "F", "female": "F", "woman": "F"}
RESERVED = frozenset({"image_id", "path", "patient_id", "findings", "split", "mask", "taken"})
# A number, and a unit that looks like one ("kg/m2", "10*3/uL"): what follows in "63,5", "60-69" or
# 5'10" is none. LETTER is a class of its own in each dialect of regular expressions.
NUMBER_AND_UNIT = (
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)"
    r"(\s*(?:[LETTER%°/\[(]|\{[^}]*\})(?:\{[^}]*\}|[^\s0-9{}])*[0-9]?(?:\s+[LETTER][^\s0-9]*)*"
    r"|\s+1(?:(?:/|0\*|0\^)\S*)?|)"
)
NUMBER = re.compile(NUMBER_AND_UNIT.replace("LETTER", r"a-zA-Zµμ²\u00C0-\uFFEF"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EhrField:
    """One thing that may be known of a patient, its unit, and what a possible value is."""

    name: str
    kind: Literal["numeric", "categorical"]
    unit: str = ""
    """UCUM: "kg/m2", "cm", "kg", "mm[Hg]", "/min", "Cel", "%", "a". Empty for a category."""
    loinc: str | None = None
    low: float | None = None
    """The lowest plausible value, itself plausible. None: no limit."""
    high: float | None = None
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in RESERVED:
            raise UserError(
                f"field {self.name!r}: a name is small letters, digits and _, begins with a letter "
                f"and is none of {', '.join(sorted(RESERVED))}"
            )
        if self.kind == "categorical" and len(set(self.categories)) < max(2, len(self.categories)):
            raise UserError(f"field {self.name}: needs two or more different categories")
        if self.kind == "categorical" and (self.unit or self.low is not None or self.high):
            raise UserError(f"field {self.name}: a category has no unit, low or high")
        if self.kind == "numeric" and self.categories:
            raise UserError(f"field {self.name}: a number has no categories")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise UserError(f"field {self.name}: low {self.low:g} is not below high {self.high:g}")


def _numeric(name: str, unit: str, loinc: str, low: float, high: float) -> EhrField:
    return EhrField(name=name, kind="numeric", unit=unit, loinc=loinc, low=low, high=high)


# Plausible means "a living patient could have it", newborn to adult; not "is healthy".
FIELDS: dict[str, EhrField] = {
    field.name: field
    for field in (
        _numeric("age", "a", "30525-0", 0, 120),
        EhrField(name="sex", kind="categorical", loinc="46098-0", categories=("F", "M")),
        EhrField(name="view", kind="categorical", categories=("PA", "AP")),
        _numeric("bmi", "kg/m2", "39156-5", 8, 100),
        _numeric("height", "cm", "8302-2", 30, 250),
        _numeric("weight", "kg", "29463-7", 0.5, 400),
        _numeric("systolic", "mm[Hg]", "8480-6", 40, 300),
        _numeric("diastolic", "mm[Hg]", "8462-4", 15, 200),
        _numeric("heart_rate", "/min", "8867-4", 20, 300),
        _numeric("respiratory_rate", "/min", "9279-1", 4, 100),
        _numeric("temperature", "Cel", "8310-5", 25, 45),
        _numeric("spo2", "%", "59408-5", 30, 100),
    )
}


def read_fields(path: Path) -> dict[str, EhrField]:
    """The built-in fields, and after them those of the user's YAML file.

    The file maps a name to the properties of `EhrField`, such as
    `creatinine: {kind: numeric, unit: mg/dL, loinc: 2160-0, low: 0.1, high: 30}`. A built-in
    field may be given another `low`, `high` or `loinc`, nothing else.

    Raises UserError for an unreadable file, an unknown property or an impossible field.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: must map the names of fields to their properties")
    fields = dict(FIELDS)
    for name, properties in data.items():
        try:
            fields[str(name)] = _field(str(name), properties)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return fields


def _field(name: str, properties: object) -> EhrField:
    """One field from the user's file, every property's type checked."""
    if not isinstance(properties, dict):
        raise UserError(f"field {name!r}: needs properties, such as kind: numeric")
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("kind", "unit", "loinc"), (str,)),
        **dict.fromkeys(("low", "high"), (int, float)),
        "categories": (list,),
    }
    if name in FIELDS:
        kinds = {key: kinds[key] for key in ("low", "high", "loinc")}
    for key, value in properties.items():
        if key not in kinds:
            raise UserError(f"field {name}: {key!r} is not one of {', '.join(kinds)}")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise UserError(f"field {name}: {key} must be {_called(kinds[key])}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"field {name}: {key} must be finite")
    categories = properties.get("categories", [])
    if not all(isinstance(category, str) for category in categories):
        raise UserError(f"field {name}: categories must be texts; put yes, no and digits in quotes")
    if name in FIELDS:
        return replace(FIELDS[name], **properties)
    if properties.get("kind") not in ("numeric", "categorical"):
        raise UserError(f"field {name}: kind must be numeric or categorical")
    return EhrField(**{**properties, "name": name, "categories": tuple(categories)})


def _called(kinds: tuple[type, ...]) -> str:
    if str in kinds:
        return "a text"
    return "a list" if list in kinds else "a number"


def convert(value: float, unit: str, field: EhrField) -> float:
    """The value in the field's own unit: `convert(65, "in", height)` is 165.1.

    Raises UserError where the unit is not one of the field's kind.
    """
    if field.kind == "categorical":
        raise UserError(f"{field.name}: a category has no unit, {unit!r} was given")
    if same_unit(unit, field.unit):
        return value
    pair, own = factor(unit), factor(field.unit)
    if pair is None or own is None or pair.quantity != own.quantity:
        raise UserError(f"{field.name}: unit {unit!r} cannot be turned into {field.unit or '1'}")
    return (value - pair.zero) * pair.scale / own.scale + own.zero


NO_AGE = re.compile(r"000[YMWD]", re.IGNORECASE)  # an age string of DICOM


def parse(field: EhrField, text: str, unit: str | None = None) -> float | None:
    """What the text says, in the field's unit; the index of a category; None for no text.

    A unit written behind the number ("180 lb") counts before `unit`, the unit of the column.
    With neither, the number is taken to be in the field's unit. "NA", "NaN", "null" and
    "none" are no text either.

    Raises UserError for anything else: not a number, not a category, an unknown unit.
    """
    text = text.strip()
    if field.kind == "categorical":
        return _category(field, text, unit)
    if text.casefold() in MISSING:
        return None
    match = NUMBER.fullmatch(text)
    if match is None or len(text) > 100:
        raise UserError(f"{field.name}: {text[:40]!r} is {_no_number(text)}")
    if field.name == "age" and NO_AGE.fullmatch(text):
        raise UserError(
            f"age: {text!r} is what scanners write where they know no age; leave it out"
        )
    stated = match[2].strip() or unit
    value = float(match[1])
    value = convert(value, stated, field) if stated else value
    if not math.isfinite(value):
        raise UserError(f"{field.name}: {text[:40]!r} is not a finite number")
    return value


def _no_number(text: str) -> str:
    """What a cell is that is no number, and how to write what it may mean."""
    if re.fullmatch(r"[+-]?\d+,\d+(\s*[^\W\d].*)?", text, re.ASCII):
        return f"not a number; write {text.replace(',', '.')} (a point, no comma)"
    if re.fullmatch(r"\d+(\.\d+)?\s*([-\u2010-\u2015]|to)\s*\d.*", text, re.ASCII):
        return "a range, not a number"
    if feet := re.fullmatch(
        r"(\d)\s*(?:'|\u2019|\u2032|ft|feet)\s*(\d\d?)\s*(?:\"|''|\u201d|\u2033|in)?",
        text,
        re.ASCII,
    ):
        return f"feet and inches, not a number; write {12 * int(feet[1]) + int(feet[2])} in"
    return "not a number"


def _category(field: EhrField, text: str, unit: str | None) -> float | None:
    if unit:
        raise UserError(f"{field.name}: a category has no unit, {unit!r} was given")
    if text in field.categories:
        return float(field.categories.index(text))
    folded = [category.casefold() for category in field.categories]
    if folded.count(text.casefold()) == 1:
        return float(folded.index(text.casefold()))
    if text.casefold() in MISSING:
        return None
    if field.name == "sex" and (sex := SEXES.get(text.casefold())) in field.categories:
        return float(field.categories.index(sex))
    allowed = ", ".join(field.categories)
    raise UserError(f"{field.name}: {text[:40]!r} is not one of {allowed}")


def plausible(
    ehr: Mapping[str, float], fields: Mapping[str, EhrField]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The values that a living patient could have, and a flag by name for each that was dropped.

    A diastolic pressure above the systolic one drops both: nobody knows which is wrong.
    """
    remaining, flags = dict(ehr), []
    for name, value in ehr.items():
        field = fields[name]
        if field.kind == "numeric" and not _within(value, field):
            flags.append(f"{name}: {value:g} is outside {_range(field)}")
            del remaining[name]
    if (
        "systolic" in remaining
        and "diastolic" in remaining
        and remaining["diastolic"] > remaining["systolic"]
    ):
        low, high = remaining.pop("diastolic"), remaining.pop("systolic")
        flags.append(f"diastolic: {low:g} is above systolic {high:g} mm[Hg], both left out")
    return remaining, tuple(flags)


def _within(value: float, field: EhrField) -> bool:
    low = -math.inf if field.low is None else field.low
    high = math.inf if field.high is None else field.high
    return math.isfinite(value) and low <= value <= high


def _range(field: EhrField) -> str:
    low = "-inf" if field.low is None else f"{field.low:g}"
    high = "inf" if field.high is None else f"{field.high:g}"
    return f"{low} to {high} {field.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class EhrStats:
    """The columns of `Batch.ehr`, and the mean and spread of each among training normals."""

    fields: tuple[EhrField, ...]
    mean: tuple[float, ...]  # in the field's unit; 0 for a category, or where none was known
    std: tuple[float, ...]  # population; 1 for a category, or where there is no spread
    known: tuple[int, ...]  # how many training films had it

    @classmethod
    def of(cls, exams: Iterable[Exam], fields: Sequence[EhrField]) -> "EhrStats":
        """Counts the records given: the caller passes training normals and nothing else."""
        columns: list[list[float]] = [[] for _ in fields]
        for exam in exams:
            for column, field in zip(columns, fields, strict=True):
                if field.name in exam.ehr:
                    column.append(exam.ehr[field.name])
        mean, std = [], []
        for column, field in zip(columns, fields, strict=True):
            numeric = field.kind == "numeric" and len(column) > 0
            mean.append(float(np.mean(column)) if numeric else 0.0)
            spread = float(np.std(column)) if numeric and min(column) < max(column) else 1.0
            std.append(spread)
        return cls(tuple(fields), tuple(mean), tuple(std), tuple(map(len, columns)))

    def encode(
        self, ehr: Mapping[str, float]
    ) -> tuple[Float[np.ndarray, " f"], Bool[np.ndarray, " f"]]:
        """z-scores (a category's index), and which were recorded; 0 and False where not.

        A field that no training film had cannot be standardised, and counts as not recorded.
        """
        values = np.zeros(len(self.fields), dtype=np.float32)
        known = np.zeros(len(self.fields), dtype=np.bool_)
        for column, field in enumerate(self.fields):
            if field.name in ehr and self.known[column]:
                known[column] = True
                values[column] = (ehr[field.name] - self.mean[column]) / self.std[column]
        return values, known

    def decode(self, values: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
        """The values in the fields' units; a category's index as it was."""
        return values * values.new_tensor(self.std) + values.new_tensor(self.mean)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, for a checkpoint's JSON."""
        return {
            "fields": [
                {**asdict(field), "categories": [*field.categories]} for field in self.fields
            ],
            "mean": [*self.mean],
            "std": [*self.std],
            "known": [*self.known],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EhrStats":
        """What `to_json` gave. Raises UserError where it could not have."""
        try:
            fields = tuple(
                EhrField(**{**field, "categories": tuple(field["categories"])})
                for field in data["fields"]
            )
            mean, std = tuple(map(float, data["mean"])), tuple(map(float, data["std"]))
            known = tuple(map(int, data["known"]))
        except (KeyError, TypeError, ValueError):
            raise UserError("the record statistics of the model are damaged") from None
        sound = len({len(fields), len(mean), len(std), len(known)}) == 1
        if not sound or not all(map(math.isfinite, mean + std)) or min(std, default=1) <= 0:
            raise UserError("the record statistics of the model are damaged")
        return cls(fields, mean, std, known)
