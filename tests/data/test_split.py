"""Who is in which part."""

import numpy as np
import pytest

from nofinding.data.split import check_splits, hold_out, normals
from nofinding.errors import UserError
from nofinding.types import Record, Split


def record(
    image_id: str,
    patient: str,
    split: Split | None = None,
    findings: frozenset[str] | None = frozenset(),
) -> Record:
    return Record(
        image_id=image_id,
        patient_id=patient,
        pixels=lambda: np.zeros((2, 2)),
        ehr={},
        split=split,
        findings=findings,
    )


def test_a_patient_in_two_parts_is_refused_with_counts_and_an_example() -> None:
    records = [
        record("a", "p1", "train"),
        record("b", "p1", "test"),
        record("c", "p2", "train"),
        record("d", "p2", "train"),
    ]
    with pytest.raises(UserError, match=r"1 of 2 patients .* 'p1' in test and train"):
        check_splits(records)
    check_splits(records[1:])


def test_an_image_id_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="'a'"):
        check_splits([record("a", "p1"), record("a", "p2")])


def test_normal_means_labelled_so() -> None:
    records = [
        record("a", "a", "train"),
        record("b", "b", "train", None),
        record("c", "c", "train", frozenset({"Mass"})),
        record("d", "d", "val"),
    ]
    assert [r.image_id for r in normals(records, "train")] == ["a"]


def test_holding_out_is_by_patient_and_does_not_depend_on_order() -> None:
    records = [record(f"{p}-{i}", f"p{p}") for p in range(20) for i in range(3)]
    rest, held = hold_out(records, 0.25, seed=1)
    assert not {r.patient_id for r in rest} & {r.patient_id for r in held}
    assert len({r.patient_id for r in held}) == 5 and len(rest) + len(held) == 60
    again = hold_out(records[::-1], 0.25, seed=1)[1]
    assert {r.image_id for r in again} == {r.image_id for r in held}
    assert {r.image_id for r in hold_out(records, 0.25, seed=2)[1]} != {r.image_id for r in held}


def test_neither_side_is_empty_where_two_patients_are() -> None:
    two = [record("a", "a"), record("b", "b")]
    assert [len(part) for part in hold_out(two, 0.01, 0)] == [1, 1]
    assert [len(part) for part in hold_out(two, 0.99, 0)] == [1, 1]
    assert [len(part) for part in hold_out(two, 0, 0)] == [2, 0]
    with pytest.raises(UserError, match="below 1"):
        hold_out(two, 1.0, 0)
