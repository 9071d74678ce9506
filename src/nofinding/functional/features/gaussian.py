"""A Gaussian through feature vectors, and how far others are from it."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

__all__ = ["Gaussian", "distance", "fit_gaussian", "ledoit_wolf", "out_of_fold", "shrunk"]


class Gaussian(NamedTuple):
    """Its centre, and a matrix that makes its spread the same in all directions."""

    mean: Float[Tensor, " d"]
    whiten: Float[Tensor, "d d"]  # x -> whiten (x - mean) has the identity for covariance


def ledoit_wolf(x: Float[Tensor, "n d"]) -> Float64[Tensor, "d d"]:
    """The covariance, shrunk towards a sphere as far as few samples ask for.

    Ledoit and Wolf, J. Multivariate Analysis 88, 2004, lemma 3.2 to 3.5: the shrinkage that
    loses least in mean square. Positive definite even where n < d, unless all rows are alike.
    """
    n, d = x.shape
    centred = x.double() - x.double().mean(0)
    sample = centred.T @ centred / n
    scale = sample.diagonal().mean()  # of the sphere
    sphere = scale * torch.eye(d, dtype=torch.float64, device=x.device)
    apart = (sample - sphere).square().sum()
    # The scatter of each row's own x x^T about the sample covariance, without forming any.
    noise = (centred.square().sum(1).square().sum() / n - sample.square().sum()) / n
    share = (noise / apart).clamp(0, 1) if apart > 0 else torch.ones_like(apart)
    return (1 - share) * sample + share * sphere


def shrunk(x: Float[Tensor, "n d"], share: float) -> Float64[Tensor, "d d"]:
    """The covariance with `share` (0 to 1) of a sphere of the same mean variance mixed in."""
    centred = x.double() - x.double().mean(0)
    sample = centred.T @ centred / len(x)
    sphere = sample.diagonal().mean() * torch.eye(len(sample), dtype=torch.float64, device=x.device)
    return (1 - share) * sample + share * sphere


def fit_gaussian(
    x: Float[Tensor, "n d"],
    nuisance: Float[Tensor, "m d"] | None = None,
    *,
    least: float = 1e-6,
    shrinkage: float | None = None,
) -> Gaussian:
    """The Gaussian of normal films' features, wide where features only follow the acquisition.

    `nuisance` are the changes that another exposure or position made to the features of the same
    film. Their second moment is added to the covariance, so that a step in such a direction
    counts little (within-class covariance normalisation, Hatch et al., Interspeech 2006).
    `least` is a floor of the variance, relative to its mean; `shrinkage` replaces the share of a
    sphere that Ledoit and Wolf advise.
    """
    covariance = ledoit_wolf(x) if shrinkage is None else shrunk(x, shrinkage)
    if nuisance is not None and len(nuisance):
        changes = nuisance.double()
        covariance = covariance + changes.T @ changes / len(changes)
    values, vectors = torch.linalg.eigh(covariance)
    floor = (least * values.mean()).clamp_min(1e-12)  # where all rows are alike: not infinite
    whiten = (vectors / values.clamp_min(floor).sqrt()).T
    return Gaussian(x.double().mean(0).float(), whiten.float())


def distance(x: Float[Tensor, "b d"], of: Gaussian) -> Float[Tensor, " b"]:
    """The Mahalanobis distance, divided by sqrt(d): about 1 for the films it was fitted on."""
    # Row by row in double: a matrix product rounds differently for another number of rows.
    white = (x - of.mean).double() @ of.whiten.double().T
    return white.square().mean(1).sqrt().float()


def out_of_fold(
    x: Float[Tensor, "n d"], nuisance: Float[Tensor, "m d"] | None, fold: Int64[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Each row's distance from the Gaussian of the other folds; `fold` numbers that of each row.

    Within its own Gaussian a film is nearer than a new one would be, the more so the fewer films.
    """
    distances = torch.empty(len(x))
    for number in sorted(set(fold.tolist())):
        inside = fold == number
        distances[inside] = distance(x[inside], fit_gaussian(x[~inside], nuisance))
    return distances
