"""Where the lungs are on a frontal film, from its greys alone: no network, nothing learned.

Lungs are the two large dark regions on either side of the spine that do not touch the outside of
the body. Good enough to put a lesion where lung is; it does not follow the diaphragm to the pixel.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

__all__ = ["LungFields", "lung_fields"]

GRID = 128  # pixels a side on which the lungs are looked for
AREA = (0.035, 0.24)  # of the film, that one lung may take
BRIGHTER = 0.015  # of the grey range, that the middle of a film is than its lungs
LENGTH = 0.24  # of the film's height, that a lung is long at least


@dataclass(frozen=True, slots=True)
class LungFields:
    """Both lungs of a film, on its grid. Right is the patient's: on the left of the film."""

    right: Bool[np.ndarray, "h w"]
    left: Bool[np.ndarray, "h w"]
    midline: float
    """Column of the spine, in pixels."""

    @property
    def both(self) -> Bool[np.ndarray, "h w"]:
        """True in either lung."""
        return np.asarray(self.right | self.left)


def lung_fields(film: Float[np.ndarray, "h w"]) -> LungFields | None:
    """The lungs of a film in [0, 1], dense tissue bright; None where no two plausible ones are.

    None is given for inverted, rotated and empty films, and where one lung is white.
    """
    high, wide = film.shape
    small = ndimage.zoom(film, (GRID / high, GRID / wide), order=1, grid_mode=True, mode="nearest")
    small = ndimage.gaussian_filter(ndimage.median_filter(small, 5), 1.0)
    if not _dense_is_bright(small):
        return None
    small = small - 0.6 * _slope(small)
    outside = _outside(small)
    midline = _midline(small, outside)
    lungs = [_lung(small, outside, midline, side) for side in (-1, 1)]
    if lungs[0] is None or lungs[1] is None:
        return None
    areas = [lung.mean() for lung in lungs if lung is not None]
    if min(areas) < 0.3 * max(areas):
        return None
    right, left = (
        ndimage.zoom(
            lung.astype(np.float32),
            (high / GRID, wide / GRID),
            order=1,
            grid_mode=True,
            mode="nearest",
        )
        > 0.5
        for lung in lungs
        if lung is not None
    )
    return LungFields(right=right, left=left, midline=midline * wide / GRID)


def _slope(film: Float[np.ndarray, "s s"]) -> Float[np.ndarray, "s s"]:
    """The very broad trend, that a side lit more or a belly leaves in a film."""
    broad = ndimage.gaussian_filter(film, GRID / 3.5, mode="nearest")
    return np.asarray(broad - broad.mean())


def _outside(film: Float[np.ndarray, "s s"]) -> Bool[np.ndarray, "s s"]:
    """Air beside the patient: what is as dark as the darkest and touches the film's edge."""
    low, high = np.percentile(film, [1, 90])
    dark = film < low + 0.22 * (high - low)
    labels, _ = ndimage.label(dark)
    edge = np.zeros(film.shape, dtype=bool)
    edge[:3], edge[:, :3], edge[:, -3:] = True, True, True
    touching = np.unique(labels[edge & dark])
    outside = np.isin(labels, touching[touching > 0])
    # A lung that leaks out through a thin bridge must not count as outside.
    return np.asarray(ndimage.binary_opening(outside, iterations=3) & ~_core())


def _core() -> Bool[np.ndarray, "s s"]:
    """Where a frontal film shows chest, however it is centred."""
    y, x = np.mgrid[:GRID, :GRID] / GRID
    return np.asarray((np.abs(x - 0.5) < 0.30) & (y > 0.22) & (y < 0.7))


def _midline(film: Float[np.ndarray, "s s"], outside: Bool[np.ndarray, "s s"]) -> float:
    """The column in the middle third about which the film is brightest and most alike."""
    rows = slice(int(0.2 * GRID), int(0.65 * GRID))
    profile = ndimage.gaussian_filter1d(film[rows].mean(axis=0), 3)
    columns = np.arange(int(0.36 * GRID), int(0.64 * GRID))
    reach = np.arange(1, int(0.32 * GRID))
    unlike = np.array([np.abs(profile[c - reach] - profile[c + reach]).mean() for c in columns])
    spread = profile.std() + 1e-6
    return float(columns[np.argmax((profile[columns] - unlike) / spread)])


def _lung(
    film: Float[np.ndarray, "s s"],
    outside: Bool[np.ndarray, "s s"],
    midline: float,
    side: int,
) -> Bool[np.ndarray, "s s"] | None:
    """The dark region on one side (-1: left of the film), if there is a plausible one."""
    y, x = np.mgrid[:GRID, :GRID] / GRID
    across = side * (x - midline / GRID)
    centre = 0.20 - 0.4 * np.maximum(0.36 - y, 0)  # an apex lies nearer to the spine
    near = (((across - centre) / 0.21) ** 2 + ((y - 0.46) / 0.40) ** 2 < 1) & (across > 0.025)
    near &= ~outside
    if near.sum() < 200:
        return None
    cut = _otsu(film[near])
    dark = ndimage.binary_opening(near & (film < cut), iterations=1)
    labels, count = ndimage.label(dark)
    if count == 0:
        return None
    prior = np.exp(-(((across - 0.19) / 0.12) ** 2) - ((y - 0.44) / 0.25) ** 2)
    best = 1 + int(np.argmax(ndimage.sum_labels(prior, labels, range(1, count + 1))))
    lung = labels == best
    lung = ndimage.binary_closing(np.pad(lung, 6), iterations=5)[6:-6, 6:-6]
    lung = ndimage.binary_fill_holes(lung) & near
    lung = ndimage.binary_opening(lung, iterations=4)
    labels, count = ndimage.label(lung)
    if count == 0:
        return None
    lung = labels == 1 + int(np.argmax(ndimage.sum_labels(lung, labels, range(1, count + 1))))
    rows = np.flatnonzero(lung.any(axis=1))
    plausible = AREA[0] < lung.mean() < AREA[1] and np.ptp(rows) > LENGTH * GRID
    darker = film[lung].mean() < film[near & ~lung].mean() - 0.02
    return np.asarray(lung) if plausible and darker else None


def _dense_is_bright(film: Float[np.ndarray, "s s"]) -> bool:
    """Whether the middle of the film is brighter than both sides of it, as on no inverted film."""
    rows = slice(int(0.34 * GRID), int(0.62 * GRID))
    left, middle, right = (
        float(np.median(film[rows, int(low * GRID) : int(high * GRID)]))
        for low, high in ((0.25, 0.39), (0.45, 0.55), (0.61, 0.75))
    )
    return middle - (left + right) / 2 > BRIGHTER


def _otsu(values: Float[np.ndarray, " n"]) -> float:
    """The grey that parts the values into two groups most unlike each other (Otsu 1979)."""
    ordered = np.sort(values)
    count = np.arange(1, len(ordered))
    total = ordered.cumsum()[:-1]
    low, high = total / count, (ordered.sum() - total) / (len(ordered) - count)
    between = count * (len(ordered) - count) * (high - low) ** 2
    return float(ordered[int(np.argmax(between))])
