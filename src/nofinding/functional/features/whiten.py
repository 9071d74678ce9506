"""Maps of features made alike: every cell against its own place, every channel of equal weight,
and deaf to what only the acquisition changes."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

__all__ = ["Whitening", "fit_whitening", "whitened"]

PORTION = 64  # films at a time, for the memory's sake


class Whitening(NamedTuple):
    """Learnt from normal films; `whitened` applies it."""

    mean: Float[Tensor, "c n n"]  # at each place: an apex is compared with apices
    project: Float[Tensor, "d c"]  # on to d directions of unit variance
    spread: Float[Tensor, "d n n"]  # that is left at each place


def fit_whitening(
    maps: Float[Tensor, "b c n n"],
    channels: int,
    nuisance: Float[Tensor, "m c n n"] | None = None,
    *,
    least: float = 1e-3,
) -> Whitening:
    """The `channels` directions in which films differ most, for what acquisition changes there.

    C is the covariance of what is left when the mean of each place is gone, N the second moment
    of `nuisance`, the changes that another exposure made to the maps of the same film. The
    directions maximise v'Cv / v'(C + N + floor)v, as in linear discriminant analysis, and are
    scaled so that the denominator is 1; `least` is the floor, relative to the mean variance.
    Without `nuisance` these are the principal directions. Raises ValueError for more channels
    than there are features.
    """
    if not 1 <= channels <= maps.shape[1]:
        raise ValueError(f"{channels} channels of {maps.shape[1]} features")
    zero = torch.zeros(maps.shape[1:])
    mean = sum((maps[i : i + PORTION].float().sum(0) for i in _starts(maps)), zero) / len(maps)
    between = _second_moment(maps, mean)
    total = between + least * between.diagonal().mean() * torch.eye(len(between))
    if nuisance is not None and len(nuisance):
        total = total + _second_moment(nuisance, zero)
    values, vectors = torch.linalg.eigh(total)
    root = vectors / values.clamp_min(1e-12).sqrt()  # root' total root is the identity
    share, turn = torch.linalg.eigh(root.T @ between @ root)
    strongest = share.argsort(descending=True)[:channels]
    project = (root @ turn[:, strongest]).T
    # An eigenvector's sign means nothing: the largest entry is made positive, so that rounding
    # elsewhere cannot turn a direction round.
    largest = project.gather(1, project.abs().argmax(dim=1, keepdim=True))
    flat = Whitening(mean, (project * largest.sign()).float(), torch.ones(1))
    energy = torch.zeros(channels, *maps.shape[2:])
    for i in _starts(maps):
        energy += whitened(maps[i : i + PORTION].float(), flat).square().sum(0)
    return flat._replace(spread=(energy / len(maps)).sqrt().clamp_min(0.1))


def _second_moment(
    maps: Float[Tensor, "b c n n"], mean: Float[Tensor, "c n n"]
) -> Float64[Tensor, "c c"]:
    """Over all films and places, about `mean`."""
    total = torch.zeros(maps.shape[1], maps.shape[1], dtype=torch.float64)
    for i in _starts(maps):
        rows = (maps[i : i + PORTION].float() - mean).permute(0, 2, 3, 1).flatten(0, 2).double()
        total += rows.T @ rows
    return total / (len(maps) * maps.shape[2] * maps.shape[3])


def _starts(maps: Tensor) -> range:
    return range(0, len(maps), PORTION)


def whitened(maps: Float[Tensor, "b c n n"], by: Whitening) -> Float[Tensor, "b d n n"]:
    """The maps with about zero mean and unit variance at every place and in every channel."""
    return torch.einsum("bchw,dc->bdhw", maps - by.mean, by.project) / by.spread
