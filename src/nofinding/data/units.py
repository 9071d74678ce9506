"""Units of measurement, UCUM and as people write them, and what turns one into another."""

from typing import NamedTuple

__all__ = ["SPELLINGS", "Unit", "factor", "same_unit"]


class Unit(NamedTuple):
    """A value in the quantity's base unit is (value - zero) * scale."""

    quantity: str
    scale: float
    zero: float = 0.0  # where the base unit's zero lies on this scale: 32 for Fahrenheit


_OF: dict[Unit, str] = {  # the base units are those of the built-in fields
    Unit("age", 1): "a y yr yrs year years",
    Unit("age", 1 / 12): "mo month months",
    Unit("age", 7 / 365.25): "wk week weeks",
    Unit("age", 1 / 365.25): "d day days",
    Unit("length", 1): "cm",
    Unit("length", 0.1): "mm",
    Unit("length", 100): "m",
    Unit("length", 2.54): "in inch inches [in_i] [in_us]",
    Unit("length", 30.48): "ft foot feet [ft_i]",
    Unit("mass", 1): "kg kgs",
    Unit("mass", 0.001): "g",
    Unit("mass", 0.45359237): "lb lbs pound pounds [lb_av]",
    Unit("mass", 6.35029318): "st stone [stone_av]",
    Unit("body mass index", 1): "kg/m2 kg/m^2 kg/m² kg.m-2",
    Unit("body mass index", 0.45359237 / 0.0254**2): "lb/in2 lb/in^2 [lb_av]/[in_i]2",
    Unit("pressure", 1): "mm[hg] mmhg torr",
    Unit("pressure", 760 / 101.325): "kpa",
    Unit("rate", 1): "/min 1/min min-1 bpm beats/min breaths/min {beats}/min {breaths}/min",
    Unit("rate", 60): "/s 1/s hz",
    Unit("temperature", 1): "cel c °c degc celsius",
    Unit("temperature", 5 / 9, 32): "[degf] degf f °f fahrenheit",
    Unit("temperature", 1, 273.15): "k kelvin",
    Unit("share", 1): "% percent",
    Unit("share", 100): "1 fraction",
}
_UNITS = {name: unit for unit, names in _OF.items() for name in names.split()}
SPELLINGS = tuple(_UNITS)


def factor(unit: str) -> Unit | None:
    """What the unit measures and how it scales; None for one that is not known."""
    return _UNITS.get(unit.strip().lower())


def same_unit(a: str, b: str) -> bool:
    """Whether two spellings mean one unit, known or not. Nothing stated is dimensionless."""
    a, b = a.strip() or "1", b.strip() or "1"
    known = factor(a)
    return a == b or (known is not None and known == factor(b))
