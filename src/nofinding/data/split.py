"""Who is in which part: by patient, and for training normal films only."""

import hashlib
from collections.abc import Sequence

from nofinding.errors import UserError
from nofinding.types import Record, Split

__all__ = ["check_splits", "hold_out", "normals"]


def check_splits(records: Sequence[Record]) -> None:
    """Raises UserError where an image_id occurs twice, or a patient is in two parts."""
    seen: set[str] = set()
    for record in records:
        if record.image_id in seen:
            raise UserError(f"image_id {record.image_id!r} is given to more than one film")
        seen.add(record.image_id)
    parts: dict[str, set[str]] = {}
    for record in records:
        if record.split is not None:
            parts.setdefault(record.patient_id, set()).add(record.split)
    both = {patient: sorted(splits) for patient, splits in parts.items() if len(splits) > 1}
    if both:
        patient, splits = min(both.items())
        raise UserError(
            f"{len(both)} of {len(parts)} patients are in more than one split, for example "
            f"patient_id {patient!r} in {' and '.join(splits)}; a patient must be in one"
        )


def normals(records: Sequence[Record], split: Split) -> list[Record]:
    """The films of one part that are labelled "No Finding". An unlabelled film is not normal."""
    return [r for r in records if r.split == split and r.findings == frozenset()]


def hold_out(
    records: Sequence[Record], share: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """(the rest, the films of a share of the patients), each in the order given.

    Which patients is decided by the seed and their id alone, not by their order; of two or
    more patients at least one is held out (for a share above 0) and at least one is not.

    Raises UserError unless 0 <= share < 1.
    """
    if not 0 <= share < 1:
        raise UserError(f"the share to hold out is {share:g}; it must be at least 0 and below 1")
    patients = {record.patient_id for record in records}
    drawn = sorted(patients, key=lambda p: hashlib.sha256(f"{seed}|{p}".encode()).digest())
    count = round(share * len(drawn))
    if share > 0:
        count = min(max(count, 1), max(len(drawn) - 1, 0))
    held = set(drawn[:count])
    return (
        [record for record in records if record.patient_id not in held],
        [record for record in records if record.patient_id in held],
    )
