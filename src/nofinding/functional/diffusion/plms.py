"""The pseudo linear multi-step sampler: few, deterministic steps from noise to a clean film."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nofinding.functional.diffusion.sampler import ddim_step, predict_x0

__all__ = ["plms", "plms_calls"]

Image = Float[Tensor, "b ..."]
# Adams and Bashforth's weights for the newest noise and those before it, by how many there are.
WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def plms(
    look: Callable[[Image, int], Image],
    x: Image,
    steps: Sequence[int],
    abar: Float[Tensor, " T"],
) -> Image:
    """x at level steps[0], denoised level by level to abar = 1: Liu et al. 2022 (PNDM), eq. 12, 13.

    `steps` fall, and `look(x, k)` is the noise that the network sees in x at level k. The first
    step is taken twice, the second time with the mean of the noise at both of its ends; all
    later ones go by the noise of up to four levels (Adams and Bashforth). `plms_calls` looks.
    """
    levels = [*(float(abar[k]) for k in steps), 1.0]
    past: list[Tensor] = []  # the newest first
    for i, k in enumerate(steps):
        here, there = levels[i], levels[i + 1]
        past = [look(x, k), *past[:3]]
        if i == 0 and len(steps) > 1:
            ahead = _to(x, past[0], here, there)
            eps = (past[0] + look(ahead, steps[1])) / 2
        else:
            weights = WEIGHTS[len(past)]
            eps = torch.stack([w * e for w, e in zip(weights, past, strict=True)]).sum(0)
        x = _to(x, eps, here, there)
    return x


def plms_calls(steps: int) -> int:
    """Calls of the network that `plms` makes for so many levels."""
    return steps + (steps > 1)


def _to(x: Image, eps: Image, here: float, there: float) -> Image:
    """Eq. 11 of PNDM, which is the DDIM step with that noise."""
    abar_here, abar_there = torch.tensor(here).double(), torch.tensor(there).double()
    return ddim_step(predict_x0(x, eps, abar_here), eps, abar_there)
