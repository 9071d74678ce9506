"""Films of phantom patients, and the clothes in which one film may come again."""

import functools
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from nofinding.datasets.phantom.anatomy import Anatomy, anatomy
from nofinding.datasets.phantom.patients import patient as record_of
from nofinding.datasets.phantom.patients import stream
from nofinding.datasets.phantom.render import film as rendered
from nofinding.datasets.phantom.render import rays, thickness

Film = Float[np.ndarray, "h w"]
SIDE = 224


def _body(seed: int, *, later: bool = False) -> Anatomy:
    """Of a patient; `later` breathed in less, stood a little otherwise, with a larger heart."""
    body = anatomy(record_of(0, seed), 0, seed)
    if not later:
        return body
    return replace(
        body,
        lung_length=body.lung_length - 1.6,
        tilt=body.tilt + 1.5,
        turn=body.turn + 0.05,
        shift=(body.shift[0] + 0.8, body.shift[1] - 0.6),
        ctr=body.ctr + 0.02,
        exposure=body.exposure * 1.2,
    )


@functools.cache
def film(seed: int, *, later: bool = False) -> Film:
    """The film of a phantom patient; or of the same patient taken another day."""
    noise = stream(seed, int(later), "noise").standard_normal((SIDE, SIDE), np.float32)
    return rendered(_body(seed, later=later), SIDE, noise)


@functools.cache
def lungs(seed: int) -> Bool[np.ndarray, "h w"]:
    """Where a phantom patient's film shows lung that nothing hides."""
    body = _body(seed)
    grid = rays(body, SIDE)
    maps = thickness(body, grid)
    clear = (maps.lung > 4) & (maps.cover < 1)
    times = len(clear) // SIDE
    return clear.reshape(SIDE, times, SIDE, times).mean((1, 3)) > 0.5


def masked(image: Film, seed: int) -> Film:
    """The lungs alone; everything else black."""
    return np.where(lungs(seed), image, 0).astype(np.float32)


def _resized(image: Film, high: int, wide: int) -> Film:
    return np.asarray(Image.fromarray(image).resize((wide, high), Image.Resampling.BILINEAR))


def cropped(image: Film) -> Film:
    """The 90 % in the middle, resized."""
    edge = round(0.05 * SIDE)
    return _resized(image[edge:-edge, edge:-edge], SIDE, SIDE)


def cornered(image: Film) -> Film:
    """90 % of each side, as they are."""
    return image[: round(0.9 * SIDE), round(0.1 * SIDE) :].copy()


def jpeg(image: Film, quality: int = 60) -> Film:
    """8 bits, and JPEG."""
    file = io.BytesIO()
    Image.fromarray(np.uint8(image * 255 + 0.5)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), dtype=np.float32) / 255


def _everything(seed: int) -> Film:
    return jpeg(masked(1 - film(seed), seed) ** 0.85, 95)[:, ::-1].copy()


CLOTHES: dict[str, Callable[[int], Film]] = {
    "inverted": lambda seed: 1 - film(seed),
    "masked": lambda seed: masked(film(seed), seed),
    "masked, inverted": lambda seed: masked(1 - film(seed), seed),
    "cropped": lambda seed: cropped(film(seed)),
    "cropped in a corner": lambda seed: cornered(film(seed)),
    "smaller": lambda seed: _resized(film(seed), 150, 150),
    "squashed": lambda seed: _resized(film(seed), 224, 205),
    "gamma": lambda seed: film(seed) ** 1.8,
    "jpeg": lambda seed: jpeg(film(seed)),
    "mirrored": lambda seed: film(seed)[:, ::-1].copy(),
    "all but a crop": _everything,
    "masked, cropped": lambda seed: cornered(masked(film(seed), seed)),
    "masked, inverted, cropped, mirrored": lambda seed: cornered(masked(1 - film(seed), seed))[
        :, ::-1
    ].copy(),
}
