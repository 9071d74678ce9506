"""How well a record fits a film: what the features of normal films say of the patient's record.

Of features and record that are jointly Gaussian, the distance given the record is the plain
distance and one term more: D(x | z) = D(x) + D(z | x) - D(z). That term is the pointwise mutual
information of film and record, in nats, with its sign turned. It is about 0 where a film tells
nothing of an entry, and large where the film is that of another patient. Among a thousand features
it would be lost in D(x); by itself it is not.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from nofinding.functional.features.normative import covariance_of_known

__all__ = ["Evidence", "RecordFit", "fit_record", "misfit"]

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the ridge regression, in units of a feature's variance; which is used, held-out films say."""


class RecordFit(NamedTuple):
    """Learnt from normal films."""

    mean: Float[Tensor, " d"]  # of features
    record_mean: Float[Tensor, " c"]
    slope: Float[Tensor, "d c"]  # what a feature says of each column of the record
    prior: Float[Tensor, "c c"]  # covariance of the record
    left: Float[Tensor, "c c"]  # of what features leave of it, on films held out


class Evidence(NamedTuple):
    """Whether film and record belong together, on normal films that were held out."""

    misfit: Float[Tensor, " n"]  # of each film, in nats
    gain: float  # nats by which the record lowers a film's negative log likelihood, on average
    error: float  # its standard error

    @property
    def pays(self) -> bool:
        """Whether the gain is above 0 by more than chance (one-sided, 2.5 %)."""
        return self.gain > 1.96 * self.error


def fit_record(
    x: Float[Tensor, "n d"],
    nuisance: Float[Tensor, "m d"] | None,
    record: Float[Tensor, "n c"],
    known: Bool[Tensor, "n c"],
    fold: Int64[Tensor, " n"],
    penalties: Sequence[float] = PENALTIES,
) -> tuple[RecordFit, Evidence]:
    """Ridge regression of the record on features, and what it is worth on films held out.

    `nuisance` are changes that another acquisition makes, as for `fit_gaussian`: directions not to
    rely on. Each of the penalties is tried on the folds; the likeliest is used for all films.
    """
    scale = x.double().std(0).clamp_min(1e-6)
    x = x.double() / scale
    changes = None
    if nuisance is not None and len(nuisance):
        moved = nuisance.double() / scale
        changes = moved.T @ moved / len(moved)
    record_mean, z = _centred(record, known)
    left = torch.zeros(len(penalties), *z.shape, dtype=torch.float64)
    for number in sorted(set(fold.tolist())):
        inside = fold == number
        own_mean, own = _centred(record[~inside], known[~inside])
        mean, slopes = _slopes(x[~inside], changes, own, known[~inside], penalties)
        there = (record[inside].double() - own_mean).masked_fill(~known[inside], 0)
        for k, slope in enumerate(slopes):
            left[k, inside] = (there - (x[inside] - mean) @ slope).masked_fill(~known[inside], 0)
    values = torch.stack([_held_out(z, one, known, fold) for one in left])
    best = int(values.mean(1).argmin())
    mean, (slope,) = _slopes(x, changes, z, known, penalties[best : best + 1])
    by = RecordFit(
        (mean * scale).float(),
        record_mean.float(),
        (slope / scale[:, None]).float(),
        covariance_of_known(z, known).float(),
        covariance_of_known(left[best], known).float(),
    )
    gains = -values[best]
    some = known.any(1)
    error = float(gains.std() / max(int(some.sum()), 1) ** 0.5)
    return by, Evidence(values[best].float(), float(gains.mean()), error)


def misfit(
    by: RecordFit,
    x: Float[Tensor, "b d"],
    record: Float[Tensor, "b c"],
    known: Bool[Tensor, "b c"],
) -> Float[Tensor, " b"]:
    """log p(record) - log p(record | film), in nats: high where the film is not this patient's.

    0 where nothing is known; entries that are not known are marginalised.
    """
    z = (record.double() - by.record_mean.double()).masked_fill(~known, 0)
    # Row by row: a matrix product rounds differently for another number of rows.
    said = torch.stack([row @ by.slope.double() for row in (x - by.mean).double()])
    left = (z - said).masked_fill(~known, 0)
    return _misfit(z, left, known, by.prior.double(), by.left.double()).float()


def _centred(record: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    values = record.double().masked_fill(~known, 0)
    mean = values.sum(0) / known.double().sum(0).clamp_min(1)
    return mean, (values - mean).masked_fill(~known, 0)


def _slopes(
    x: Float64[Tensor, "n d"],
    changes: Float64[Tensor, "d d"] | None,
    z: Float64[Tensor, "n c"],
    known: Bool[Tensor, "n c"],
    penalties: Sequence[float],
) -> tuple[Tensor, list[Tensor]]:
    """The features' mean, and the slope (d, c) for each penalty."""
    mean = x.mean(0)
    centred = x - mean
    covariance = centred.T @ centred / len(x)
    if changes is not None:
        covariance = covariance + changes
    cross = centred.T @ z / known.double().sum(0).clamp_min(1)
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    return mean, [
        torch.cholesky_solve(cross, torch.linalg.cholesky(covariance + penalty * identity))
        for penalty in penalties
    ]


def _held_out(
    z: Tensor, left: Tensor, known: Tensor, fold: Int64[Tensor, " n"]
) -> Float64[Tensor, " n"]:
    """The misfit of each film by covariances of the other folds."""
    values = torch.zeros(len(z), dtype=torch.float64)
    for number in sorted(set(fold.tolist())):
        inside = fold == number
        prior = covariance_of_known(z[~inside], known[~inside])
        rest = covariance_of_known(left[~inside], known[~inside])
        values[inside] = _misfit(z[inside], left[inside], known[inside], prior, rest)
    return values


def _misfit(z: Tensor, left: Tensor, known: Tensor, prior: Tensor, rest: Tensor) -> Tensor:
    """Half of D(z | x) - D(z), determinants included, over the known entries of each film."""
    out = torch.zeros(len(z), dtype=torch.float64)
    for i, there in enumerate(known):
        if bool(there.any()):
            out[i] = _surprisal(left[i, there], rest[there][:, there]) - _surprisal(
                z[i, there], prior[there][:, there]
            )
    return out


def _surprisal(apart: Float64[Tensor, " k"], covariance: Float64[Tensor, "k k"]) -> Tensor:
    """Minus the logarithm of a Gaussian's density, without the constant of its dimension."""
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, apart[:, None], upper=False)
    surprisal: Tensor = white.square().sum() / 2 + root.diagonal().log().sum()
    return surprisal
