"""Steps along the diffusion. abar may be a number a row: it is broadcast over the pixels."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["add_noise", "ddim_step", "ddpm_step", "predict_eps", "predict_x0"]

Image = Float[Tensor, "b ..."]
Level = Float[Tensor, "..."]  # abar: a scalar, or one a row (b,)


def _over(abar: Level, x: Image) -> Tensor:
    """abar in double precision, shaped to multiply x."""
    # On the CPU, since not every device knows double precision; `.to(x)` takes the results over.
    abar = torch.as_tensor(abar, dtype=torch.float64, device="cpu")
    return abar.reshape(-1, *[1] * (x.ndim - 1))


def add_noise(x0: Image, noise: Image, abar: Level) -> Image:
    """The film under noise: x_t = sqrt(abar) x0 + sqrt(1 - abar) eps (Ho et al. 2020, eq. 4)."""
    a = _over(abar, x0)
    return a.sqrt().to(x0) * x0 + (1 - a).sqrt().to(x0) * noise


def predict_x0(x: Image, eps: Image, abar: Level) -> Image:
    """The clean film that x and its noise imply: (x - sqrt(1 - abar) eps) / sqrt(abar)."""
    a = _over(abar, x)
    return (x - (1 - a).sqrt().to(x) * eps) / a.sqrt().to(x)


def predict_eps(x: Image, x0: Image, abar: Level) -> Image:
    """The noise that x and a clean film imply: (x / sqrt(abar) - x0) / sqrt(1 / abar - 1)."""
    a = _over(abar, x)
    return (x / a.sqrt().to(x) - x0) / (1 / a - 1).sqrt().to(x)


def ddim_step(x0: Image, eps: Image, abar_to: Level) -> Image:
    """x at another noise level: Song et al. 2021, eq. 12 with sigma = 0, from its two terms.

    Runs either way along the schedule. Taking x0 rather than x lets the caller say where
    the clean film comes from: from x itself (`predict_x0(x, eps, abar)`), or from the
    regenerated image of Diff3M.
    """
    return add_noise(x0, eps, abar_to)


def ddpm_step(
    x: Image,
    x0: Image,
    noise: Image,
    abar_from: Level,
    abar_to: Level,
    *,
    variance: Literal["posterior", "beta"] = "posterior",
) -> Image:
    """A draw from q(x_to | x, x0), the Gaussian posterior (Ho et al. 2020, eq. 6 and 7).

    `variance`: that of the posterior, or the larger beta of the step (both in their section 3.2).
    """
    a, b = _over(abar_from, x), _over(abar_to, x)
    beta = 1 - a / b
    mean = (b.sqrt() * beta / (1 - a)).to(x) * x0 + ((a / b).sqrt() * (1 - b) / (1 - a)).to(x) * x
    spread = beta if variance == "beta" else beta * (1 - b) / (1 - a)
    return mean + spread.sqrt().to(x) * noise
