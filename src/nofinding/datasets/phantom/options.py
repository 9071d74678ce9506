"""What may stand behind `phantom:` on the command line, and what it means."""

from dataclasses import dataclass
from typing import Literal, cast

from nofinding.datasets.phantom.anomalies import KINDS
from nofinding.errors import UserError

__all__ = ["Options", "Recorded", "parse_options"]

Recorded = Literal["full", "demographics", "none", "mixed"]
_RECORDED = ("full", "demographics", "none", "mixed")
_LIMITS = {  # lowest and highest value of each whole number
    "train": (0, 1_000_000),
    "val": (0, 1_000_000),
    "test": (0, 1_000_000),
    "abnormal": (0, 100_000),
    "seed": (0, 2**31 - 1),
    "size": (32, 2048),
}
_ALLOWED = (*_LIMITS, "kinds", "record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A phantom cohort."""

    train: int = 600
    """Normal films to train on."""
    val: int = 150
    """Normal films to calibrate on."""
    test: int = 150
    """Normal films to test on."""
    abnormal: int = 15
    """Films of each kind of finding, all in the test set."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """The kinds of finding."""
    seed: int = 0
    """Another seed gives other patients."""
    size: int = 128
    """Pixels along one side of a film."""
    record: Recorded = "full"
    """What was recorded of each patient; mixed: some of it, or nothing, for each film anew."""


def parse_options(text: str) -> Options:
    """Reads "train=600,kinds=nodule+mass". Empty text gives the defaults.

    Raises UserError naming the key or value and what is allowed.
    """
    given: dict[str, int | str | tuple[str, ...]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in _ALLOWED:
            raise UserError(f"phantom: {part!r}: write key=value; keys are {', '.join(_ALLOWED)}")
        if key in given:
            raise UserError(f"phantom: {key} is given twice")
        given[key] = _value(key, value)
    return Options(**given)  # type: ignore[arg-type]  # each value was read for its key


def _value(key: str, text: str) -> int | str | tuple[str, ...]:
    """The value of one key."""
    if key == "kinds":
        kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split("+")))
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise UserError(
                f"phantom: kinds={unknown[0]}: kinds are {', '.join(KINDS)}, joined by +"
            )
        return kinds
    if key == "record":
        if text not in _RECORDED:
            raise UserError(f"phantom: record={text}: allowed are {', '.join(_RECORDED)}")
        return cast(Recorded, text)
    low, high = _LIMITS[key]
    if not (text.isascii() and text.isdigit()) or not low <= int(text[:12]) <= high:
        raise UserError(f"phantom: {key}={text}: a whole number from {low} to {high}")
    return int(text)
