"""The record of one film from FHIR resources: what is used, what is not, and what is said of it."""

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from nofinding.clinical.fhir.ehr import FhirRecord, record_of
from nofinding.clinical.fhir.patient import PatientKey, Taken, patient_of, taken_of
from nofinding.data.ehr import FIELDS, EhrField
from nofinding.data.nearest_value import Direction, EhrWindow
from nofinding.datasets.build.ehr_linkage import loinc_fields
from nofinding.datasets.hospital.fhir.resources import PANELS
from support.fhir_server import Resource, observation, patient

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2020, 6, 1, 12)
KEY = PatientKey(values=("P-1",))
KG, HEIGHT, PULSE = "29463-7", "8302-2", "8867-4"


def of(
    *resources: Resource, taken: Taken = NOON, window: int = 90, key: PatientKey = KEY,
    zone: tzinfo | None = UTC, people: tuple[Resource, ...] = (patient(),),
    direction: Direction = "before",
) -> FhirRecord:  # fmt: skip
    within = EhrWindow(days=window, direction=direction)
    return record_of(
        [*people, *resources], patient=key, taken=taken, window=within, fields=FIELDS, zone=zone
    )


def weight(value: float, when: str, **more: Any) -> Resource:
    return observation(KG, value, "kg", when, **more)


def test_person_values_units_and_components() -> None:
    def part(code: str, value: float) -> Resource:
        whole = observation(code, value, "mm[Hg]", "")
        return {key: whole[key] for key in ("code", "valueQuantity")}

    panel = observation("85354-9", 0, "1", "2020-06-01T09:00:00Z",
                        component=[part("8480-6", 120), part("8462-4", 80)])  # fmt: skip
    del panel["valueQuantity"]
    record = of(
        panel,
        observation(KG, 160, "[lb_av]", "2020-05-30T09:00:00Z"),
        observation("3137-7", 70, "[in_i]", "2020-05-12"),
        observation("8310-5", 98.6, "[degF]", "2020-06-01T11:00:00Z"),
        observation(PULSE, 70, "{beats}/min", "2020-06-01"),
        observation("718-7", 14, "g/dL", "2020-06-01"),
    )
    assert record.ehr == pytest.approx({
        "age": 21915 / 365.25, "sex": 0, "systolic": 120, "diastolic": 80, "height": 177.8,
        "weight": 160 * 0.45359237, "temperature": 37, "heart_rate": 70,
        "bmi": 160 * 0.45359237 / 1.778**2,
    })  # fmt: skip
    assert record.flags == ()
    assert dict(record.used) == {
        "age": 0, "sex": 0, "systolic": 0, "diastolic": 0, "height": 20, "weight": 2,
        "temperature": 0, "heart_rate": 0, "bmi": 20,
    }  # fmt: skip


def test_the_last_before_the_study_within_the_window() -> None:
    values = [weight(60, "2020-03-03"), weight(62, "2020-05-31T23:59:00Z"),
              weight(63, "2020-05-31T08:00:00Z"), weight(61, "2020-05-30")]  # fmt: skip
    record = of(*values)
    assert record.ehr["weight"] == 62 and dict(record.used)["weight"] == 1
    assert of(values[0], window=90).ehr["weight"] == 60  # 90 days
    assert "weight" not in of(values[0], window=89).ehr
    assert of(weight(60, "2020-06-01"), window=0).ehr["weight"] == 60
    same = [weight(v, "2020-05-31T08:00:00+02:00") for v in (60, 64, 80)]
    assert of(*same).ehr["weight"] == 64  # values at one time are one
    recorded = observation("39156-5", 31, "kg/m2", "2020-05-01")
    assert of(recorded, *values, observation(HEIGHT, 170, "cm", "2020-05-01")).ehr["bmi"] == 31


def test_around_the_study_a_nearer_value_from_after_it_counts() -> None:
    values = [weight(60, "2020-05-30"), weight(62, "2020-06-02T08:00:00Z")]
    assert of(*values).ehr["weight"] == 60
    record = of(*values, direction="around")
    assert record.ehr["weight"] == 62 and record.flags == ()
    assert dict(record.used)["weight"] == -1
    height = observation(HEIGHT, 170, "cm", "2020-05-20")
    assert dict(of(*values, height, direction="around").used)["bmi"] == 12


@pytest.mark.parametrize(
    ("one", "flag"),
    [
        (weight(9, "2020-06-01T12:00:01Z"), "record: 1 value from after the film, not used"),
        (weight(9, "2020-06-02"), "record: 1 value from after the film, not used"),
        (weight(9, "2020-06-01", status="entered-in-error"),
         "record: 1 value entered in error or cancelled, not used"),
        (weight(9, "2020-06-01", status="cancelled"),
         "record: 1 value entered in error or cancelled, not used"),
        (weight(9, "2020-06-01", status=[]),
         "record: 1 value entered in error or cancelled, not used"),
        (weight(9, "2020-06-01", of="p2"), "record: 1 value of other patients, not used"),
        (weight(9, "2020-06-01", subject={"reference": "Group/p1"}),
         "record: 1 value of other patients, not used"),
        (weight(9, "2020-06-01", subject={"identifier": {"value": "P-2"}}),
         "record: 1 value of other patients, not used"),
        (weight(9, "2020-06-01", subject=None), "record: 1 value of no patient, not used"),
        (weight(9, "2020-06-01", focus=[{"reference": "Patient/child"}]),
         "record: 1 value of somebody or something else, not used"),
        (weight(9, "2020-06"), "record: 1 value without a day, not used"),
        (weight(9, "0001-01-01T00:00:00+14:00"), "record: 1 value without a day, not used"),
        (observation(KG, 9, "", "2020-06-01"), "weight: 1 value without a unit, not used"),
        (observation(KG, 9, "cm", "2020-06-01"), "weight: 1 value in an unknown unit, not used"),
        (observation(KG, 900, "kg", "2020-06-01"), "weight: 1 value out of range, not used"),
        (observation(KG, 9, "kg", "2020-06-01", valueQuantity={"value": 9, "comparator": "<"}),
         "weight: 1 value without a number, not used"),
    ],
)  # fmt: skip
def test_what_is_not_used_is_counted_and_not_quoted(one: Resource, flag: str) -> None:
    record = of(one, weight(70, "2020-05-01"))
    assert record.ehr["weight"] == 70  # the one before it counts
    assert record.flags == (flag,)
    assert len(flag) <= 64  # a code's meaning in DICOM


def test_what_is_said_twice_is_counted_once() -> None:
    record = of(*(weight(9, "2020-06-03", id=f"w{n}") for n in range(3)), weight(9, "2020-06-01"),
                observation("8310-5", 99, "Cel", "2020-06-01"))  # fmt: skip
    assert record.flags == ("record: 3 values from after the film, not used",
                            "temperature: 1 value out of range, not used")  # fmt: skip


def test_of_several_versions_the_last() -> None:
    def version(value: float, updated: str, **more: Any) -> Resource:
        return weight(value, "2020-05-31", id="w", meta={"lastUpdated": updated}, **more)

    early, late = "2020-06-01T01:00:00+02:00", "2020-06-01T00:30:00Z"  # 23:00 and 00:30 in UTC
    assert of(version(80, late), version(60, early)).ehr["weight"] == 80
    taken_back = of(version(60, early), version(60, late, status="entered-in-error"))
    assert "weight" not in taken_back.ehr
    moved = of(version(60, early), version(60, late, subject={"reference": "Patient/p2"}))
    assert "weight" not in moved.ehr and "of other patients" in moved.flags[0]
    numbers = [weight(v, "2020-05-31", id="w", meta={"versionId": n})
               for v, n in ((70, "10"), (60, "9"))]  # fmt: skip
    assert of(*numbers).ehr["weight"] == 70
    assert (
        of(weight(60, "2020-05-31", id="w"), weight(61, "2020-05-31", id="w")).ehr["weight"] == 61
    )
    people = (patient(gender="male", meta={"lastUpdated": late}),
              patient(meta={"lastUpdated": early}))  # fmt: skip
    assert of(people=people).ehr["sex"] == 1


@pytest.mark.parametrize(
    ("taken", "zone", "before"),
    [
        # 09:30 on the film's clock; the value is from 08:00 UTC
        (datetime(2020, 6, 1, 9, 30), UTC, True),
        (datetime(2020, 6, 1, 9, 30), BERLIN, False),  # 07:30 UTC
        (datetime(2020, 6, 1, 10, 30), BERLIN, True),  # 08:30 UTC
        (datetime(2020, 1, 1, 9, 30), BERLIN, None),  # of winter: other values
        (datetime(2020, 6, 1, 9, 30, tzinfo=timezone(timedelta(hours=2))), UTC, False),
        (datetime(2020, 6, 1, 9, 30, tzinfo=timezone(timedelta(hours=1))), BERLIN, True),
        (date(2020, 6, 1), BERLIN, True),  # a day alone ends at midnight
        (date(2020, 5, 31), BERLIN, False),
    ],
)
def test_instants_beside_the_clock_of_the_film(
    taken: Taken, zone: tzinfo, before: bool | None
) -> None:
    values = [weight(60, "2020-06-01T08:00:00Z"), weight(50, "2020-01-01T08:00:00Z")]
    record = of(*values, taken=taken, zone=zone)
    if before is None:  # 08:30 UTC in January
        assert record.ehr["weight"] == 50
    else:
        assert ("weight" in record.ehr) == before


def test_days_are_those_of_the_films_clock() -> None:
    # half past midnight in Berlin is the day before in UTC
    one = weight(60, "2020-05-31T22:30:00Z")
    assert dict(of(one, taken=NOON, zone=BERLIN).used)["weight"] == 0
    assert dict(of(one, taken=NOON, zone=UTC).used)["weight"] == 1
    naive = weight(60, "2020-06-01T11:30:00")  # which FHIR does not allow
    assert "weight" in of(naive, zone=BERLIN).ehr


def test_this_machines_clock_where_no_zone_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    one = weight(60, "2020-06-01T11:00:00Z")
    for zone, known in (("Asia/Tokyo", False), ("UTC", True)):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert ("weight" in of(one, zone=None).ehr) == known
    monkeypatch.delenv("TZ")
    time.tzset()


@pytest.mark.parametrize(
    ("changes", "output"),
    [
        ({"effectivePeriod": {"start": "2020-05-30", "end": "2020-06-02"}}, None),
        ({"effectivePeriod": {"start": "2020-05-30", "end": "2020-05-31"}}, 1),
        ({"effectivePeriod": {"start": "2020-05-30"}}, 2),
        ({"effectiveInstant": "2020-06-01T13:59:59.5+02:00"}, 0),
        ({"effectiveTiming": {}}, None),
    ],
)
def test_periods_and_instants(changes: dict[str, Any], output: int | None) -> None:
    record = of({**weight(60, ""), "effectiveDateTime": None, **changes})
    assert dict(record.used).get("weight") == output


@pytest.mark.parametrize(
    ("people", "key", "flag"),
    [
        ((), KEY, "record: no patient of the record has the film's id"),
        ((patient(mrn="P-2"),), KEY, "record: no patient of the record has the film's id"),
        # a server's own id is nobody's identifier
        ((patient("P-1", "X"),), KEY, "record: no patient of the record has the film's id"),
        ((patient(), patient("p2")), KEY, "record: 2 patients have the film's id, none is used"),
        ((patient(),), PatientKey(values=()), "record: the film has no patient id"),
        ((patient(),), PatientKey(values=("P-1",), system="urn:oid:9"),
         "record: no patient of the record has the film's id"),
        ((patient(),), PatientKey(values=("P-1",), born="1961-06-01"),
         "record: the patient has another birth date, not used"),
        ((patient(link=[{"type": "replaced-by", "other": {"reference": "Patient/p2"}}]),), KEY,
         "record: no patient of the record has the film's id"),
    ],
)  # fmt: skip
def test_without_the_one_patient_there_is_no_record(
    people: tuple[Resource, ...], key: PatientKey, flag: str
) -> None:
    assert of(weight(60, "2020-05-31"), people=people, key=key) == FhirRecord(flags=(flag,))


def test_a_patient_who_was_merged_is_the_one_that_is_left() -> None:
    old = patient("p2", link=[{"type": "replaced-by", "other": {"reference": "Patient/p1"}}])
    other = [{"system": "urn:oid:9", "value": "P-1"}]
    assert of(weight(60, "2020-05-31"), people=(old, patient())).ehr["weight"] == 60
    key = PatientKey(values=("P-1",), system="urn:oid:1.2.3")
    people = (patient(), patient("p2", identifier=other))
    assert of(weight(60, "2020-05-31"), people=people, key=key).ehr["weight"] == 60


def test_what_the_header_says_of_the_person_is_compared() -> None:
    key = PatientKey(values=("P-1",), born="1960-06-01", sex="M")
    record = of(key=key, people=(patient(birthDate="1960"),))
    assert record.flags == ("sex: the record says another than the film",)
    assert record.ehr["age"] == pytest.approx((date(2020, 6, 1) - date(1960, 7, 1)).days / 365.25)
    assert of(people=(patient(birthDate="2021-01-01"),)).flags == (
        "age: 1 value out of range, not used",
    )
    assert "sex" not in of(people=(patient(gender="other"),)).ehr


def test_a_subject_by_identifier_is_the_patient_too() -> None:
    named = {"identifier": {"system": "urn:oid:1.2.3", "value": "P-1"}}
    assert of(weight(60, "2020-05-31", subject=named)).ehr["weight"] == 60
    full = {"reference": "https://server/fhir/Patient/p1/_history/2"}
    assert of(weight(60, "2020-05-31", subject=full)).ehr["weight"] == 60


def test_pressures_that_contradict_each_other_are_both_left_out() -> None:
    record = of(observation("8480-6", 80, "mm[Hg]", "2020-06-01"),
                observation("8462-4", 120, "mm[Hg]", "2020-06-01"))  # fmt: skip
    assert set(record.ehr) == {"age", "sex"} == {name for name, _ in record.used}
    assert record.flags == ("diastolic: is above systolic in the record, both left out",)


def test_a_film_without_a_date_has_only_a_sex() -> None:
    record = of(weight(60, "2020-05-31"), taken=None)
    assert record.ehr == {"sex": 0}
    assert record.flags == ("record: the film has no date, no measurement is used",)


def test_fields_of_the_users_own() -> None:
    own = EhrField(name="creatinine", kind="numeric", unit="mg/dL", loinc="2160-0", low=0.1, high=9)
    value = observation("2160-0", 1.2, "mg/dl", "2020-06-01")
    record = record_of([patient(), value, weight(60, "2020-06-01")], patient=KEY, taken=NOON,
                       window=EhrWindow(days=9), fields={"creatinine": own}, zone=UTC)  # fmt: skip
    assert record == FhirRecord(ehr={"creatinine": 1.2}, used=(("creatinine", 0),))


def test_the_codes_of_the_documentation_are_those_that_are_asked_for() -> None:
    page = (Path(__file__).parents[3] / "docs" / "clinical.md").read_text(encoding="utf-8")
    table = page.split("| field | LOINC |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE)
    metadata = {code: field for field, codes in rows for code in codes.split(", ")}
    assert metadata == loinc_fields(FIELDS)
    assert all(panel in page for panel in PANELS)


def test_patient_and_time_of_a_header() -> None:
    film = Dataset()
    assert patient_of(film).values == () and taken_of(film) is None
    film.PatientID, film.PatientBirthDate, film.PatientSex = " P-1 ", "19600601", "F"
    film.StudyDate, film.StudyTime = "20200601", "1015"
    key = patient_of(film, "urn:oid:1.2.3")
    assert key == PatientKey(values=("P-1",), system="urn:oid:1.2.3", born="1960-06-01", sex="F")
    assert "P-1" not in repr(key) and "1960" not in repr(key)
    assert taken_of(film) == datetime(2020, 6, 1, 10, 15)
    film.StudyTime = "101559.123"
    film.TimezoneOffsetFromUTC = "+0200"
    assert taken_of(film) == datetime(2020, 6, 1, 8, 15, 59, tzinfo=UTC)
    film.StudyTime = ""
    assert taken_of(film) == date(2020, 6, 1)


ODD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["2020-06-01", "Patient/p1", "P-1", "final", "kg", "http://loinc.org", KG]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["coding", "system", "code", "value", "reference", "start",
                                       "lastUpdated", "identifier", "type"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["id", "meta", "status", "subject", "code", "effectiveDateTime",
                             "effectivePeriod", "valueQuantity", "component", "focus", "link",
                             "identifier", "gender", "birthDate"]),
            ODD, max_size=4,
        ),
        max_size=4,
    )
)  # fmt: skip
def test_whatever_is_in_resources_there_is_a_record(changes: list[dict[str, Any]]) -> None:
    good = [patient(), weight(60, "2020-05-31")]
    odd = [{**good[number % 2], **change} for number, change in enumerate(changes)]
    record = of(*odd, *good, people=())
    assert set(record.ehr) <= set(FIELDS)
    assert all("P-1" not in flag for flag in record.flags)
