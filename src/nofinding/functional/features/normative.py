"""What is normal for this patient: a Gaussian of features and record together, given the record.

Normative modelling (Marquand et al., Biological Psychiatry 80, 2016) by the simplest model that
can: features and record of normal films are jointly Gaussian, so that what features are expected
to be is linear in the record. Of a record with missing entries only the known ones condition; the
others are marginalised, not filled in.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

__all__ = [
    "Normative",
    "covariance_of_known",
    "expected",
    "explained",
    "fit_normative",
    "record_columns",
    "residual",
]

RIDGE = 10.0  # films' worth of no relation


class Normative(NamedTuple):
    """Learnt from normal films."""

    mean: Float[Tensor, " d"]  # of features
    record_mean: Float[Tensor, " f"]
    cross: Float[Tensor, "f d"]  # covariance of record and features
    record: Float[Tensor, "f f"]  # covariance of the record, ridge included


def record_columns(
    record: Float[Tensor, "n f"], known: Bool[Tensor, "n f"], categories: Sequence[int]
) -> tuple[Float[Tensor, "n c"], Bool[Tensor, "n c"]]:
    """The record as columns that a covariance makes sense of, and which of them are known.

    A number is itself; a category of k values is an indicator for each but the first.
    `categories` counts the values of each field: 0 for a number.
    """
    columns, there = [], []
    for i, count in enumerate(categories):
        one = record[:, i : i + 1]
        if count:
            index = one[:, 0].long().clamp(0, count - 1)
            one = F.one_hot(index, count)[:, 1:].to(record.dtype)
        columns.append(one)
        there.append(known[:, i : i + 1].expand(-1, one.shape[1]))
    return torch.cat(columns, 1), torch.cat(there, 1)


def covariance_of_known(
    centred: Float64[Tensor, "n f"], known: Bool[Tensor, "n f"], ridge: float = RIDGE
) -> Float64[Tensor, "f f"]:
    """Covariance from the films on which each two entries are known, as a positive definite matrix.

    `centred` is 0 where nothing is known. `ridge` films without any relation are added.
    """
    count = known.double().sum(0)
    both = known.double().T @ known.double()
    spread = centred.square().sum(0) / count.clamp_min(1)
    covariance = centred.T @ centred / (both + ridge)
    covariance = covariance + torch.diag(ridge / (count + ridge) * spread + 1e-6)
    values, vectors = torch.linalg.eigh(covariance)  # pairs known on other films: may be no
    fixed: Tensor = vectors * values.clamp_min(1e-6) @ vectors.T  # covariance; the nearest one
    return fixed


def fit_normative(
    x: Float[Tensor, "n d"],
    record: Float[Tensor, "n f"],
    known: Bool[Tensor, "n f"],
    *,
    ridge: float = RIDGE,
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
    covariance = covariance_of_known(centred, known, ridge)
    return Normative(x.mean(0).float(), record_mean.float(), cross.float(), covariance.float())


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
