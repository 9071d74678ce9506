"""How often one sees such numbers: a smooth density through the vectors of normal films."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

__all__ = ["Kernels", "fit_kernels", "log_density"]


class Kernels(NamedTuple):
    """A Gaussian kernel at each sample, all with the samples' covariance, made narrower."""

    points: Float64[Tensor, "n d"]  # whitened
    whiten: Float64[Tensor, "d d"]  # x -> whiten x: kernels become standard normal
    constant: Float64[Tensor, ""]  # the logarithm of n times a kernel's integral


def fit_kernels(x: Float[Tensor, "n d"], *, least: float = 1e-9) -> Kernels:
    """Kernel density of these samples with Scott's bandwidth n^(-1 / (d + 4)) (Scott 1992).

    `least` is a floor of the variance in any direction of the standardised samples: where they are
    all alike, the density is high and not infinite. Raises ValueError for fewer than two.
    """
    n, d = x.shape
    if n < 2:
        raise ValueError(f"a density of {n} samples; give 2 or more")
    spread = x.double().std(0).clamp_min(1e-12)
    values, vectors = torch.linalg.eigh((x.double() / spread).T.cov().reshape(d, d))
    width = n ** (-1 / (d + 4))
    sizes = values.clamp_min(least).sqrt() * width
    whiten = (vectors / sizes).T / spread
    volume = sizes.log().sum() + spread.log().sum() + d / 2 * math.log(2 * math.pi)
    return Kernels(x.double() @ whiten.T, whiten, volume + math.log(n))


def log_density(x: Float[Tensor, "b d"], of: Kernels) -> Float64[Tensor, " b"]:
    """The logarithm of the density; finite however far away. Each row by itself."""
    white = (x.double()[:, None, :] * of.whiten).sum(-1)  # not a product: see gaussian.distance
    squares = (white[:, None, :] - of.points).square().sum(-1)
    return (-squares / 2).logsumexp(1) - of.constant
