"""Pixels: from what a detector stored to brightness in [0, 1], and on to a square or a cube.

NumPy and Pillow only: this file also runs inside the decoder's child process, where torch is
not wanted.
"""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped, UInt16
from PIL import Image

__all__ = [
    "Aspect",
    "OtherDimensionsError",
    "Window",
    "fit",
    "fit_cube",
    "fit_cube_mask",
    "fit_square",
    "fit_square_mask",
    "from_stored",
    "resample",
    "window",
]

Aspect: TypeAlias = Literal["pad", "squash"]
TOP = 65535  # the largest value of a prepared film
SAMPLE = 1_000_000  # pixels that are enough to find a percentile
ROWS = 512  # of a film that are worked on at once: the largest must fit into the decoder's memory
CHUNK = 16_384  # voxels of a slice that are resampled along the depth at once


class Window(NamedTuple):
    """A display window."""

    centre: float
    width: float
    function: str = "LINEAR"


def window(
    values: Float[np.ndarray, "h w"], centre: float, width: float, function: str = "LINEAR"
) -> Float[np.ndarray, "h w"]:
    """Brightness in [0, 1] under a display window: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.

    LINEAR takes half a value off the centre and one off the width; LINEAR_EXACT does not;
    SIGMOID is 1 / (1 + exp(-4 (x - centre) / width)). A LINEAR window of width 1 is a step.
    """
    if function == "SIGMOID":
        with np.errstate(over="ignore"):  # exp overflows to inf, and 1 / inf is the 0 that is meant
            return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (values > centre).astype(np.float32)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def from_stored(
    stored: Integer[np.ndarray, "h w"],
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    voi: tuple[float, float, str] | None = None,
    inverted: bool = False,
    padding: Bool[np.ndarray, "h w"] | None = None,
) -> Float[np.ndarray, "h w"]:
    """Brightness in [0, 1], dense tissue bright, of the values that a detector stored.

    In this order: rescale (slope, intercept), window (`voi`: centre, width, function),
    inversion, and padding turned black. Without a window the range is that from the 0.5th to
    the 99.5th percentile of the pixels that are not padding; a film of one value is black.
    """
    low = high = 0.0
    if voi is None:
        inside = stored.ravel() if padding is None else stored[~padding]
        sample = inside[:: max(1, inside.size // SAMPLE)]
        values = sample.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        low, high = np.percentile(values, [0.5, 99.5]) if sample.size else (0.0, 0.0)
        inverted = inverted and high > low
    bright = np.empty(stored.shape, dtype=np.float32)
    for start in range(0, len(stored), ROWS):
        rows = slice(start, start + ROWS)
        values = stored[rows].astype(np.float32) * np.float32(slope) + np.float32(intercept)
        if voi is not None:
            part = window(values, *voi)
        else:
            part = np.clip((values - low) / (high - low), 0, 1) if high > low else 0 * values
        bright[rows] = 1 - part if inverted else part
        if padding is not None:
            bright[rows][padding[rows]] = 0
    return bright


def _resized(
    values: Float[np.ndarray, "h w"], size: int, aspect: Aspect
) -> Float[np.ndarray, "s s"]:
    """Antialiased (a triangle as wide as the reduction, so nothing rings), then centred on 0."""
    high, wide = values.shape
    if aspect == "pad":
        scale = size / max(high, wide)
        high, wide = max(1, round(high * scale)), max(1, round(wide * scale))
    else:
        high, wide = size, size
    film = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    resized = np.asarray(film.resize((wide, high), Image.Resampling.BILINEAR))
    top, left = (size - high) // 2, (size - wide) // 2
    square = np.zeros((size, size), dtype=np.float32)
    square[top : top + high, left : left + wide] = resized
    return square


def fit_square(
    pixels: Float[np.ndarray, "h w"], size: int, aspect: Aspect = "pad"
) -> UInt16[np.ndarray, "s s"]:
    """The film on a square grid, 0 to 65535: kept in proportion and padded with black, or squashed.

    Quantised here, once, so that a film from the cache equals one that was just decoded.
    """
    square = _resized(pixels, size, aspect)
    return np.asarray(np.clip(square, 0, 1) * TOP + 0.5).astype(np.uint16)


def fit_square_mask(
    mask: Shaped[np.ndarray, "h w"], size: int, aspect: Aspect = "pad"
) -> Bool[np.ndarray, "s s"]:
    """The mask on the grid of `fit_square`: True where at least half of the pixel was.

    A finding smaller than that keeps the pixel that it covers most, so that it is not lost.
    """
    share = _resized(mask.astype(np.float32), size, aspect)
    least = min(0.5, float(share.max())) if mask.any() else np.inf
    return np.asarray(share >= least, dtype=np.bool_)


class OtherDimensionsError(ValueError):
    """A volume where a film was expected, or a film where a volume was."""


def fit(
    pixels: Float[np.ndarray, "*d h w"], size: int, dimensions: int, aspect: Aspect = "pad"
) -> UInt16[np.ndarray, "*s"]:
    """A film as `fit_square` prepares it, or a volume as `fit_cube` does.

    Raises OtherDimensionsError where the pixels have another number of them.
    """
    if pixels.ndim != dimensions:
        raise OtherDimensionsError(f"has {pixels.ndim} dimensions, not {dimensions}")
    return (fit_square if dimensions == 2 else fit_cube)(pixels, size, aspect)


def resample(
    volume: Float[np.ndarray, "d h w"], shape: tuple[int, int, int]
) -> Float[np.ndarray, "e i j"]:
    """The volume on another grid over the same space; antialiased as films are, axis by axis.

    An axis that keeps its number of voxels is not touched.
    """
    deep, high, wide = shape
    if volume.shape[1:] != (high, wide):
        slices = [Image.fromarray(np.ascontiguousarray(s, dtype=np.float32)) for s in volume]
        resized = [s.resize((wide, high), Image.Resampling.BILINEAR) for s in slices]
        volume = np.stack([np.asarray(s) for s in resized])
    if volume.shape[0] != deep:  # a picture with a row a slice: each row is one of the new slices
        flat = np.ascontiguousarray(volume.reshape(len(volume), -1), dtype=np.float32)
        parts = [
            np.asarray(
                Image.fromarray(flat[:, at : at + CHUNK]).resize(
                    (min(CHUNK, flat.shape[1] - at), deep), Image.Resampling.BILINEAR
                )
            )
            for at in range(0, flat.shape[1], CHUNK)
        ]
        volume = np.concatenate(parts, axis=1).reshape(deep, high, wide)
    return np.asarray(volume, dtype=np.float32)


def _cube(
    volume: Float[np.ndarray, "d h w"], size: int, aspect: Aspect
) -> Float[np.ndarray, "s s s"]:
    """Antialiased, then centred on 0."""
    shape = (size, size, size)
    if aspect == "pad":
        scale = size / max(volume.shape)
        deep, high, wide = (max(1, round(side * scale)) for side in volume.shape)
        shape = (deep, high, wide)
    cube = np.zeros((size, size, size), dtype=np.float32)
    front, top, left = ((size - side) // 2 for side in shape)
    cube[front : front + shape[0], top : top + shape[1], left : left + shape[2]] = resample(
        volume, shape
    )
    return cube


def fit_cube(
    volume: Float[np.ndarray, "d h w"], size: int, aspect: Aspect = "pad"
) -> UInt16[np.ndarray, "s s s"]:
    """The volume on a cubic grid, 0 to 65535: in proportion and padded with black, or squashed.

    Its voxels count as cubes, which is what `VolumeFile` gives. Quantised as films are.
    """
    cube = _cube(volume, size, aspect)
    return np.asarray(np.clip(cube, 0, 1) * TOP + 0.5).astype(np.uint16)


def fit_cube_mask(
    mask: Shaped[np.ndarray, "d h w"], size: int, aspect: Aspect = "pad"
) -> Bool[np.ndarray, "s s s"]:
    """The mask on the grid of `fit_cube`: True where at least half of the voxel was.

    A finding smaller than that keeps the voxel that it covers most, so that it is not lost.
    """
    share = _cube(mask.astype(np.float32), size, aspect)
    least = min(0.5, float(share.max())) if mask.any() else np.inf
    return np.asarray(share >= least, dtype=np.bool_)
