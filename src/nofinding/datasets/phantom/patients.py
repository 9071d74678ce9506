"""Draws the records of phantom patients, jointly: tall men weigh more, the old are taken AP."""

import hashlib
import math
from collections.abc import Mapping
from functools import cache

import numpy as np

__all__ = [
    "DEMOGRAPHICS",
    "FIELD_NAMES",
    "patient",
    "pressure_expected",
    "pressure_of_another",
    "stream",
]

FIELD_NAMES = (
    "age",
    "sex",
    "view",
    "bmi",
    "height",
    "weight",
    "systolic",
    "diastolic",
    "heart_rate",
    "respiratory_rate",
    "temperature",
    "spo2",
)
DEMOGRAPHICS = ("age", "sex", "view")

# What age, sex and BMI leave of the systolic pressure: flat over +-32 mm[Hg], with a soft edge.
# Flat, because half-way round a flat distribution everybody is equally far from himself (see
# pressure_of_another); a bell would leave the middle of it too close.
PRESSURE_FLAT = 32.0  # mm[Hg], half the width of the flat part
PRESSURE_EDGE = 4.0  # mm[Hg], SD of the edge


def stream(seed: int, index: int, what: str) -> np.random.Generator:
    """Randomness that depends on the seed, the number of the film and its purpose alone."""
    digest = hashlib.sha256(f"phantom {seed} {index} {what}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def patient(seed: int, index: int) -> dict[str, float]:
    """The full record of phantom patient number `index`, in the units of nofinding.data.ehr.

    Adults of 18 to 95 years. Height depends on sex and age, BMI (log-normal) on age, weight is
    BMI x height^2, blood pressure rises with age and BMI, and AP grows likelier with age. Values
    are rounded as they are on a ward. sex: F = 0, M = 1; view: PA = 0, AP = 1.
    """
    rng = stream(seed, index, "record")
    age = round(18 + 77 * rng.beta(2.0, 2.0))
    male = float(rng.random() < 0.5)
    height = round((176.5 if male else 163.0) - 0.06 * max(age - 40, 0) + rng.normal(0, 6.5))
    middle = 26.0 - 3.0 * ((age - 58) / 40) ** 2
    bmi = float(np.clip(middle * math.exp(rng.normal(0, 0.18)), 15.5, 52.0))
    weight = round(bmi * (height / 100) ** 2, 1)
    bmi = round(weight / (height / 100) ** 2, 1)
    ehr = {"age": float(age), "sex": male, "bmi": bmi, "height": float(height), "weight": weight}
    left_over = rng.uniform(-PRESSURE_FLAT, PRESSURE_FLAT) + rng.normal(0, PRESSURE_EDGE)
    systolic = round(pressure_expected(ehr) + left_over)
    diastolic = round(20 + 0.46 * systolic - 0.15 * max(age - 60, 0) + rng.normal(0, 5))
    temperature = round(rng.normal(36.8, 0.3), 1)
    ehr |= {
        "view": float(rng.random() < np.clip(0.22 + 0.01 * (age - 50), 0.08, 0.65)),
        "systolic": float(systolic),
        "diastolic": float(min(diastolic, systolic - 15)),
        "heart_rate": float(round(rng.normal(74 + 8 * (temperature - 36.8), 10))),
        "respiratory_rate": float(round(rng.normal(15.5 + 0.1 * (bmi - 26), 2))),
        "temperature": temperature,
        "spo2": float(round(min(98.4 - 0.02 * (age - 18) + rng.normal(0, 1), 100.0))),
    }
    return {name: float(ehr[name]) for name in FIELD_NAMES}


def pressure_expected(ehr: Mapping[str, float]) -> float:
    """The mean systolic pressure at this age, sex and BMI, in mm[Hg]."""
    return 112 + 0.38 * (ehr["age"] - 20) + 0.6 * (ehr["bmi"] - 26) + 3 * ehr["sex"]


def pressure_of_another(ehr: Mapping[str, float]) -> float:
    """The systolic pressure of somebody alike but for it, half the distribution away, in mm[Hg].

    With F the distribution of what age, sex and BMI leave of the pressure: r -> F^-1((F(r) + 1/2)
    mod 1). The map keeps F (a shift round a circle keeps the uniform distribution), so that these
    pressures, and all that follows from them, are distributed as the true ones are, at every age,
    sex, BMI, height and view; and nobody stays nearer to himself than 32 mm[Hg].
    """
    expected = pressure_expected(ehr)
    at, share = _pressure_distribution()
    rank = float(np.interp(ehr["systolic"] - expected, at, share))
    return expected + float(np.interp((rank + 0.5) % 1.0, share, at))


@cache
def _pressure_distribution() -> tuple[np.ndarray, np.ndarray]:
    """Points (mm[Hg]) and the share of patients below each: a uniform plus a Gaussian."""
    at = np.linspace(-PRESSURE_FLAT - 18, PRESSURE_FLAT + 18, 2001)
    density = np.array(
        [
            math.erf((x + PRESSURE_FLAT) / (PRESSURE_EDGE * math.sqrt(2)))
            - math.erf((x - PRESSURE_FLAT) / (PRESSURE_EDGE * math.sqrt(2)))
            for x in at
        ]
    )
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return at, share / share[-1]
