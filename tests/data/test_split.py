"""Who is in which part."""

import numpy as np
import pytest

from nofinding.data.split import check_splits, hold_out, normals
from nofinding.errors import UserError
from nofinding.types import Exam, Split


def exam(
    image_id: str,
    patient: str,
    split: Split | None = None,
    findings: frozenset[str] | None = frozenset(),
) -> Exam:
    return Exam(
        image_id=image_id,
        patient_id=patient,
        pixels=lambda: np.zeros((2, 2)),
        ehr={},
        split=split,
        findings=findings,
    )


def test_a_patient_in_two_parts_is_refused_with_counts_and_an_example() -> None:
    records = [
        exam("a", "p1", "train"),
        exam("b", "p1", "test"),
        exam("c", "p2", "train"),
        exam("d", "p2", "train"),
    ]
    with pytest.raises(UserError, match=r"1 of 2 patients .* 'p1' in test and train"):
        check_splits(records)
    check_splits(records[1:])


def test_an_image_id_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="'a'"):
        check_splits([exam("a", "p1"), exam("a", "p2")])


def test_normal_means_labelled_so() -> None:
    exams = [
        exam("a", "a", "train"),
        exam("b", "b", "train", None),
        exam("c", "c", "train", frozenset({"Mass"})),
        exam("d", "d", "val"),
    ]
    assert [r.image_id for r in normals(exams, "train")] == ["a"]


def test_holding_out_is_by_patient_and_does_not_depend_on_order() -> None:
    exams = [exam(f"{p}-{i}", f"p{p}") for p in range(20) for i in range(3)]
    rest, held = hold_out(exams, 0.25, seed=1)
    assert not {r.patient_id for r in rest} & {r.patient_id for r in held}
    assert len({r.patient_id for r in held}) == 5 and len(rest) + len(held) == 60
    again = hold_out(exams[::-1], 0.25, seed=1)[1]
    assert {r.image_id for r in again} == {r.image_id for r in held}
    assert {r.image_id for r in hold_out(exams, 0.25, seed=2)[1]} != {r.image_id for r in held}


def test_neither_side_is_empty_where_two_patients_are() -> None:
    two = [exam("a", "a"), exam("b", "b")]
    assert [len(part) for part in hold_out(two, 0.01, 0)] == [1, 1]
    assert [len(part) for part in hold_out(two, 0.99, 0)] == [1, 1]
    assert [len(part) for part in hold_out(two, 0, 0)] == [2, 0]
    with pytest.raises(UserError, match="below 1"):
        hold_out(two, 1.0, 0)
