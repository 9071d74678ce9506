"""Random numbers that belong to a row, not to a batch.

Every row has a generator of its own, seeded from (seed, key). What a film or a training row
draws therefore never depends on its neighbours, the batch size, the order or the process.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

__all__ = ["gaussian", "generators", "integers", "uniform"]


def generators(seed: int, keys: Sequence[str | int]) -> list[Generator]:
    """One generator a key, on the CPU, a pure function of the seed and that key.

    Draws are made on the CPU and moved, so that a GPU and a CPU see the same noise.
    """
    rows = []
    for key in keys:
        digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
        rows.append(Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1))
    return rows


def gaussian(shape: Sequence[int], rows: Sequence[Generator]) -> Float[Tensor, "b ..."]:
    """Standard normal noise of `shape` for each row: (len(rows), *shape)."""
    return torch.stack([torch.randn(tuple(shape), generator=row) for row in rows])


def uniform(shape: Sequence[int], rows: Sequence[Generator]) -> Float[Tensor, "b ..."]:
    """Uniform noise in [0, 1) of `shape` for each row: (len(rows), *shape)."""
    return torch.stack([torch.rand(tuple(shape), generator=row) for row in rows])


def integers(low: int, high: int, rows: Sequence[Generator]) -> Int64[Tensor, " b"]:
    """A whole number in low, ..., high - 1 for each row."""
    return torch.stack([torch.randint(low, high, (), generator=row) for row in rows])
