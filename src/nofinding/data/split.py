"""Who is in which part: by patient, and for training normal films only."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt64

from nofinding.errors import UserError
from nofinding.types import Exam, Split

__all__ = ["check_splits", "first_of_patients", "hold_out", "normals"]


def check_splits(exams: Sequence[Exam]) -> None:
    """Raises UserError where an image_id occurs twice, or a patient is in two parts."""
    ids: set[str] = set()
    for exam in exams:
        if exam.image_id in ids:
            raise UserError(f"image_id {exam.image_id!r} is given to more than one film")
        ids.add(exam.image_id)
    parts: dict[str, set[str]] = {}
    for exam in exams:
        if exam.split is not None:
            parts.setdefault(exam.patient_id, set()).add(exam.split)
    both = {patient: sorted(splits) for patient, splits in parts.items() if len(splits) > 1}
    if both:
        patient, splits = min(both.items())
        raise UserError(
            f"{len(both)} of {len(parts)} patients are in more than one split, for example "
            f"patient_id {patient!r} in {' and '.join(splits)}; a patient must be in one"
        )


def normals(exams: Sequence[Exam], split: Split) -> list[Exam]:
    """The films of one part that are labelled "No Finding". An unlabelled film is not normal."""
    return [r for r in exams if r.split == split and r.findings == frozenset()]


def hold_out(exams: Sequence[Exam], share: float, seed: int) -> tuple[list[Exam], list[Exam]]:
    """(the rest, the films of a share of the patients), each in the order given.

    Which patients is decided by the seed and their id alone, not by their order; of two or
    more patients at least one is held out (for a share above 0) and at least one is not.

    Raises UserError unless 0 <= share < 1.
    """
    if not 0 <= share < 1:
        raise UserError(f"the share to hold out is {share:g}; it must be at least 0 and below 1")
    patients = {exam.patient_id for exam in exams}
    drawn = sorted(patients, key=lambda p: hashlib.sha256(f"{seed}|{p}".encode()).digest())
    count = round(share * len(drawn))
    if share > 0:
        count = min(max(count, 1), max(len(drawn) - 1, 0))
    held = set(drawn[:count])
    return (
        [exam for exam in exams if exam.patient_id not in held],
        [exam for exam in exams if exam.patient_id in held],
    )


def first_of_patients(
    images: UInt64[np.ndarray, " n"], patients: UInt64[np.ndarray, " n"]
) -> Int[np.ndarray, " p"]:
    """The rows of one film a patient, in the order of the hashed image_id, by hashed ids."""
    order = np.argsort(images, kind="stable")
    first = np.unique(patients[order], return_index=True)[1]
    return order[np.sort(first)]
