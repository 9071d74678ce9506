"""Lesions whose place, size and contrast are known, in real normal films."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from nofinding.datasets.insertion.exposure import Exposed, contrast_to_noise, noise_about
from nofinding.datasets.insertion.hardware import device, fracture
from nofinding.datasets.insertion.nodules import mass, small_nodule
from nofinding.datasets.insertion.opacities import (
    cardiomegaly,
    consolidation,
    effusion,
    pneumothorax,
)
from nofinding.datasets.insertion.scene import Scene, Shadow

__all__ = ["KINDS", "Inserted", "insert", "put"]

Painter = Callable[[Scene, np.random.Generator], Shadow | None]

KINDS: Mapping[str, Painter] = {
    "nodule": small_nodule,
    "mass": mass,
    "consolidation": consolidation,
    "effusion": effusion,
    "pneumothorax": pneumothorax,
    "cardiomegaly": cardiomegaly,
    "fracture": fracture,
    "device": device,
}
"""Lesions by name. Diameter is the body's for nodules and masses, of the circle of equal area for
consolidations and devices, the height of the fluid, the width of the air at the apex, the width
that the heart gained, and the step of a fracture: all in mm, as in an adult."""

GRADED = ("nodule", "mass")  # whose contrast to noise is asked for, not only measured
ASKED = (0.4, 5.0)  # contrast to noise
DENSITY = (0.35, 3.0)  # factor that it may take: from ground glass to calcium
TRIES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Inserted:
    """A film with a lesion that was not there, and all that is known of it."""

    film: Float[np.ndarray, "h w"]
    """In [0, 1], in steps of 1/255, as its twin."""
    mask: Bool[np.ndarray, "h w"]
    kind: str
    diameter: float
    """mm."""
    contrast: float
    """Contrast to noise, as measured on the film."""
    cell: str


def insert(scene: Scene, kind: str, key: str, *, seed: int = 0) -> Inserted | None:
    """The film with one lesion of a kind; the same key and seed give the same one.

    None where the film has no room for it.
    """
    digest = hashlib.sha256(f"{seed}/{kind}/{key}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    asked = float(np.exp(rng.uniform(*np.log(ASKED)))) if kind in GRADED else None
    shadow = KINDS[kind](scene, rng)
    if shadow is None:
        return None
    film = put(scene, shadow, contrast=asked)
    if np.abs(film - _rounded(scene.film)).max() == 0:
        return None
    return Inserted(
        film=film,
        mask=shadow.mask,
        kind=kind,
        diameter=shadow.diameter,
        contrast=contrast_to_noise(scene.film, film, shadow.mask),
        cell=shadow.cell,
    )


def put(scene: Scene, shadow: Shadow, *, contrast: float | None = None) -> Float[np.ndarray, "h w"]:
    """The film with the shadow in it, in steps of 1/255.

    With `contrast`, the shadow is made denser or thinner to come as near to that contrast to
    noise as tissue can (DENSITY).
    """
    base = scene.film if shadow.film is None else shadow.film
    exposed = Exposed.of(base, scene.curve, scene.blur)
    if contrast is None:
        return _rounded(exposed.shown(shadow.attenuation))
    factor, noise = 1.0, noise_about(scene.film, shadow.mask)
    for _ in range(TRIES):
        change = (exposed.shown(factor * shadow.attenuation) - scene.film)[shadow.mask]
        measured = float(np.sqrt(np.mean(change**2))) / noise
        before = factor
        factor = float(np.clip(factor * contrast / max(measured, 1e-6), *DENSITY))
        if abs(factor / before - 1) < 0.01:
            break
    return _rounded(exposed.shown(factor * shadow.attenuation))


def _rounded(film: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    return (np.round(film * 255) / 255).astype(np.float32)
