"""The nouns: a record, a batch, the scores. Nothing here does any work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "Batch",
    "Decoded",
    "Exam",
    "Lesion",
    "Pixels",
    "Scores",
    "Split",
    "Supervision",
    "View",
]

# A film is (h, w), a volume (d, h, w): slices from the feet up, rows from front to back, columns
# from the patient's right to the left, so that a slice looks as radiologists hang it.
Pixels: TypeAlias = Float[np.ndarray, "*d h w"]  # float32 in [0, 1], dense tissue bright
Lesion: TypeAlias = Bool[np.ndarray, "*d h w"]  # True on the finding, on the grid of the pixels
View: TypeAlias = Literal["PA", "AP"]
Split: TypeAlias = Literal["train", "val", "test"]


class Decoded(NamedTuple):
    """A film out of its file, and what the file says of it."""

    pixels: Pixels
    flags: tuple[str, ...] = ()
    """What of the file cannot be used, or was assumed: "film: 12 of its 16 bits are in use"."""
    objection: str | None = None
    """Why it is no frontal chest film by its own header: "another body part than the chest"."""


class Supervision(StrEnum):
    """What a method was told about disease. Printed in every table, beside the method."""

    NONE = "none"  # no training at all
    NORMAL_ONLY = "normal-only"  # films without a finding
    NORMAL_AND_UNLABELLED = "normal + unlabelled"
    WEAKLY_SUPERVISED = "weakly supervised"  # diseased films, labelled as such
    REPORT_PRETRAINED = "report-pretrained"  # a network that has read radiology reports
    EVALUATED_LABELS = "labels of the evaluated films"  # a confound check, not a detector


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """One frontal radiograph or one volume, and what was known of the patient at that time."""

    image_id: str
    """A pseudonym, never an MRN or a DICOM UID."""
    patient_id: str
    """The unit of every split."""
    pixels: Callable[[], Pixels]
    """Decodes the film; picklable. Gives (h, w), or (d, h, w) of a volume, in [0, 1], dense
    tissue bright."""
    ehr: Mapping[str, float]
    """In the unit of the EhrField; a category as its index. An absent key was not recorded."""
    view: View | None = None
    taken: datetime | None = None
    findings: frozenset[str] | None = None
    """None: unlabelled. Empty: "No Finding"."""
    split: Split | None = None
    """The part that the publisher of the films put this one in."""
    lesion: Callable[[], Lesion] | None = None
    """Where the findings are, on the grid of the pixels, if somebody drew them; picklable."""
    flags: tuple[str, ...] = ()
    """What was wrong with the record, by field: "age: 300 is outside 0 to 120 a"."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a method may see. There is no label here to leak."""

    image: Float[Tensor, "b 1 *d h w"]  # [-1, 1]; -1 is air; of volumes it has a depth, too
    ehr: Float[Tensor, "b f"]  # z-scores under the TRAINING EhrStats; category index; 0 if unknown
    known: Bool[Tensor, "b f"]  # False where not recorded
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a method says of a batch. Higher is more anomalous, for every method."""

    score: Float[Tensor, " b"]  # comparable only within one fitted method
    anomaly_map: Float[Tensor, "b 1 *d h w"] | None = None  # >= 0, on the grid of Batch.image
    reconstruction: Float[Tensor, "b 1 *d h w"] | None = None  # the pseudo-healthy film, [-1, 1]
    components: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)
    """The score's ingredients (mse, max_abs, ...) and what was attended to (attention.age)."""
