"""What is normal for this patient: features given the record, and how well the two fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from nofinding.functional.features.normative import (
    Normative,
    fit_normative,
    record_columns,
    residual,
)
from nofinding.functional.features.record_fit import RecordFit, fit_record, misfit
from nofinding.methods.diff3m.feature_space.views import DISTANCES
from nofinding.types import Batch

__all__ = ["PatientNorm"]

CONDITIONED = (*DISTANCES, "evidence", "where", "highest", "places")
"""Features whose normal value may follow the record."""


class PatientNorm:
    """Learns from normal films what the record says of features, and features of the record.

    `active` says whether held-out normal films are likelier given the record. Where they are not,
    features stay as they are.
    """

    def __init__(self, columns: Sequence[int], categories: Sequence[int]) -> None:
        """`columns` of the record are used; `categories` counts the values of each column of it."""
        self.columns, self.categories = list(columns), [categories[i] for i in columns]
        self.normative: dict[str, Normative] = {}
        self.record: RecordFit | None = None
        self.gain, self.error, self.asked = 0.0, 0.0, False

    @property
    def active(self) -> bool:
        """Whether the record changes anything."""
        return self.record is not None

    def fit(
        self,
        features: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        ehr: Float[Tensor, "n f"],
        known: Bool[Tensor, "n f"],
        fold: Int64[Tensor, " n"],
        *,
        always: bool,
    ) -> tuple[dict[str, Tensor], Float[Tensor, " n"] | None]:
        """Features given the record, each film's by films of other folds, and its misfit.

        Where held-out films are no likelier given the record, and not `always`: the features as
        they are, and no misfit.
        """
        self.normative, self.record, self.asked = {}, None, False
        record, there = self._columns(ehr, known)
        if not bool(there.any()):
            return dict(features), None
        names = [name for name in DISTANCES if name in features]
        changes = torch.cat([moved[n] for n in names], 1) if names and names[0] in moved else None
        by, evidence = fit_record(_pooled(features), changes, record, there, fold)
        self.gain, self.error, self.asked = evidence.gain, evidence.error, True
        if not (evidence.pays or always):
            return dict(features), None
        self.record = by
        given = dict(features)
        for name in CONDITIONED:
            if name not in features:
                continue
            x = features[name].reshape(len(record), -1).float()
            left = _out_of_fold(x, record, there, fold)
            if float(left.var(0).sum()) < float(x.var(0).sum()):
                self.normative[name] = fit_normative(x, record, there)
                given[name] = left.reshape(features[name].shape).to(features[name].dtype)
        return given, evidence.misfit

    def given(self, features: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Features with what the record explains taken out of them."""
        out = dict(features)
        record, known = self._columns(batch.ehr, batch.known)
        for name, by in self.normative.items():
            x = features[name]
            out[name] = residual(by, x.reshape(len(x), -1), record, known).reshape(x.shape)
        return out

    def misfit(self, features: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, " b"]:
        """How much less likely the record is with this film than without, in nats."""
        assert self.record is not None
        return misfit(self.record, _pooled(features), *self._columns(batch.ehr, batch.known))

    def _columns(self, ehr: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        ehr, known = ehr.cpu(), known.cpu()
        return record_columns(ehr[:, self.columns], known[:, self.columns], self.categories)

    def decided(self, conditioning: str) -> dict[str, Any]:
        """What was asked for, what held-out normal films said of it, and the same in a sentence."""
        gain = f"{self.gain:.2f} nats a film (standard error {self.error:.2f})"
        if conditioning == "none" or not self.asked:
            said = "What is normal does not follow the record: it was not asked for, or not known."
        elif self.active:
            said = (
                f"What is normal follows the record: held-out normal films are likelier given it, "
                f"by {gain}. Judged given the record: {', '.join(self.normative) or 'no feature'}, "
                "and whether record and film fit."
            )
        else:
            said = (
                "What is normal does not follow the record: held-out normal films are not clearly "
                f"likelier given it, by {gain}."
            )
        return {
            "conditioning": "normative" if self.active else "none",
            "conditioned": [*self.normative],
            "gain_nats": self.gain,
            "gain_error": self.error,
            "said": said,
        }

    def state(self) -> dict[str, Tensor]:
        """All of it, and the evidence alone where the record changes nothing."""
        out = {"record.evidence": torch.tensor([self.gain, self.error])} if self.asked else {}
        if self.record is None:
            return out
        out |= {f"record.{k}": v for k, v in self.record._asdict().items()}
        for name, by in self.normative.items():
            out |= {f"normative.{name}.{k}": v for k, v in by._asdict().items()}
        return out

    def load_state(self, under: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes what `state` gave, by first name."""
        self.normative, self.record = {}, None
        own = under.get("record", {})
        self.asked = bool(own)
        if not self.asked:
            return
        self.gain, self.error = own["evidence"].tolist()
        if "slope" in own:
            self.record = RecordFit(**{k: own[k] for k in RecordFit._fields})
        stored = under.get("normative", {})
        self.normative = {
            name: Normative(*(stored[f"{name}.{k}"] for k in Normative._fields))
            for name in CONDITIONED
            if f"{name}.mean" in stored
        }


def _pooled(features: Mapping[str, Tensor]) -> Float[Tensor, "n d"]:
    return torch.cat([features[name].float() for name in DISTANCES if name in features], 1)


def _out_of_fold(
    x: Float[Tensor, "n d"],
    record: Float[Tensor, "n c"],
    known: Bool[Tensor, "n c"],
    fold: Int64[Tensor, " n"],
) -> Float[Tensor, "n d"]:
    """What the record does not explain of each film's features, by films of the other folds."""
    left = torch.empty_like(x)
    for number in sorted(set(fold.tolist())):
        inside = fold == number
        by = fit_normative(x[~inside], record[~inside], known[~inside])
        left[inside] = residual(by, x[inside], record[inside], known[inside])
    return left
