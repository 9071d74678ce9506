"""How far a film is from its pseudo-healthy version. Films in [0, 1] throughout."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["max_abs", "min_max", "mse", "residual_map", "ssim_map"]

Film = Float[Tensor, "b 1 h w"]


def residual_map(x: Film, normal: Film) -> Film:
    """The anomaly map |x - x'|, in grey levels of [0, 1]."""
    return (x - normal).abs()


def mse(x: Film, normal: Film) -> Float[Tensor, " b"]:
    """Mean squared difference of the grey levels."""
    return (x - normal).square().flatten(1).mean(1)


def max_abs(x: Film, normal: Film) -> Float[Tensor, " b"]:
    """The largest difference at any pixel."""
    return (x - normal).abs().flatten(1).amax(1)


def min_max(x: Film) -> Film:
    """Each film stretched by itself to 0 .. 1; a blank one becomes 0."""
    low, high = x.flatten(1).aminmax(dim=1)
    span = (high - low).clamp_min(torch.finfo(x.dtype).tiny)
    return (x - low[:, None, None, None]) / span[:, None, None, None]


def ssim_map(x: Film, normal: Film) -> Film:
    """Structural similarity at every pixel, at most 1 (Wang et al. 2004, eq. 13).

    Gaussian window of 11 pixels, sigma 1.5, borders reflected; a film smaller than the
    window gets the largest odd window that fits.
    """
    size = min(11, 2 * ((min(x.shape[-2:]) - 1) // 2) + 1)
    offset = torch.arange(size, device=x.device, dtype=x.dtype) - size // 2
    weights = torch.exp(-(offset**2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    window = (weights[:, None] * weights[None, :])[None, None]

    def blur(film: Tensor) -> Tensor:
        return F.conv2d(F.pad(film, [size // 2] * 4, mode="reflect"), window)

    mx, my = blur(x), blur(normal)
    vx = blur(x * x) - mx * mx
    vy = blur(normal * normal) - my * my
    cov = blur(x * normal) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
