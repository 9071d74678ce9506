"""A film as a detector's answer to X-rays: its characteristic curve, its blur, its scatter.

Tissue adds to the logarithm of the attenuation; the film shows that sum through a curve. A lesion
is therefore added where its thickness adds, and looks as faint in a white mediastinum or a black
apex as the film's own anatomy does there. Lengths in mm, attenuation in nepers (natural log).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from nofinding.datasets.insertion.lungs import LungFields

__all__ = [
    "LUNG",
    "WATER",
    "Curve",
    "Exposed",
    "blur_of",
    "contrast_to_noise",
    "curve_of",
    "noise_about",
]

WATER = 0.021  # nepers a mm of soft tissue: 55 keV, what is left of 100 to 120 kVp behind a chest
LUNG = 0.26  # density of aerated lung, in water's
SPAN = 1.3  # nepers between lung and mediastinum as a detector sees them, scatter included
SCATTER = (0.28, 0.60)  # share of what the detector sees, behind a grid: in lung, in mediastinum
SIGMAS = (0.7, 1.5)  # pixels, of the two smoothings that a film's own blur is read from
BLUR = (0.35, 3.0)  # pixels, within which it is believed


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Grey as a sigmoid of log attenuation: nearly straight in between, flat at both ends."""

    dark: float
    """Grey that no exposure falls below."""
    bright: float
    """Grey that no thickness gets above."""
    gain: float
    """Steepness, a neper."""
    lung: float
    """Grey of the aerated lung, which is where log attenuation counts from."""

    def log_attenuation(self, grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """Nepers above the lung's, of every pixel."""
        return np.asarray((self._logit(grey) - self._logit(np.asarray(self.lung))) / self.gain)

    def grey(self, nepers: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """The grey that the film shows it as."""
        odds = self.gain * nepers + self._logit(np.asarray(self.lung))
        return np.asarray(self.dark + (self.bright - self.dark) / (1 + np.exp(-odds)))

    def _logit(self, grey: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
        share = (grey - self.dark) / (self.bright - self.dark)
        share = np.clip(share, 1e-3, 1 - 1e-3)
        return np.asarray(np.log(share / (1 - share)))


def curve_of(film: Float[np.ndarray, "h w"], lungs: LungFields) -> Curve:
    """The curve that puts the film's lungs and its dense middle SPAN nepers apart.

    The ends are just beyond the greys that occur, so that the curve is steepest in between.
    """
    lung = float(np.median(film[lungs.both]))
    rows = np.flatnonzero(lungs.both.any(axis=1))
    wide = film.shape[1]
    middle = slice(max(0, int(lungs.midline - 0.08 * wide)), int(lungs.midline + 0.08 * wide))
    dense = float(np.percentile(film[rows[len(rows) // 3] : rows[-1] + 1, middle], 70))
    low, high = (float(p) for p in np.percentile(film, [0.5, 99.8]))
    dense = max(dense, lung + 0.08)
    margin = 0.06 * max(high - low, 0.2)
    dark, bright = min(low, lung) - margin, max(high, dense) + margin
    flat = Curve(dark=dark, bright=bright, gain=1.0, lung=lung)
    step = float(flat.log_attenuation(np.asarray(dense)))
    return Curve(dark=dark, bright=bright, gain=step / SPAN, lung=lung)


def blur_of(film: Float[np.ndarray, "h w"]) -> float:
    """The film's blur as the sigma of a Gaussian, in pixels, from how its sharpest edges fade.

    A step blurred by s and smoothed by t has a slope as 1 / sqrt(s^2 + t^2) at its steepest; two
    smoothings give s (Elder and Zucker 1998, section 3, with the scales turned round).
    """
    first, second = (ndimage.gaussian_gradient_magnitude(film, sigma) for sigma in SIGMAS)
    inside = np.zeros(film.shape, dtype=bool)
    edge = max(4, film.shape[0] // 10)
    inside[edge:-edge, edge:-edge] = True
    peak = (first == ndimage.maximum_filter(first, 3)) & inside & (first > 0)
    if peak.sum() < 20:
        return BLUR[0]
    strong = peak & (first >= np.percentile(first[peak], 85))
    ratio = float(np.median(first[strong] / np.maximum(second[strong], 1e-9))) ** 2
    if ratio <= 1.001:
        return BLUR[1]
    squared = (SIGMAS[1] ** 2 - ratio * SIGMAS[0] ** 2) / (ratio - 1)
    return float(np.clip(np.sqrt(max(squared, 0.0)), *BLUR))


@dataclass(frozen=True, slots=True)
class Exposed:
    """A film taken apart into log attenuation and scatter, ready to be shown with more in it."""

    film: Float[np.ndarray, "h w"]
    curve: Curve
    blur: float
    nepers: Float[np.ndarray, "h w"]
    scatter: Float[np.ndarray, "h w"]

    @classmethod
    def of(cls, film: Float[np.ndarray, "h w"], curve: Curve, blur: float) -> "Exposed":
        """Scatter is the larger a share of the signal, the denser the wider surroundings are."""
        nepers = curve.log_attenuation(film)
        dense = np.clip(ndimage.gaussian_filter(nepers, 0.02 * film.shape[0]) / SPAN, 0, 1)
        return cls(film, curve, blur, nepers, SCATTER[0] + (SCATTER[1] - SCATTER[0]) * dense)

    def added(self, attenuation: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """What a primary attenuation adds to the log attenuation, once scattered and blurred.

        Scatter is light that no lesion of a few centimetres changes. Zero stays zero.
        """
        missing = ndimage.gaussian_filter(-np.expm1(-attenuation), self.blur)  # of the primary
        return np.asarray(-np.log1p(-(1 - self.scatter) * missing))

    def shown(self, attenuation: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """The film with an attenuation (negative: tissue taken away) in the beam."""
        before = self.curve.grey(self.nepers)
        after = self.curve.grey(self.nepers + self.added(attenuation))
        return np.asarray(np.clip(self.film + (after - before), 0, 1))


def noise_about(film: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> float:
    """The spread of the film's grey about a lesion: ribs, vessels and noise, as a reader sees them.

    It is what is left in a ring around the mask, as wide as the lesion's radius, after a plane was
    fitted; at least one grey level of 255.
    """
    radius = max(3.0, float(np.sqrt(mask.sum() / np.pi)))
    distance = ndimage.distance_transform_edt(~mask)
    ring = (distance > 1) & (distance <= 1 + min(radius, 0.08 * film.shape[1]))
    y, x = np.nonzero(ring)
    plane = np.stack([np.ones(len(y)), y, x], axis=1)
    grey = film[ring].astype(np.float64)
    rest = grey - plane @ np.linalg.lstsq(plane, grey, rcond=None)[0]
    return max(float(rest.std()), 1 / 255)


def contrast_to_noise(
    film: Float[np.ndarray, "h w"],
    changed: Float[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
) -> float:
    """Root mean square change of grey inside the mask, over `noise_about` it."""
    return float(np.sqrt(np.mean((changed - film)[mask] ** 2))) / noise_about(film, mask)
