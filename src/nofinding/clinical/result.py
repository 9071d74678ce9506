"""What is said of one film, ready to be written as DICOM or FHIR."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from nofinding.data.image import Aspect

__all__ = ["NOTICE", "Result", "on_the_film"]

NOTICE = "RESEARCH USE ONLY - not a medical device, not for diagnosis"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A film's score, and all that is needed to know what it means."""

    score: float
    """Higher is more anomalous; comparable only within one model."""
    p_value: float | None
    """Share of the calibration normals that score as high; None: not calibrated."""
    calibration: str
    """Which films p is against: "200 normal films of the val split, plain"."""
    method: str
    model: str
    """The model's name, without a path."""
    sha256: str
    """Of the model's weights."""
    version: str
    """Of this program."""
    fields: tuple[str, ...]
    """Fields of the record that the model was given for this film."""
    attention: Mapping[str, float] = field(default_factory=dict)
    """By field, 0 to 1: where the model's attention went, if it says so."""
    flags: tuple[str, ...] = ()
    """What a reader must know: "gate: it is not a frontal chest film", ..."""
    anomaly_map: Float[np.ndarray, "s s"] | None = None
    """At least 0, on the square that the model saw; None: the method has none."""
    threshold: float | None = None
    """99 % of the pixels of normal films stay below it."""
    aspect: Aspect = "pad"
    """How the film was brought onto the square."""


def on_the_film(
    square: Float[np.ndarray, "s s"], high: int, wide: int, aspect: Aspect
) -> Float[np.ndarray, "h w"]:
    """The part of a map that the film of `high` x `wide` pixels covers, on the map's own grid.

    The reverse of `data.image.fit_square`, without resampling: black padding is cut away.
    """
    if aspect == "squash":
        return square
    size = square.shape[0]
    scale = size / max(high, wide)
    rows, columns = max(1, round(high * scale)), max(1, round(wide * scale))
    top, left = (size - rows) // 2, (size - columns) // 2
    return square[top : top + rows, left : left + columns]
