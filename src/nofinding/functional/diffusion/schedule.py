"""How much of the film is left at each step of the diffusion: abar, and fewer steps of it."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

__all__ = [
    "cosine_abar",
    "ddim_timesteps",
    "linear_abar",
    "respace",
    "respaced_timesteps",
    "scaled_linear_abar",
]


def linear_abar(steps: int = 1000) -> Float64[Tensor, " T"]:
    """abar_t for beta rising linearly from 1e-4 to 0.02 over 1000 steps (Ho et al. 2020).

    For another number of steps both ends are scaled by 1000 / steps, so that the last step
    is as noisy.
    """
    scale = 1000 / steps
    beta = torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64)
    return (1 - beta).cumprod(0)


def scaled_linear_abar(
    steps: int = 1000, low: float = 0.0015, high: float = 0.0195
) -> Float64[Tensor, " T"]:
    """abar_t for the root of beta rising linearly (latent diffusion, Rombach et al. 2022).

    For another number of steps than 1000 both ends are scaled as in `linear_abar`.
    """
    scale = 1000 / steps
    roots = torch.linspace((low * scale) ** 0.5, (high * scale) ** 0.5, steps, dtype=torch.float64)
    return (1 - roots**2).cumprod(0)


def cosine_abar(steps: int = 1000) -> Float64[Tensor, " T"]:
    """abar_t of the squared-cosine schedule (Nichol and Dhariwal 2021, eq. 17)."""

    def f(u: Tensor) -> Tensor:
        return torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    t = torch.arange(steps, dtype=torch.float64)
    beta = 1 - f((t + 1) / steps) / f(t / steps)
    return (1 - beta.clamp(max=0.999)).cumprod(0)


def ddim_timesteps(steps: int, count: int) -> Int64[Tensor, " n"]:
    """Every i-th step, for the i that keeps exactly `kept` of them (Song et al. 2021).

    Raises ValueError where no whole stride does.
    """
    for stride in range(1, steps + 1):
        if len(range(0, steps, stride)) == count:
            return torch.arange(0, steps, stride)
    raise ValueError(f"no whole stride keeps {count} of {steps} steps")


def respaced_timesteps(steps: int, sections: Sequence[int]) -> Int64[Tensor, " n"]:
    """Steps kept when the schedule is cut into equal sections and `sections[i]` of the i-th
    are kept, evenly spread with both ends (Nichol and Dhariwal 2021, section 4).

    Raises ValueError where a section has fewer steps than are to be kept.
    """
    size, extra = divmod(steps, len(sections))
    start, timesteps = 0, []
    for index, count in enumerate(sections):
        length = size + (index < extra)
        if not 1 <= count <= length:
            raise ValueError(f"cannot keep {count} of a section of {length} steps")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0
        for _ in range(count):  # summed up, not multiplied: the published programs round so
            timesteps.append(start + round(place))
            place += stride
        start += length
    return torch.tensor(timesteps)


def respace(steps: int, spacing: str) -> Int64[Tensor, " n"]:
    """The steps that `spacing` keeps: "" all, "ddimN" every i-th, "10,20" counts a section.

    Raises ValueError where that cannot be done.
    """
    if not spacing:
        return torch.arange(steps)
    if spacing.startswith("ddim"):
        return ddim_timesteps(steps, int(spacing.removeprefix("ddim")))
    return respaced_timesteps(steps, [int(count) for count in spacing.split(",")])
