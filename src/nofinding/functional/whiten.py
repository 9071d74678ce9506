"""Maps of features made alike: every cell against its own place, every channel of equal weight."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Whitening", "fit_whitening", "whitened"]

PORTION = 64  # films at a time, for the memory's sake


class Whitening(NamedTuple):
    """Learnt from normal films; `whitened` applies it."""

    mean: Float[Tensor, "c n n"]  # at each place: an apex is compared with apices
    project: Float[Tensor, "d c"]  # on to d directions of unit variance
    spread: Float[Tensor, "d n n"]  # that is left at each place


def fit_whitening(
    maps: Float[Tensor, "b c n n"], channels: int, *, least: float = 1e-3
) -> Whitening:
    """Principal directions of what is left when the mean of each place is gone.

    The `channels` strongest are kept and scaled to unit variance, a weak one less than that
    (`least`, relative to the mean variance, is added). Raises ValueError for more channels than
    there are features.
    """
    if not 1 <= channels <= maps.shape[1]:
        raise ValueError(f"{channels} channels of {maps.shape[1]} features")
    zero = torch.zeros(maps.shape[1:])
    mean = sum((maps[i : i + PORTION].float().sum(0) for i in _starts(maps)), zero) / len(maps)
    second = torch.zeros(maps.shape[1], maps.shape[1], dtype=torch.float64)
    for i in _starts(maps):
        rows = (maps[i : i + PORTION].float() - mean).permute(0, 2, 3, 1).flatten(0, 2).double()
        second += rows.T @ rows
    second /= len(maps) * maps.shape[2] * maps.shape[3]
    values, vectors = torch.linalg.eigh(second)
    strongest = values.argsort(descending=True)[:channels]
    scale = (values[strongest] + least * values.mean()).clamp_min(1e-12).sqrt()
    flat = Whitening(mean, (vectors[:, strongest] / scale).T.float(), torch.ones(1))
    energy = torch.zeros(channels, *maps.shape[2:])
    for i in _starts(maps):
        energy += whitened(maps[i : i + PORTION].float(), flat).square().sum(0)
    return flat._replace(spread=(energy / len(maps)).sqrt().clamp_min(0.1))


def _starts(maps: Tensor) -> range:
    return range(0, len(maps), PORTION)


def whitened(maps: Float[Tensor, "b c n n"], by: Whitening) -> Float[Tensor, "b d n n"]:
    """The maps with about zero mean and unit variance at every place and in every channel."""
    return torch.einsum("bchw,dc->bdhw", maps - by.mean, by.project) / by.spread
