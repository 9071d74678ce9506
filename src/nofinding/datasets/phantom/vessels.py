"""The lung vessels: two trees that fork from the lung roots and grow thinner outwards."""

import numpy as np
from scipy.ndimage import gaussian_filter

from nofinding.datasets.phantom.anatomy import Anatomy
from nofinding.datasets.phantom.tissue import Grid, Map

__all__ = ["draw", "vessels"]

_ORDERS = 6  # generations of branches
_POINTS = 14  # samples of a branch
_FORK = 0.76  # radius of a daughter over its mother's; Murray's law gives 0.79 at equal forks


def vessels(body: Anatomy, grid: Grid) -> Map:
    """Centimetres of blood in the lung vessels on each ray, if all of it lay in air-filled lung."""
    rng = np.random.default_rng(body.tree % 2**63)
    drawn = []
    starts = [_roots(side, body, rng) for side in (-1, 1)]
    x, y, angle, radius, length = (np.concatenate(part) for part in zip(*starts, strict=True))
    for _ in range(_ORDERS):
        along = np.linspace(0, 1, _POINTS)
        bend = rng.normal(0, 0.4, len(x))
        heading = angle[:, None] + bend[:, None] * along
        step = length[:, None] / _POINTS
        path_x = x[:, None] + np.cumsum(np.cos(heading) * step, 1)
        path_y = y[:, None] + np.cumsum(np.sin(heading) * step, 1)
        drawn.append((path_x, path_y, np.broadcast_to(radius[:, None], path_x.shape), step))
        ends = [np.repeat(value, 2) for value in (path_x[:, -1], path_y[:, -1], heading[:, -1])]
        spread = rng.uniform(0.2, 0.55, len(x))
        x, y, angle = ends
        angle = angle + np.stack([spread, -spread], 1).ravel() + rng.normal(0, 0.12, len(angle))
        radius, length = np.repeat(radius * _FORK, 2), np.repeat(length * 0.78, 2)
        length = length * rng.uniform(0.75, 1.25, len(length))
    blood = np.zeros_like(grid.x)
    for orders in (drawn[:1], drawn[1:3], drawn[3:]):  # fine ones look alike: one blur
        pieces = [
            np.concatenate([np.broadcast_to(order[i], order[0].shape) for order in orders])
            for i in range(4)
        ]
        blood += draw(body, grid, *pieces)
    return blood


def _roots(side: int, body: Anatomy, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """The first branches of one lung: place, heading, radius and length of each."""
    count = 10
    fan = np.linspace(-1.25, 1.35, count) + rng.normal(0, 0.12, count)  # 0 is straight outwards
    angle = fan if side > 0 else np.pi - fan
    high = (0.42 if side < 0 else 0.39) * body.lung_length  # the left root stands higher
    x = side * (3.3 + rng.uniform(0, 0.6, count)) + (0.3 if side > 0 else 0.0)
    y = high + 1.3 * np.sin(fan) + rng.normal(0, 0.2, count)
    down = 1 + 0.35 * np.maximum(np.sin(fan), 0)  # standing, more blood runs to the bases
    return x, y, angle, 0.34 * down * rng.uniform(0.8, 1.15, count), 3.6 * down


def draw(
    body: Anatomy,
    grid: Grid,
    path_x: np.ndarray,
    path_y: np.ndarray,
    radius: np.ndarray,
    step: np.ndarray,
) -> Map:
    """Cm on each ray through tubes, a row each: a piece holds pi r^2 x step, over its own width.

    All in body cm, one column for each piece.
    """
    n = len(grid.x)
    x0, y0 = grid.x[0, 0], grid.y[0, 0]
    cos, sin = np.cos(body.turn), np.sin(body.turn)
    dx, dy = path_x - x0, path_y - y0  # turned back onto the film's rows and columns
    column = np.rint((dx * cos - dy * sin) / grid.pitch).astype(int)
    row = np.rint((dx * sin + dy * cos) / grid.pitch).astype(int)
    inside = (column >= 0) & (column < n) & (row >= 0) & (row < n)
    volume = np.broadcast_to(np.pi * radius**2 * step, path_x.shape)
    drawn = np.bincount((row * n + column)[inside], volume[inside], n * n).reshape(n, n)
    drawn = (drawn / grid.pitch**2).astype(np.float32)
    spread = 0.62 * float(radius.mean()) / grid.pitch
    if spread < 0.6:  # narrower than a ray
        return drawn
    blurred: Map = gaussian_filter(drawn, spread, truncate=2.5, mode="constant")
    return blurred
