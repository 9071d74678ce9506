"""What is normal for this patient: a Gaussian of features and record together, given the record.

Normative modelling (Marquand et al., Biological Psychiatry 80, 2016) by the simplest model that
can: features and record of normal films are jointly Gaussian, so that what features are expected
to be is linear in the record. Of a record with missing entries only the known ones condition; the
others are marginalised, not filled in. A category is a column of its own for each value.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Normative", "expected", "explained", "fit_normative", "residual"]


class Normative(NamedTuple):
    """Learnt from normal films."""

    mean: Float[Tensor, " d"]  # of features
    record_mean: Float[Tensor, " f"]
    cross: Float[Tensor, "f d"]  # covariance of record and features
    record: Float[Tensor, "f f"]  # covariance of the record, ridge included


def fit_normative(
    x: Float[Tensor, "n d"],
    record: Float[Tensor, "n f"],
    known: Bool[Tensor, "n f"],
    *,
    ridge: float = 10.0,
) -> Normative:
    """Means and covariances from the films on which each entry, or each two entries, are known.

    `ridge` films' worth of no relation are added, so that an entry that is known of few films
    explains next to nothing.
    """
    x, values = x.double(), record.double().masked_fill(~known, 0)
    count = known.double().sum(0)
    record_mean = values.sum(0) / count.clamp_min(1)
    centred = (values - record_mean).masked_fill(~known, 0)
    # Features about their mean on the same films: an entry known at one site alone must not
    # stand for that site.
    own = known.double().T @ x / count.clamp_min(1)[:, None]
    cross = (centred.T @ x - centred.sum(0)[:, None] * own) / (count + ridge)[:, None]
    both = known.double().T @ known.double()
    covariance = centred.T @ centred / (both + ridge)
    spread = centred.square().sum(0) / count.clamp_min(1)
    ridged = ridge / (count + ridge) * spread
    covariance = covariance + torch.diag(ridged + 1e-6)
    values_, vectors = torch.linalg.eigh(covariance)  # pairs known on other films: may be no
    fixed = vectors * values_.clamp_min(1e-6) @ vectors.T  # covariance; the nearest that is one
    return Normative(x.mean(0).float(), record_mean.float(), cross.float(), fixed.float())


def expected(
    by: Normative, record: Float[Tensor, "b f"], known: Bool[Tensor, "b f"]
) -> Float[Tensor, "b d"]:
    """The features of a normal film with that record: the mean where nothing is known."""
    rows = []
    for values, there in zip(record.double(), known, strict=True):
        if not bool(there.any()):
            rows.append(by.mean.double())
            continue
        covariance = by.record.double()[there][:, there]
        apart = (values - by.record_mean.double())[there]
        rows.append(
            by.mean.double() + torch.linalg.solve(covariance, apart) @ by.cross.double()[there]
        )
    return torch.stack(rows).float() if rows else by.mean.new_empty(0, len(by.mean))


def residual(
    by: Normative,
    x: Float[Tensor, "b d"],
    record: Float[Tensor, "b f"],
    known: Bool[Tensor, "b f"],
) -> Float[Tensor, "b d"]:
    """What of the features the record does not explain, about the mean of all normal films."""
    return x - expected(by, record, known) + by.mean


def explained(
    by: Normative,
    x: Float[Tensor, "n d"],
    record: Float[Tensor, "n f"],
    known: Bool[Tensor, "n f"],
) -> Float[Tensor, " d"]:
    """Share of each feature's variance that the record explains on these films, which are best
    others than it was fitted on; below 0 where it explains worse than nothing."""
    left = (x - expected(by, record, known)).double().var(0)
    return (1 - left / x.double().var(0).clamp_min(1e-12)).float()
