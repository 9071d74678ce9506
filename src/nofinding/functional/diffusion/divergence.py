"""How far two Gaussians are from each other, and two steps back along a diffusion."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["gaussian_kl", "posterior", "step_kl"]

Image = Float[Tensor, "b ..."]


def gaussian_kl(mean: Image, variance: Tensor, other: Image, other_variance: Tensor) -> Image:
    """KL(N(mean, variance) || N(other, other_variance)) of every entry by itself, in nats."""
    ratio = variance / other_variance
    return 0.5 * ((mean - other).square() / other_variance + ratio - 1 - ratio.log())


def posterior(x: Image, x0: Image, abar_from: float, abar_to: float) -> tuple[Image, float]:
    """Mean and variance of q(x_to | x, x0), of every entry (Ho et al. 2020, eq. 6 and 7)."""
    alpha = abar_from / abar_to
    beta = 1 - alpha
    mean = (abar_to**0.5 * beta / (1 - abar_from)) * x0
    mean = mean + (alpha**0.5 * (1 - abar_to) / (1 - abar_from)) * x
    return mean, beta * (1 - abar_to) / (1 - abar_from)


def step_kl(
    x: Image,
    x0: Image,
    estimate: Image,
    abar_from: float,
    abar_to: float,
    variance: str = "posterior",
) -> Image:
    """KL(q(x_to | x, x0) || p(x_to | x)) of every entry: L_{t-1} of Ho et al. 2020, eq. 5.

    p has the mean that the network's clean film `found` implies, and one of the two variances of
    that paper's section 3.2: "posterior", that of q, or "beta", that of the forward step.
    """
    mean, own = posterior(x, x0, abar_from, abar_to)
    other, _ = posterior(x, estimate, abar_from, abar_to)
    wide = own if variance == "posterior" else 1 - abar_from / abar_to
    return gaussian_kl(mean, torch.tensor(own).to(x), other, torch.tensor(wide).to(x))
