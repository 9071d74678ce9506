"""What calibration remembers of a patient's record: sex, view and age band."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nofinding.data.ehr import EhrField

__all__ = ["AGE_BANDS", "ALL", "UNKNOWN", "Stratum", "age_band_of"]

AGE_BANDS = {"0-17": 18.0, "18-39": 40.0, "40-59": 60.0, "60+": np.inf}
"""Name and first age that is above the band, in years. These are the bands everywhere."""
ALL = "all"
"""The name of the stratum of all calibration films."""
UNKNOWN = "?"
"""How the name of a stratum says that a value is not recorded."""


def age_band_of(age: float | None) -> str:
    """Gives the band of an age in years, 17.9 being 0-17; "" where it is not known."""
    return "" if age is None else next((b for b, top in AGE_BANDS.items() if age < top), "")


class Stratum(NamedTuple):
    """All of a record that calibration remembers; "" is not recorded."""

    sex: str
    view: str
    age: str
    """One of AGE_BANDS: the age itself is not stored with a model."""

    @classmethod
    def of(cls, ehr: Mapping[str, float], fields: Mapping[str, EhrField]) -> "Stratum":
        """The stratum of a record; `fields` name the categories."""
        named = {
            name: fields[name].categories[int(ehr[name])] if name in ehr else ""
            for name in ("sex", "view")
        }
        return cls(named["sex"], named["view"], age_band_of(ehr.get("age")))

    @classmethod
    def from_meta(cls, stored: Mapping[str, Any]) -> "list[Stratum] | None":
        """Those of a model's calibration films; None where it does not store them."""
        columns = [stored.get(name) for name in cls._fields]
        if any(column is None for column in columns):
            return None
        return [cls(*map(str, row)) for row in zip(*columns, strict=True)]

    def name(self, keys: Sequence[str]) -> str:
        """ "sex=F view=PA age=40-59" of the keys that are known; "all" where none is."""
        return " ".join(f"{k}={v}" for k in keys if (v := getattr(self, k))) or ALL
