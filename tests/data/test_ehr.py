"""Fields of the record: reading, converting, doubting and encoding them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nofinding.data.ehr import FIELDS, EhrField, EhrStats, convert, parse, plausible, read_fields
from nofinding.errors import UserError
from nofinding.types import Exam

LOINC = {
    "age": "30525-0",
    "sex": "46098-0",
    "bmi": "39156-5",
    "height": "8302-2",
    "weight": "29463-7",
    "systolic": "8480-6",
    "diastolic": "8462-4",
    "heart_rate": "8867-4",
    "respiratory_rate": "9279-1",
    "temperature": "8310-5",
    "spo2": "59408-5",
}


def exam(image_id: str = "a", **ehr: float) -> Exam:
    return Exam(image_id=image_id, patient_id=image_id, pixels=lambda: np.zeros((4, 4)), ehr=ehr)


def test_built_in_fields_carry_their_codes_units_and_ranges() -> None:
    assert {name: f.loinc for name, f in FIELDS.items() if f.loinc} == LOINC
    assert FIELDS["sex"].categories == ("F", "M")
    assert FIELDS["view"].categories == ("PA", "AP")
    for field in FIELDS.values():
        if field.kind == "numeric":
            assert field.unit and field.low is not None and field.high is not None


@pytest.mark.parametrize(
    ("name", "value", "unit", "expected"),
    [
        ("height", 65, "in", 165.1),
        ("height", 1.7, "m", 170),
        ("height", 6, "[ft_i]", 182.88),
        ("weight", 180, "lb", 81.6466266),
        ("weight", 12, "stone", 76.20351),
        ("temperature", 98.6, "degF", 37),
        ("temperature", -40, "°F", -40),
        ("temperature", 310.15, "K", 37),
        ("age", 18, "mo", 1.5),
        ("age", 63, "years", 63),
        ("systolic", 16, "kPa", 120.0099),
        ("spo2", 0.97, "1", 97),
        ("bmi", 0.0355614, "lb/in2", 25.0017),
        ("heart_rate", 72, "bpm", 72),
    ],
)
def test_units_are_converted(name: str, value: float, unit: str, expected: float) -> None:
    assert convert(value, unit, FIELDS[name]) == pytest.approx(expected, rel=1e-4)


def test_a_value_in_the_fields_own_unit_is_untouched() -> None:
    assert convert(0.1 + 0.2, "Cel", FIELDS["temperature"]) == 0.1 + 0.2


@pytest.mark.parametrize("unit", ["kg", "parsec", "degF"])
def test_a_unit_of_another_kind_is_refused(unit: str) -> None:
    with pytest.raises(UserError, match="height"):
        convert(1, unit, FIELDS["height"])


def test_parse_converts_only_where_a_unit_is_stated() -> None:
    assert parse(FIELDS["weight"], "180", None) == 180
    assert parse(FIELDS["weight"], "180", "lb") == pytest.approx(81.6466)
    assert parse(FIELDS["weight"], " 180 lb", None) == pytest.approx(81.6466)
    assert parse(FIELDS["weight"], "80kg", "lb") == 80  # what stands at the number counts


def test_parse_reads_categories_and_the_ways_of_writing_nothing() -> None:
    assert parse(FIELDS["sex"], "F", None) == 0
    assert parse(FIELDS["sex"], "m", None) == 1
    for nothing in ("", "  ", "NA", "NaN", "null"):
        assert parse(FIELDS["sex"], nothing, None) is None
        assert parse(FIELDS["age"], nothing, "a") is None


@pytest.mark.parametrize("text", ["abc", "1,5", "1_000", "inf", "1e999", "--3", "0x10", "5 5", "٣"])
def test_rubbish_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError, match="age"):
        parse(FIELDS["age"], text, None)


def test_an_unknown_category_says_what_is_allowed() -> None:
    with pytest.raises(UserError, match=r"'X' is not one of F, M"):
        parse(FIELDS["sex"], "X", None)


@given(st.sampled_from([*FIELDS.values()]), st.text(), st.none() | st.text())
def test_parse_gives_a_finite_number_or_none_or_a_user_error(
    field: EhrField, text: str, unit: str | None
) -> None:
    try:
        value = parse(field, text, unit)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert value is None or math.isfinite(value)


@given(st.floats(-1e6, 1e6), st.sampled_from(["in", "ft", "mm", "m", "cm"]))
def test_lengths_keep_their_order_and_zero(value: float, unit: str) -> None:
    height = FIELDS["height"]
    assert convert(0, unit, height) == 0
    assert convert(value + 1, unit, height) > convert(value, unit, height)


def test_the_impossible_is_dropped_and_flagged_by_name() -> None:
    remaining, flags = plausible({"age": 300, "bmi": 2, "sex": 1, "height": 250}, FIELDS)
    assert remaining == {"sex": 1, "height": 250}
    assert flags == ("age: 300 is outside 0 to 120 a", "bmi: 2 is outside 8 to 100 kg/m2")


def test_a_diastolic_above_the_systolic_pressure_drops_both() -> None:
    remaining, flags = plausible({"systolic": 80, "diastolic": 120, "age": 5}, FIELDS)
    assert remaining == {"age": 5}
    assert len(flags) == 1 and flags[0].startswith("diastolic: 120 is above systolic 80")
    assert plausible({"systolic": 120, "diastolic": 80}, FIELDS)[1] == ()


def test_a_not_a_number_is_not_plausible() -> None:
    assert plausible({"age": math.nan}, FIELDS)[0] == {}


def test_users_add_fields_in_yaml(tmp_path: Path) -> None:
    file = tmp_path / "fields.yaml"
    file.write_text(
        "creatinine: {kind: numeric, unit: mg/dL, loinc: 2160-0, low: 0.1, high: 30}\n"
        "smoker: {kind: categorical, categories: [never, former, current]}\n"
        "age: {high: 6}\n"
    )
    fields = read_fields(file)
    assert [*fields][:12] == [*FIELDS] and [*fields][12:] == ["creatinine", "smoker"]
    assert fields["creatinine"].unit == "mg/dL"
    assert parse(fields["creatinine"], "1.1 mg/dL", None) == 1.1
    assert parse(fields["smoker"], "former", None) == 1
    assert plausible({"age": 63}, fields)[1] == ("age: 63 is outside 0 to 6 a",)
    assert FIELDS["age"].high == 120


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "must map"),
        ("a: [", "not a YAML"),
        ("a: 3", "properties"),
        ("a: {kind: number}", "numeric or categorical"),
        ("a: {kind: numeric, colour: red}", "'colour' is not one of"),
        ("a: {kind: numeric, low: x}", "low must be a number"),
        ("a: {kind: numeric, low: 3, high: 2}", "not below"),
        ("a: {kind: numeric, low: .inf}", "finite"),
        ("a: {kind: categorical, categories: [yes, no]}", "quotes"),
        ("a: {kind: categorical, categories: [x]}", "two or more"),
        ("a: {kind: categorical, categories: [x, x]}", "two or more"),
        ("A b: {kind: numeric}", "small letters"),
        ("findings: {kind: numeric}", "none of"),
        ("age: {unit: mo}", "'unit' is not one of low, high, loinc"),
        ("age: {low: 200}", "not below"),
    ],
)
def test_a_bad_field_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "fields.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read_fields(file)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_an_absent_field_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_fields(tmp_path / "none.yaml")


def stats() -> EhrStats:
    records = [exam(age=40, sex=1), exam(age=60, sex=0), exam(sex=1, bmi=25)]
    return EhrStats.of(records, [FIELDS[name] for name in ("age", "sex", "bmi", "spo2")])


def test_statistics_are_of_what_was_known() -> None:
    result = stats()
    assert result.mean == (50, 0, 25, 0)
    assert result.std == (10, 1, 1, 1)
    assert result.known == (2, 3, 1, 0)


def test_encoding_masks_what_is_missing() -> None:
    values, known = stats().encode({"age": 70, "sex": 1})
    assert values.tolist() == [2, 1, 0, 0] and values.dtype == np.float32
    assert known.tolist() == [True, True, False, False] and known.dtype == np.bool_
    assert not stats().encode({})[1].any()


def test_decoding_inverts_encoding() -> None:
    ehr = {"age": 71.0, "sex": 1.0, "bmi": 31.0}
    values, _ = stats().encode(ehr)
    decoded = stats().decode(torch.from_numpy(values)[None])
    torch.testing.assert_close(decoded, torch.tensor([[*ehr.values(), 0]]))


def test_a_field_that_no_training_film_had_counts_as_missing() -> None:
    values, known = stats().encode({"spo2": 92.0})  # 92 is no z-score
    assert values.tolist() == [0, 0, 0, 0] and not known.any()


def test_statistics_survive_json() -> None:
    assert EhrStats.from_json(json.loads(json.dumps(stats().to_json()))) == stats()


@pytest.mark.parametrize(
    "damage",
    [{"mean": [1]}, {"std": [0, 1, 1, 1]}, {"fields": [{}]}, {"known": None}, {"mean": ["x"] * 4}],
)
def test_damaged_statistics_are_refused(damage: dict[str, object]) -> None:
    with pytest.raises(UserError, match="damaged"):
        EhrStats.from_json({**stats().to_json(), **damage})
