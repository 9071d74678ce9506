"""Distances to the nearest of many points, and a small set of points that covers them all."""

from collections.abc import Callable
from math import sqrt

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

__all__ = ["k_centre", "nearest", "random_projection"]

# Looked at exactly beyond the k asked for: the fast distances only nearly rank the points.
SPARE = 8


def nearest(
    query: Float[Tensor, "q d"], memory: Float[Tensor, "n d"], k: int = 1, *, chunk: int = 4096
) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """Gives the Euclidean distances from each query to its k nearest points, nearest first, and
    which points these are.

    At most `chunk` x `chunk` distances are held at a time. The fast form |q|^2 - 2 q m + |m|^2
    loses digits where points lie close, and rounds differently for other batch sizes: it only
    picks candidates, whose distances are then taken directly. A row's result therefore does not
    depend on the rows beside it. Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= len(memory):
        raise ValueError(f"k = {k} neighbours of {len(memory)} points")
    centre = memory.mean(0)  # distances stay; the numbers that cancel get smaller
    parts = [
        _nearest(rows - centre, memory - centre, k, chunk) for rows in torch.split(query, chunk)
    ]  # query without rows: one empty part
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _nearest(query: Tensor, memory: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    best = query.new_empty(len(query), 0)
    place = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
    for start in range(0, len(memory), chunk):
        part = memory[start : start + chunk]
        # |q|^2 is left out: the same for all points of a row.
        squares = part.square().sum(1) - 2 * query @ part.T
        places = torch.arange(start, start + len(part), device=query.device).expand_as(squares)
        best, place = torch.cat([best, squares], 1), torch.cat([place, places], 1)
        best, indices = best.topk(min(k + SPARE, best.shape[1]), dim=1, largest=False)
        place = place.gather(1, indices)
    exact = (query[:, None] - memory[place]).square().sum(-1).sqrt()
    distance, indices = exact.topk(k, dim=1, largest=False)
    return distance, place.gather(1, indices)


def random_projection(
    points: Float[Tensor, "n d"], dimension: int, generator: Generator
) -> Float[Tensor, "n e"]:
    """The points in fewer dimensions, their distances about the same (Johnson, Lindenstrauss 1984).

    By a Gaussian matrix, scaled so that a squared distance is right on average. Points that have
    no more than `dimension` numbers stay as they are.
    """
    width = points.shape[1]
    if width <= dimension:
        return points
    matrix = torch.randn(width, dimension, generator=generator) / sqrt(dimension)
    return points @ matrix.to(points)


def k_centre(
    points: Float[Tensor, "n d"],
    size: int,
    generator: Generator,
    on_choice: Callable[[int], None] | None = None,
) -> tuple[Int64[Tensor, " m"], float]:
    """Chooses points such that no other is far from its nearest chosen one.

    Gives their indices in the order of choice, and the largest such distance. Greedy: begins
    with a random point and adds the one farthest from those chosen (Gonzalez 1985; Sener and
    Savarese 2018, algorithm 1; the coreset of PatchCore, Roth et al. 2022, eq. 5), which is at
    most twice as far as the best choice. `on_choice` is told how many are chosen: large sets
    take minutes. Needs memory for one number a point. Raises ValueError unless 1 <= size <= n.
    """
    if not 1 <= size <= len(points):
        raise ValueError(f"a coreset of {size} from {len(points)} points")
    first = int(torch.randint(len(points), (), generator=generator))
    centres = [first]
    # Distance to the nearest chosen point; -1 where chosen, so that nothing comes twice.
    far = _from_one(points, first)
    far[first] = -1
    while len(centres) < size:
        farthest = int(far.argmax())
        centres.append(farthest)
        far = torch.minimum(far, _from_one(points, farthest))
        far[farthest] = -1
        if on_choice is not None:
            on_choice(len(centres))
    return torch.tensor(centres, device=points.device), max(0.0, float(far.max()))


def _from_one(points: Tensor, index: int) -> Tensor:
    """Distances to one of the points, directly: no products that cancel, no copy of all points."""
    one = points[index : index + 1]
    return torch.cdist(points, one, compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
