"""Who a film is compared with: sex, age band and view, and what to do where they shift.

Two answers for films that differ from those which calibrate the p-value. Mondrian: compare with
calibration films of the same sex, age band and view, and so keep the promise within each group
(V. Vovk et al., Algorithmic Learning in a Random World, 2005, section 4.5). Weighted: let each
calibration film count by how much likelier its record is among the films that are judged.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nofinding.data.ehr import EhrField
from nofinding.evaluate.calibration import least_n, p_values

__all__ = ["AGE_BANDS", "ALL", "LEAST", "Stratum", "mondrian_p_values", "record_weights"]

AGE_BANDS = {"0-17": 18.0, "18-39": 40.0, "40-59": 60.0, "60+": np.inf}
"""Name and first age that is above the band, in years."""
LEAST = least_n(0.05)
"""Calibration films that a stratum needs: with fewer, nothing in it could have p <= 0.05."""
ALL = "all"
"""The name of the stratum of all calibration films."""
# What is compared, finest first: the age band goes first, then sex, then view.
KEYS: tuple[tuple[str, ...], ...] = (("sex", "view", "age"), ("sex", "view"), ("view",), ())
STRENGTH = 1.0  # inverse of the penalty on the logistic regression's standardised weights


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
        age = ehr.get("age")
        band = "" if age is None else next(b for b, top in AGE_BANDS.items() if age < top)
        return cls(named["sex"], named["view"], band)

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


def mondrian_p_values(
    scores: Float[np.ndarray, " m"],
    strata: Sequence[Stratum],
    calibration: Float[np.ndarray, " n"],
    calibration_strata: Sequence[Stratum],
    *,
    ids: Sequence[str],
    calibration_ids: Sequence[str],
    least: int = LEAST,
) -> tuple[Float[np.ndarray, " m"], list[str]]:
    """Gives p-values within the film's own stratum, and the name of the stratum that was used.

    That is the finest of KEYS, without what is unknown of the film, that has `least`
    calibration films besides the film itself; all of them where none has. The choice looks at
    records alone, never at scores, so that p keeps its promise within each stratum.
    """
    p, used = np.empty(len(scores)), []
    members: dict[str, list[int]] = {}
    for i, (stratum, image_id) in enumerate(zip(strata, ids, strict=True)):
        for keys in KEYS:
            known = [key for key in keys if getattr(stratum, key)]
            name = stratum.name(known)
            if name not in members:
                same = [j for j, s in enumerate(calibration_strata) if s.name(known) == name]
                members[name] = same
            others = [j for j in members[name] if calibration_ids[j] != image_id]
            if len(others) >= least or not keys:
                break
        used.append(name)
        p[i] = p_values(scores[i : i + 1], calibration[others])[0]
    return p, used


def record_weights(
    calibration: Sequence[Stratum], target: Sequence[Stratum]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Gives how much likelier each record is among `target` than among `calibration`.

    The odds of a penalised logistic regression that tells the two apart by sex, view and age
    band, "not recorded" being a value of its own, times n / m (S. Bickel et al., JMLR 10, 2009).
    Calibration films first, then those of the target. All 1 where the records are alike.
    """
    from sklearn.linear_model import LogisticRegression

    rows = [*calibration, *target]
    columns = [
        [float(getattr(row, key) == value) for row in rows]
        for key in Stratum._fields
        for value in sorted({getattr(row, key) for row in rows})
    ]
    table = np.array(columns).T
    spread = table.std(axis=0)
    table = (table - table.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    n, m = len(calibration), len(target)
    if table.shape[1] == 0:
        return np.ones(n), np.ones(m)
    label = np.arange(n + m) >= n
    net = LogisticRegression(C=STRENGTH, max_iter=1000).fit(table, label)
    weights = np.exp(net.decision_function(table)) * n / m
    return weights[:n], weights[n:]
