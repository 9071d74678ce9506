"""The physics: from tissue along the rays to the grey values of a film."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter, zoom

from nofinding.datasets.phantom.anatomy import Anatomy
from nofinding.datasets.phantom.bones import bones
from nofinding.datasets.phantom.tissue import FILM, TOP, Grid, Map, Maps, soft_tissue
from nofinding.datasets.phantom.vessels import vessels
from nofinding.types import Pixels

__all__ = [
    "ATTENUATION",
    "RENDER_VERSION",
    "Window",
    "attenuate",
    "detect",
    "develop",
    "film",
    "rays",
    "thickness",
    "window",
]

RENDER_VERSION = 1  # part of every fingerprint: raise it when any film would look different

# Linear attenuation at 60 keV, about the mean energy of a filtered 120 kV beam, in cm^-1: the mass
# coefficient times the density of ICRU-44 tissues and titanium, from Hubbell and Seltzer, NIST
# Standard Reference Database 126, tables 3 and 4.
ATTENUATION = {
    "soft": 0.2048 * 1.06,
    "blood": 0.2057 * 1.06,
    "fat": 0.1974 * 0.95,
    "lung": 0.2053 * 0.26,
    "bone": 0.3148 * 1.92,
    "metal": 0.7661 * 4.54,
}
PHOTONS = 40000.0  # reach a 1 mm^2 of the detector where there is no patient
SCATTER = 0.45  # scattered over primary photons behind a grid, averaged over the field
SCATTER_REACH = 3.5  # cm, SD of the blur
_LOCAL = 0.75  # gain of structures smaller than _LOCAL_REACH, as digital units process a film
_LOCAL_REACH = 2.5  # cm
_BELOW, _ABOVE = 0.60, 0.35  # window past lung and liver, as shares of their distance
_CURVE, _MIDDLE = 4.0, 0.5  # steepness and middle of the display curve
_FINE = 256  # rays along one side of the film, at least


@dataclass(frozen=True, slots=True)
class Window:
    """The log signals that are shown as nearly black and nearly white."""

    low: float
    high: float


def rays(body: Anatomy, size: int) -> Grid:
    """The rays of a film of size x size pixels: several a pixel where pixels are coarse."""
    return Grid.of(body, size * max(1, -(-_FINE // size)))


def thickness(body: Anatomy, grid: Grid) -> Maps:
    """Centimetres of each tissue along each ray of a patient without a finding."""
    maps = soft_tissue(body, grid)
    blood = np.minimum(vessels(body, grid), 0.6 * maps.lung)
    maps.lung -= blood
    maps.blood += blood
    maps.bone += bones(body, grid) * (maps.soft > 0.3)
    maps.soft -= np.minimum(maps.bone, 0.5 * maps.soft)
    return maps


def attenuate(maps: Maps, body: Anatomy, size: int) -> Pixels:
    """The share of photons that cross the patient unscattered: exp(-sum mu t), Beer and Lambert.

    Averaged over the rays of each of the size x size pixels.
    """
    depth = np.float32(ATTENUATION["lung"] * body.lung_density) * maps.lung
    for name in ("soft", "blood", "fat", "bone", "metal"):
        depth += np.float32(ATTENUATION[name]) * getattr(maps, name)
    passed = np.exp(-depth)
    each = len(passed) // size
    averaged: Pixels = passed.reshape(size, each, size, each).mean((1, 3), dtype=np.float32)
    return averaged


def detect(
    primary: Pixels, exposure: float, noise: Float[np.ndarray, "h w"] | None = None
) -> Pixels:
    """The log signal -ln((P + S) / open beam): primary, scatter and quantum noise.

    S is a broad blur of P times the ratio of scatter to primary. `noise` holds standard normal
    draws: with N photons a pixel their count varies by sqrt(N), so that thick parts are grainy.
    None gives the noise-free film.
    """
    size = len(primary)
    pixel = FILM / size
    fluence = primary + np.float32(SCATTER) * _blur(primary, SCATTER_REACH / pixel)
    if noise is not None:
        photons = PHOTONS * exposure * min((pixel * 10) ** 2, 4.0)
        fluence = fluence + np.sqrt(fluence / np.float32(photons)) * noise
    logged: Pixels = -np.log(np.maximum(fluence, np.float32(1e-5)))
    signal: Pixels = logged + np.float32(np.log1p(SCATTER))
    return signal


def window(signal: Pixels, body: Anatomy) -> Window:
    """The display window that suits a noise-free film without a finding.

    Set by the upper right lung and the liver, which no heart reaches: the grey values then say
    nothing of its width.
    """
    size = len(signal)
    cell = size / FILM
    scale = body.magnification * cell
    left, right = (int(size / 2 + scale * x) for x in (-0.75 * body.thorax_half, -4.5))
    lung = signal[int(TOP * cell + scale * 4) : int(TOP * cell + scale * 10), left:right]
    deep = min(int(TOP * cell + scale * (body.lung_length + 5)), size - size // 16)
    liver = signal[deep : deep + size // 16, left:right]
    low, high = float(np.median(lung)), float(np.median(liver))
    wide = high - low
    return Window(low - (_BELOW + body.brightness) * wide, high + (_ABOVE - body.brightness) * wide)


def develop(signal: Pixels, shown: Window) -> Pixels:
    """Grey values in [0, 1], dense tissue bright: local contrast raised, then an S-shaped curve."""
    local = signal - _blur(signal, _LOCAL_REACH * len(signal) / FILM)
    raised = signal + np.float32(_LOCAL) * np.clip(local, -0.6, 0.6)
    grey = (raised - np.float32(shown.low)) / np.float32(shown.high - shown.low)
    curve: Pixels = 1 / (1 + np.exp(np.float32(-_CURVE) * (grey - np.float32(_MIDDLE))))
    dark, light = 1 / (1 + np.exp(_CURVE * _MIDDLE)), 1 / (1 + np.exp(-_CURVE * (1 - _MIDDLE)))
    grey_values: Pixels = np.clip(
        (curve - np.float32(dark)) / np.float32(light - dark), 0, 1
    ).astype(np.float32)
    return grey_values


def film(body: Anatomy, size: int, noise: Float[np.ndarray, "h w"] | None = None) -> Pixels:
    """The film of a patient without a finding: (size, size) in [0, 1], float32.

    `noise` holds size x size standard normal draws; None gives the noise-free film.
    """
    primary = attenuate(thickness(body, rays(body, size)), body, size)
    clean = detect(primary, body.exposure)
    shown = window(clean, body)
    return develop(clean if noise is None else detect(primary, body.exposure, noise), shown)


def _blur(values: Map, sd: float) -> Map:
    """A Gaussian blur by sd pixels; broad ones on a coarser grid, which nobody can tell."""
    coarse = max(1, int(sd / 2.5))
    size = len(values)
    if coarse == 1 or size % coarse:
        coarse = next((c for c in range(coarse, 0, -1) if size % c == 0), 1)
    small = values.reshape(size // coarse, coarse, size // coarse, coarse).mean((1, 3))
    small = gaussian_filter(small, sd / coarse, mode="nearest", truncate=3)
    spread: Map = (
        small if coarse == 1 else zoom(small, coarse, order=1, mode="nearest", grid_mode=True)
    )
    return spread
