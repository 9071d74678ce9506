"""What the methods share that start from many noise levels and see what comes back (Graham 2023).

The film is noised to several levels, denoised from each, and compared with what comes back by two
measures. Each measure at each level becomes a z-score under the same numbers of normal films.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nofinding.errors import UserError
from nofinding.functional.diffusion.plms import plms_calls

__all__ = ["MEASURES", "Restarts", "held_out", "statistics", "z_scores"]

MEASURES = ("mse", "perceptual")
Measured = Float[Tensor, "b t m"]  # of every row, level and measure

FLAT = 1e-8  # below this spread of the normal films a measure says nothing


@dataclass(frozen=True)
class Restarts:
    """From which levels one starts, and over which levels each start comes back."""

    paths: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, diffusion_steps: int, grid: int, skip: int, deepest: int) -> "Restarts":
        """Levels 0, stride, 2 stride, ... of the grid; starts are the second and every `skip`-th
        after it that is not above `deepest`. Raises UserError where there is none.
        """
        if not 2 <= grid <= diffusion_steps:
            raise UserError(f"grid {grid}: give 2 to {diffusion_steps}")
        if skip < 1:
            raise UserError(f"skip {skip}: give 1 or more")
        stride = diffusion_steps // grid
        levels = [stride * i for i in range(grid)]
        starts = [t for t in levels[1::skip] if t <= deepest]
        if not starts:
            raise UserError(f"deepest {deepest}: give {levels[1]} or more")
        return cls(tuple(tuple(k for k in reversed(levels) if k <= t) for t in starts))

    @property
    def calls(self) -> int:
        """Calls of the network a film."""
        return sum(plms_calls(len(path)) for path in self.paths)


def held_out(count: int, share: float, seed: int, name: str) -> tuple[list[int], list[int]]:
    """Films to learn from and films to take statistics from, by number, each in order.

    Which ones follows from the seed. Raises UserError where fewer than two would be held out.
    """
    if not 0 < share < 1:
        raise UserError(f"held_out {share:g}: give a share above 0 and below 1")
    held = round(share * count)
    if count < 4 or held < 2:
        raise UserError(
            f"{name}: {count} normal films, of which {held} would be held out; it takes 2 or more"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[held:]), sorted(order[:held])


def statistics(measured: Sequence[Measured]) -> dict[str, Tensor]:
    """Mean and spread of each measure at each level over normal films, (t, m)."""
    every = torch.cat(list(measured)).double()
    std, mean = torch.std_mean(every, dim=0)
    return {"mean": mean.float(), "std": std.float()}


def z_scores(measured: Measured, learnt: dict[str, Tensor]) -> Measured:
    """How many spreads each measure lies above its mean among normal films."""
    return (measured - learnt["mean"]) / learnt["std"].clamp_min(FLAT)
