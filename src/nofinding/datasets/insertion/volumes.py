"""Lesions as bodies: densities on a grid of voxels, and the shadow that they throw.

Metaballs, superellipsoids and level sets of Gaussian random fields, with spicules, calcium and
cavities. Nothing here is a chord through an ellipsoid or a patch with a sigmoid for an edge, which
is what networks are taught on (`functional.anomalies`).
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

__all__ = ["Volume", "nodule", "random_field", "rasterised"]

Volume = Float[np.ndarray, "n n n"]

SIDE = 44  # voxels
REACH = 2.0  # the grid spans from -REACH to REACH, the lesion about -1 to 1


def random_field(
    shape: tuple[int, ...], scale: float, rng: np.random.Generator
) -> Float[np.ndarray, "*s"]:
    """A Gaussian random field of mean 0 and spread 1 whose bumps are `scale` cells wide."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), scale, mode="wrap")
    return np.asarray((field - field.mean()) / (field.std() + 1e-12))


def nodule(rng: np.random.Generator, *, kind: str) -> tuple[Volume, Bool[np.ndarray, "n n n"]]:
    """Relative density (1: soft tissue) of a nodule, and where its body is.

    `kind`: smooth, lobulated, spiculated, part-solid, calcified or cavitating.
    """
    axis = np.linspace(-REACH, REACH, SIDE)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    x, y, z = (turn[i, 0] * x + turn[i, 1] * y + turn[i, 2] * z for i in range(3))
    radius = np.sqrt(x * x + y * y + z * z) + 1e-9
    if kind == "smooth":
        power, axes = rng.uniform(1.7, 3.2), rng.uniform(0.75, 1.1, 3)
        level = 1 - sum(np.abs(c / a) ** power for c, a in zip((x, y, z), axes, strict=True))
        level = level + 0.08 * random_field(x.shape, 5, rng)
    else:
        level = _metaballs(x, y, z, rng) + 0.12 * random_field(x.shape, 3.5, rng)
    if kind == "spiculated":
        level = np.maximum(level, _spicules(x, y, z, radius, rng))
    body = level > 0
    labels, _ = ndimage.label(body)
    middle = labels[SIDE // 2, SIDE // 2, SIDE // 2]
    if middle:
        body = labels == middle
    density = ndimage.gaussian_filter(body.astype(np.float64), 0.7)
    if kind == "part-solid":
        core = ndimage.binary_erosion(body, iterations=int(rng.integers(4, 8)))
        density = density * (0.35 + 0.12 * random_field(x.shape, 2.5, rng))
        density = np.maximum(density, ndimage.gaussian_filter(core.astype(np.float64), 1.0))
    elif kind == "calcified":
        grains = random_field(x.shape, 2.2, rng) > rng.uniform(0.2, 0.9)
        density = density * (1 + 2.2 * (grains & (level > 0.15)))
    elif kind == "cavitating":
        wall = ndimage.distance_transform_edt(body)
        uneven = 1.2 * random_field(x.shape, 4, rng)
        density = density * (wall < 4.5 + uneven)
    else:
        density = density * (1 + 0.06 * random_field(x.shape, 2, rng))
    return np.maximum(density, 0), body


def _metaballs(
    x: Volume, y: Volume, z: Volume, rng: np.random.Generator
) -> Float[np.ndarray, "n n n"]:
    """Three to seven balls melted into one another; positive inside."""
    level = np.zeros_like(x)
    for _ in range(int(rng.integers(3, 8))):
        centre = rng.normal(0, 0.38, 3)
        size = rng.uniform(0.35, 0.75)
        squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
        level = level + np.exp(-squared / size**2)
    return level - 0.55


def _spicules(
    x: Volume, y: Volume, z: Volume, radius: Volume, rng: np.random.Generator
) -> Float[np.ndarray, "n n n"]:
    """Thin rays out of the body: positive where the direction has a peak of a field on a sphere."""
    field = random_field((SIDE, SIDE, SIDE), 2.0, rng)
    place = [(SIDE - 1) / 2 * (1 + 0.8 * c / radius) for c in (z, y, x)]
    peak = ndimage.map_coordinates(field, np.stack(place), order=1)
    length = 0.75 + 0.85 * np.maximum(peak - 0.9, 0) ** 0.7
    return np.where(peak > 0.9, length - radius, -1.0)


def rasterised(
    fine: Float[np.ndarray, "a b"],
    pitch: float,
    centre: tuple[float, float],
    shape: tuple[int, int],
) -> Float[np.ndarray, "h w"]:
    """A fine map laid on a film's pixels, each of which gets the mean of what falls on it.

    `pitch`: pixels a cell of the map; `centre`: row and column of its middle, in pixels.
    """
    finer = max(1, int(np.ceil(pitch * 5)))
    cells = ndimage.zoom(fine, finer, order=1, grid_mode=True, mode="grid-constant")
    step = pitch / finer
    rows, columns = (
        np.floor(c + 0.5 + (np.arange(n) - (n - 1) / 2) * step).astype(int)
        for c, n in zip(centre, cells.shape, strict=True)
    )
    inside_y, inside_x = (rows >= 0) & (rows < shape[0]), (columns >= 0) & (columns < shape[1])
    cells = cells[np.ix_(inside_y, inside_x)]
    index = rows[inside_y][:, None] * shape[1] + columns[inside_x][None]
    total = np.bincount(index.ravel(), cells.ravel(), minlength=shape[0] * shape[1])
    return np.asarray(total.reshape(shape) * step**2)
