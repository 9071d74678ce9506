"""A film to put lesions into, and what a painter hands back: a shadow and its exact place."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from nofinding.datasets.insertion.exposure import Curve, blur_of, curve_of
from nofinding.datasets.insertion.lungs import LungFields, lung_fields

__all__ = ["ADULT_FIELD", "Scene", "Shadow", "scene_of"]

ADULT_FIELD = 350.0  # mm that a film is wide, where nobody wrote it down
LEAST_SIDE = 32  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A normal film, and what is needed to put tissue into it."""

    film: Float[np.ndarray, "h w"]
    lungs: LungFields
    curve: Curve
    blur: float
    """Sigma, in pixels."""
    millimetre: float
    """Pixels."""
    scale: float
    """Of the chest, against an adult's."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the film."""
        return self.film.shape[0], self.film.shape[1]

    def lung(self, side: int) -> Bool[np.ndarray, "h w"]:
        """The patient's right lung (-1, on the left of the film) or the left one (1)."""
        return self.lungs.right if side < 0 else self.lungs.left


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """What a lesion does to the beam, and where."""

    attenuation: Float[np.ndarray, "h w"]
    """Nepers of the primary beam; negative where tissue was taken away."""
    mask: Bool[np.ndarray, "h w"]
    """Exactly the pixels on which the lesion's body projects."""
    diameter: float
    """mm; what it is the diameter of, `KINDS` says."""
    cell: str
    """What makes it harder or easier: "open", "behind the heart", "lead"."""
    film: Float[np.ndarray, "h w"] | None = None
    """The film with its anatomy moved, where the lesion moves any."""


def scene_of(film: Float[np.ndarray, "h w"], field: float = ADULT_FIELD) -> Scene | None:
    """The scene of a film in [0, 1], dense tissue bright, `field` mm wide; None without lungs."""
    if min(film.shape) < LEAST_SIDE:
        return None
    film = film.astype(np.float64)
    lungs = lung_fields(film)
    if lungs is None:
        return None
    return Scene(
        film=film,
        lungs=lungs,
        curve=curve_of(film, lungs),
        blur=blur_of(film),
        millimetre=film.shape[1] / field,
        scale=field / ADULT_FIELD,
    )


def pick(where: Bool[np.ndarray, "h w"], rng: np.random.Generator) -> tuple[float, float] | None:
    """Row and column of a point of the region, anywhere in its pixel; None of an empty one."""
    places = np.flatnonzero(where)
    if len(places) == 0:
        return None
    row, column = divmod(int(rng.choice(places)), where.shape[1])
    return row + rng.uniform(-0.5, 0.5), column + rng.uniform(-0.5, 0.5)


def borders(lung: Bool[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a lung, and its first and last column in each, without the steps of a mask."""
    rows = np.flatnonzero(lung.any(axis=1))
    first = lung[rows].argmax(axis=1).astype(np.float64)
    last = lung.shape[1] - 1 - lung[rows, ::-1].argmax(axis=1).astype(np.float64)
    smooth = lung.shape[0] / 40
    return rows, ndimage.gaussian_filter1d(first, smooth), ndimage.gaussian_filter1d(last, smooth)
