"""From scores to p-values: which calibration films each film is compared with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from nofinding.data.ehr import EhrField
from nofinding.errors import UserError
from nofinding.evaluate.calibration import (
    effective_n,
    hashed,
    least_n,
    p_values,
    weighted_p_values,
)
from nofinding.evaluate.strata import LEAST, Stratum, mondrian_p_values, record_weights
from nofinding.run.model import Model
from nofinding.types import Record

__all__ = ["WEIGHTED_LEAST", "Calibration", "Calibrator", "stored_strata"]

Calibration = Literal["plain", "mondrian", "weighted"]
WEIGHTED_LEAST = 50
"""Films that weights take, both among those scored and among those that calibrate."""
LEVEL = 0.05  # the level that the warnings speak of


def stored_strata(
    records: Sequence[Record], fields: Mapping[str, EhrField]
) -> dict[str, list[str]]:
    """What a model remembers of its calibration films: sex, view, age band; "" is not recorded."""
    strata = [Stratum.of(record.ehr, fields) for record in records]
    return {key: [getattr(s, key) for s in strata] for key in Stratum._fields}


class Calibrator:
    """Gives the p-value cells of scores.csv, batch by batch."""

    def __init__(self, model: Model, how: Calibration, films: int) -> None:
        """`films` are to be scored. Raises UserError where the model or they do not allow `how`."""
        self.how = how
        self.stored, self.ids = model.calibration
        self.strata: list[Stratum] = []
        self.weight: dict[Stratum, float] = {}
        self.weights: Float[np.ndarray, " n"] = np.ones(len(self.stored))
        self.used: Counter[str] = Counter()
        if how == "plain" or not len(self.stored):
            return
        strata = Stratum.from_meta(model.meta["calibration"])
        if strata is None:
            raise UserError(
                f"--calibration {how}: the model does not store sex, view and age band of its "
                "calibration films; fit it again, or give plain"
            )
        self.strata = strata
        if how == "weighted":
            self._require(films)

    @property
    def weighs(self) -> bool:
        """Whether it has to know the strata of all films before it gives a p-value."""
        return self.how == "weighted" and len(self.stored) > 0

    def _require(self, films: int) -> None:
        for n, which in ((films, "scored"), (len(self.strata), "of calibration")):
            if n < WEIGHTED_LEAST:
                raise UserError(
                    f"--calibration weighted: {n} films {which}; it takes {WEIGHTED_LEAST} or more"
                )

    def weigh(self, own: Sequence[Stratum]) -> None:
        """Learns the weights from the strata of all scored films. Raises UserError."""
        self._require(len(own))
        if not any(any(stratum) for stratum in (*self.strata, *own)):
            raise UserError(
                "--calibration weighted: neither sex, view nor age of any film is known"
            )
        self.weights, weights = record_weights(self.strata, own)
        self.weight = dict(zip(own, weights.tolist(), strict=True))

    def __call__(
        self, scores: Float[np.ndarray, " b"], image_ids: Sequence[str], own: Sequence[Stratum]
    ) -> list[dict[str, str]]:
        """p_value, and for Mondrian the stratum that it is from, of each film."""
        if not len(self.stored):
            return [{"p_value": ""} for _ in image_ids]
        ids = [hashed(image_id) for image_id in image_ids]
        if self.how == "mondrian":
            p, used = mondrian_p_values(
                scores, own, self.stored, self.strata, ids=ids, calibration_ids=self.ids
            )
            self.used.update(used)
            return [
                {"p_value": f"{value:.6g}", "stratum": name}
                for value, name in zip(p, used, strict=True)
            ]
        if self.how == "weighted":
            p = weighted_p_values(
                scores,
                np.array([self.weight[stratum] for stratum in own]),
                self.stored,
                self.weights,
                ids=ids,
                calibration_ids=self.ids,
            )
        else:
            p = p_values(scores, self.stored, ids=ids, calibration_ids=self.ids)
        return [{"p_value": f"{value:.6g}"} for value in p]

    @property
    def n(self) -> float:
        """Calibration films, or what weighted ones are worth."""
        return effective_n(self.weights) if self.how == "weighted" else float(len(self.stored))

    def warning(self) -> str | None:
        """One line where there are too few calibration films for the level that people use."""
        least = least_n(LEVEL)
        if not len(self.stored) or self.n >= least:
            return None
        if self.how == "weighted":
            return (
                f"{len(self.stored)} calibration films are worth {self.n:.1f} once weighted, fewer "
                f"than the {least} that p <= {LEVEL:g} takes; it cannot be relied on at that level"
            )
        return (
            f"{len(self.stored)} calibration films are too few for p <= {LEVEL:g}, which takes "
            f"{least}; no film can be called at that level"
        )

    def about(self) -> dict[str, Any]:
        """What run.json says of it."""
        told: dict[str, Any] = {"calibration": self.how, "calibration_warning": self.warning()}
        if self.how == "weighted" and len(self.stored):
            told["calibration_effective_n"] = self.n
        if self.how == "mondrian":
            told["strata"] = dict(sorted(self.used.items()))
            told["stratum_least_n"] = LEAST
        return told
