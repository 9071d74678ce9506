"""Random numbers that belong to a row, not to a batch.

Every row has a generator of its own, seeded from (seed, key). What a film or a training row
draws therefore never depends on its neighbours, the batch size, the order or the process.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Generator, Tensor

__all__ = [
    "gaussian",
    "generators",
    "integers",
    "octave_wavelengths",
    "open_simplex",
    "simplex",
    "uniform",
]

Grid = Float64[Tensor, "b n"]

# OpenSimplex in two dimensions (Spencer 2014): the square lattice squeezed along its diagonal
# until its cells are pairs of equilateral triangles of side sqrt(2).
STRETCH, SQUISH = (3**-0.5 - 1) / 2, (3**0.5 - 1) / 2
# Every lattice point whose bump, of radius sqrt(2), may reach into the cell at (0, 0).
VERTICES = ((0, 0), (1, 0), (0, 1), (1, 1), (1, -1), (-1, 1), (2, 0), (0, 2))
SLOPES = ((5, 2), (2, 5), (-5, 2), (-2, 5), (5, -2), (2, -5), (-5, -2), (-2, -5))
SCALE = 47
# Its variance, over places and permutations. A vertex has a bump (2 - r^2)^4 times a slope of
# length sqrt(29), of which half the square counts, on sqrt(3) of area; in polar coordinates the
# integral of (2 - r^2)^8 r^2 is pi 2^10 B(2, 9), with B(2, 9) = 1 / 90.
VARIANCE = 29 / 2 / SCALE**2 * math.pi * 2**10 / 90 / 3**0.5


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


def open_simplex(x: Grid, y: Grid, permutation: Int64[Tensor, "b 256"]) -> Grid:
    """OpenSimplex noise at these places, each row by its own permutation of 0 .. 255.

    Smooth, of mean 0, with features about 1 wide: a sum of bumps, one at each point of a
    triangular lattice, each times a slope that the permutation chooses out of eight.
    """
    shift = (x + y) * STRETCH
    column, row = (x + shift).floor(), (y + shift).floor()
    slopes = torch.tensor(SLOPES, dtype=x.dtype)
    total = torch.zeros_like(x)
    for across, down in VERTICES:
        i, j = column + across, row + down
        back = (i + j) * SQUISH
        dx, dy = x - i - back, y - j - back
        bump = (2 - dx**2 - dy**2).clamp_min(0) ** 4
        first = permutation.gather(1, i.long() & 255)
        slope = slopes[(permutation.gather(1, (first + j.long()) & 255) & 14) // 2]
        total += bump * (slope[..., 0] * dx + slope[..., 1] * dy)
    return total.div(SCALE)


def octave_wavelengths(wavelength: float, octaves: int) -> list[float]:
    """In pixels, halved from octave to octave; those under 2 pixels, which a film cannot show, are
    left out, but never the first."""
    each = [wavelength / 2**k for k in range(octaves)]
    return [w for k, w in enumerate(each) if k == 0 or w >= 2]


def simplex(
    shape: Sequence[int],
    rows: Sequence[Generator],
    *,
    wavelength: float,
    octaves: int = 6,
    persistence: float = 0.8,
) -> Float[Tensor, "b ..."]:
    """Simplex noise of `shape` (c, h, w) for each row: stronger the coarser, unlike Gaussian.

    A sum of OpenSimplex noises, the first with features of about `wavelength` pixels, each
    further one half as coarse and `persistence` times as strong (Wyatt et al. 2022). Scaled to a
    variance of 1 over many rows; a single row's may be off, for it has few coarse features. Every
    row has its own permutation, and its own place in the noise in every octave.
    """
    channels, high, wide = shape
    y, x = torch.meshgrid(
        torch.arange(high, dtype=torch.float64),
        torch.arange(wide, dtype=torch.float64),
        indexing="ij",
    )
    y, x = y.flatten().repeat(channels), x.flatten().repeat(channels)
    permutation = torch.stack([torch.randperm(256, generator=row) for row in rows])
    total = torch.zeros(len(rows), channels * high * wide, dtype=torch.float64)
    power = 0.0
    for octave, pixels in enumerate(octave_wavelengths(wavelength, octaves)):
        places = 256 * uniform((2, channels), rows).double().repeat_interleave(high * wide, 2)
        there = open_simplex(x / pixels + places[:, 0], y / pixels + places[:, 1], permutation)
        total += persistence**octave * there
        power += persistence ** (2 * octave)
    noise: Tensor = (total / (VARIANCE * power) ** 0.5).float().reshape(-1, *shape)
    return noise
