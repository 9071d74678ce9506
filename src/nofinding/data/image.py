"""Pixels: from what a detector stored to brightness in [0, 1], and on to a square film.

NumPy and Pillow only: this file also runs inside the decoder's child process, where torch is
not wanted.
"""

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped, UInt16
from PIL import Image

__all__ = ["Aspect", "fit_square", "fit_square_mask", "from_stored", "window"]

Aspect: TypeAlias = Literal["pad", "squash"]
TOP = 65535  # the largest value of a prepared film
SAMPLE = 1_000_000  # pixels that are enough to find a percentile


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
    values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if voi is not None:
        bright = window(values, *voi)
    else:
        inside = values.ravel() if padding is None else values[~padding]
        sample = inside[:: max(1, inside.size // SAMPLE)]
        low, high = np.percentile(sample, [0.5, 99.5]) if sample.size else (0.0, 0.0)
        bright = np.clip((values - low) / (high - low), 0, 1) if high > low else 0 * values
        inverted = inverted and high > low
    if inverted:
        bright = 1 - bright
    if padding is not None:
        bright[padding] = 0
    return bright.astype(np.float32, copy=False)


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
