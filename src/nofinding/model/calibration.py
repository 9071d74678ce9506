"""From scores to p-values: which calibration films each film is compared with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from nofinding.data.ehr import EhrField
from nofinding.errors import UserError
from nofinding.evaluation.statistics.conformal import (
    effective_n,
    hashed,
    least_n,
    p_values,
    weighted_p_values,
)
from nofinding.evaluation.statistics.strata import (
    ALL,
    LEAST,
    UNLIKE,
    Partition,
    Stratum,
    mondrian_p_values,
    record_weights,
)
from nofinding.evaluation.statistics.tail import Tail, fit_tail
from nofinding.model.bundle import Model
from nofinding.types import Exam

__all__ = ["WEIGHTED_LEAST", "Calibration", "Calibrator", "stored_calibration", "stored_strata"]

Calibration = Literal["plain", "mondrian", "weighted"]
WEIGHTED_LEAST = 50
"""Films that weights take, both among those scored and among those that calibrate."""
LEVEL = 0.05  # the level that the warnings speak of


def stored_strata(exams: Sequence[Exam], fields: Mapping[str, EhrField]) -> dict[str, list[str]]:
    """What a model remembers of its calibration films: sex, view, age band; "" is not recorded."""
    strata = [Stratum.of(exam.ehr, fields) for exam in exams]
    return {key: [getattr(s, key) for s in strata] for key in Stratum._fields}


def stored_calibration(
    scores: Float[np.ndarray, " n"],
    exams: Sequence[Exam],
    fields: Mapping[str, EhrField],
    origin: str,
) -> dict[str, Any]:
    """What model.json stores of the films that calibrate the p-value, `origin` saying whence.

    The same for films that were kept aside when the model was fitted and for local ones, which
    take their place. The partition is decided here, by records alone. Raises ValueError for a
    score that is not a finite number, or where there is not one a film.
    """
    if len(scores) != len(exams) or not np.isfinite(scores).all():
        raise ValueError("a calibration film needs one finite score")
    strata = [Stratum.of(exam.ehr, fields) for exam in exams]
    return {
        "from": origin,
        "scores": np.asarray(scores, dtype=np.float64).tolist(),
        "ids": [hashed(exam.image_id) for exam in exams],
        **stored_strata(exams, fields),
        "partition": Partition.of(strata).to_json(),
    }


class Calibrator:
    """Gives the p-value cells of scores.csv, batch by batch."""

    def __init__(self, model: Model, how: Calibration, films: int) -> None:
        """`films` are to be scored. Raises UserError where the model or they do not allow `how`."""
        self.how = how
        self.stored, self.ids = model.calibration
        self._own = frozenset(self.ids)
        self.strata: list[Stratum] = []
        self.weight: dict[Stratum, float] = {}
        self.weights: Float[np.ndarray, " n"] = np.ones(len(self.stored))
        self.used: Counter[str] = Counter()
        self.partition: Partition | None = None
        self._tails: dict[str, Tail | None] = {}
        self._members: dict[str, list[int]] = {}
        if how == "plain" or not len(self.stored):
            return
        strata = Stratum.from_meta(model.meta["calibration"])
        if strata is None:
            raise UserError(
                f"--calibration {how}: the model does not store sex, view and age band of its "
                "calibration films; fit it again, or give plain"
            )
        self.strata = strata
        if how == "mondrian":
            stored = Partition.from_meta(model.meta["calibration"])
            self.partition = Partition.of(strata) if stored is None else stored
            self._names = [self.partition.name(i) for i in range(len(self.partition.cells))]
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
        """p_value, and for Mondrian the stratum that it is from, of each film; `remark` where the
        film lies beyond all calibration films, or no calibration film has such a record."""
        if not len(self.stored):
            return [{"p_value": ""} for _ in image_ids]
        ids = [hashed(image_id) for image_id in image_ids]
        used = [""] * len(ids)
        if self.how == "mondrian":
            p, used = mondrian_p_values(
                scores,
                own,
                self.stored,
                self.strata,
                ids=ids,
                calibration_ids=self.ids,
                partition=self.partition,
            )
            self.used.update(used)
        elif self.how == "weighted":
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
        rows = []
        for place, value in enumerate(p):
            row = {"p_value": f"{value:.6g}"}
            if self.how == "mondrian":
                row["stratum"] = used[place]
            remark = self._remark(float(scores[place]), float(value), ids[place], used[place])
            rows.append(row | ({"remark": remark} if remark else {}))
        return rows

    def _remark(self, score: float, p: float, film: str, used: str) -> str:
        """What the row must say beside p; "" where p says all."""
        said = []
        if used.startswith(UNLIKE):
            said.append(
                "p-value: no calibration film has this sex, view and age band; it is the largest "
                "p of the groups that the film may be of"
            )
        against = self._against(used)
        if film in self._own:
            against = against[[self.ids[i] != film for i in self._rows(used)]]
        if len(against) and score > against.max():
            said.append(self._beyond(score, p, len(against), used))
            tail = None if film in self._own or self.how == "weighted" else self._tail(used)
            if tail is not None:
                said.append(
                    f"p-value: extrapolated beyond them {tail(score)}, by a generalised Pareto "
                    f"tail of the highest {tail.excesses}; no promise holds for it"
                )
        return "; ".join(said)

    def _beyond(self, score: float, p: float, n: int, used: str) -> str:
        if self.how == "weighted":
            return f"p-value: p <= {p:.3g}, beyond all {n} calibration films, which are weighted"
        if used.startswith(UNLIKE):
            return f"p-value: p <= {p:.3g}, beyond all {n} calibration films"
        of = f" of {used}" if used and used != ALL else ""
        return f"p-value: p <= 1/{n + 1}, beyond all {n} calibration films{of}"

    def _rows(self, used: str) -> list[int]:
        """The calibration films that a film of this stratum's name is compared with."""
        if used not in self._members:
            cells = self.partition.cells if self.partition is not None else ()
            within = [
                i
                for i, cell in enumerate(cells)
                if used.removeprefix(UNLIKE) == self._names[i] or used.endswith(" groups")
            ]
            whole = not cells or not within
            self._members[used] = [
                i
                for i in range(len(self.stored))
                if whole or any(self.strata[i] in cells[cell] for cell in within)
            ]
        return self._members[used]

    def _against(self, used: str) -> Float[np.ndarray, " k"]:
        return self.stored[self._rows(used)]

    def _tail(self, used: str) -> Tail | None:
        if used not in self._tails:
            self._tails[used] = None if used.startswith(UNLIKE) else fit_tail(self._against(used))
        return self._tails[used]

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
        facts: dict[str, Any] = {"calibration": self.how, "calibration_warning": self.warning()}
        if self.how == "weighted" and len(self.stored):
            facts["calibration_effective_n"] = self.n
        if self.how == "mondrian":
            facts["strata"] = dict(sorted(self.used.items()))
            facts["stratum_least_n"] = LEAST
        return facts
