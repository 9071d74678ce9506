"""Wires, tubes and bronchi: round bodies along a curve, and the thickness that they throw."""

import numpy as np
from jaxtyping import Float
from scipy import interpolate, ndimage

from nofinding.datasets.insertion.scene import Scene

__all__ = ["through", "tube"]

FINER = 5  # cells a pixel side


def through(points: Float[np.ndarray, "k 2"], count: int = 400) -> Float[np.ndarray, "n 2"]:
    """A smooth curve through the points, as many at even steps."""
    points = np.asarray(points, dtype=np.float64)
    if len(points) < 3:
        return np.asarray(np.linspace(points[0], points[-1], count))
    knots, _ = interpolate.splprep(points.T, s=0, k=min(3, len(points) - 1))
    return np.stack(interpolate.splev(np.linspace(0, 1, count), knots), axis=1)


def tube(
    points: Float[np.ndarray, "k 2"], radius: float, scene: Scene, *, wall: float | None = None
) -> Float[np.ndarray, "h w"]:
    """mm along the beam in a round rod through these pixels (row, column), `radius` mm thick.

    With `wall` it is a pipe whose wall is so many mm thick.
    """
    high, wide = scene.shape
    pixels = max(2, int(np.ceil(radius * scene.millimetre)) + 2)
    curve = through(points)
    low = np.maximum(np.floor(curve.min(axis=0)).astype(int) - pixels, 0)
    top = np.minimum(np.ceil(curve.max(axis=0)).astype(int) + pixels + 1, (high, wide))
    out = np.zeros(scene.shape)
    if (top <= low).any():
        return out
    fine = np.ones(tuple((top - low) * FINER), dtype=bool)
    place = np.floor((curve + 0.5 - low) * FINER).astype(int)
    inside = ((place >= 0) & (place < fine.shape)).all(axis=1)
    fine[tuple(place[inside].T)] = False
    if not inside.any():
        return out
    far = ndimage.distance_transform_edt(fine) / FINER / scene.millimetre  # mm
    thick = 2 * np.sqrt(np.clip(radius**2 - far**2, 0, None))
    if wall is not None:
        thick -= 2 * np.sqrt(np.clip((radius - wall) ** 2 - far**2, 0, None))
    rows, columns = top - low
    mean = thick.reshape(rows, FINER, columns, FINER).mean(axis=(1, 3))
    out[low[0] : top[0], low[1] : top[1]] = mean
    return out
