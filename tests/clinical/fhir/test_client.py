"""A FHIR server that is asked for the record of one film; one that misbehaves; and a folder."""

import json
import pickle
import threading
import time
from collections.abc import Iterator
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydicom.dataset import Dataset

from nofinding.clinical.fhir.client import Asking, Finder, record_or_flag, records_for, zone_of
from nofinding.clinical.fhir.ehr import FhirRecord
from nofinding.data.decoding.decode import read_identity
from nofinding.data.ehr import FIELDS
from nofinding.data.nearest_value import EhrWindow
from nofinding.datasets.examples import Copy
from nofinding.datasets.hospital.fhir.server import TOKEN, TOKEN_FILE, Limits, Server
from nofinding.errors import UserError
from nofinding.net.answers import HttpError
from nofinding.net.http import _Watch
from support.fhir_server import Fault, FhirServer, Resource, observation, patient

SILENT = "record: the FHIR server did not answer"
UNUSABLE = "record: the FHIR server's answer cannot be used"
KG, HEIGHT, PULSE = "29463-7", "8302-2", "8867-4"
VALUES = [
    observation(KG, 61, "kg", "2020-03-10T10:00:00Z"),
    observation(KG, 60, "kg", "2020-01-01"),
    observation(HEIGHT, 170, "cm", "2020-05-30T10:00:00Z"),
    observation(PULSE, 99, "/min", "2020-06-01T13:00:00Z"),
    *(observation(PULSE, 60 + hour, "/min", f"2020-06-01T{hour:02d}:00:00Z") for hour in range(12)),
    observation(PULSE, 50, "/min", "2020-05-01", of="p2"),
]


@pytest.fixture
def server() -> Iterator[FhirServer]:
    with FhirServer([patient(), patient("p2", "P-2"), *VALUES], page=5) as output:
        yield output


def film(**tags: object) -> Dataset:
    header = Dataset()
    metadata = {"PatientID": "P-1", "StudyDate": "20200601", "StudyTime": "113000", **tags}
    for keyword, value in metadata.items():
        setattr(header, keyword, value)
    return header


asking_for = partial(Asking, window=EhrWindow(direction="before"))


def asked_for(server: FhirServer, **changes: Any) -> FhirRecord:
    asking = asking_for(**({"source": f"fhir:{server.url}", "zone": UTC} | changes))
    return record_or_flag(asking, film(), FIELDS)


def test_the_record_over_many_pages(server: FhirServer) -> None:
    record = asked_for(server)
    assert record.ehr == pytest.approx({
        "age": 21915 / 365.25, "sex": 0, "bmi": 61 / 1.7**2, "height": 170, "weight": 61,
        "heart_rate": 71,
    })  # fmt: skip
    # 11:30: the one of 13 o'clock is not known yet
    assert record.flags == ("record: 1 value from after the film, not used",)
    assert dict(record.used)["weight"] == 83


def test_nobody_and_nothing_else_is_asked_for(server: FhirServer) -> None:
    asked_for(server, system="urn:oid:1.2.3")
    queries = [parse_qs(urlsplit(asked).query) for asked in server.asked]
    assert queries[0]["identifier"] == ["urn:oid:1.2.3|P-1"]
    assert {query["patient"][0] for query in queries[1:]} == {"p1"}
    near = [query for query in queries[1:] if "ge2020-05-29" in query["date"]]
    rest = [query for query in queries[1:] if "ge2020-03-02" in query["date"]]
    assert len(near) + len(rest) == len(queries) - 1
    assert near[0]["date"] == ["ge2020-05-29", "le2020-06-02"]
    assert rest[0]["date"] == ["ge2020-03-02", "le2020-05-28"]
    # what the days near to the study had is not asked for again
    codes = rest[0]["code"][0]
    assert KG in codes and PULSE not in codes and HEIGHT not in codes and "85354-9" in codes


def test_a_server_and_a_folder_give_one_record(server: FhirServer, tmp_path: Path) -> None:
    lines = map(json.dumps, server.resources)
    (tmp_path / "all.ndjson").write_text("\n".join([*lines, "not JSON\n"]))
    (record,) = records_for(asking_for(source=str(tmp_path), zone=UTC), [film()], FIELDS)
    by_server = asked_for(server)
    assert (record.ehr, record.used) == (by_server.ehr, by_server.used)
    assert record.flags == (*by_server.flags, "record: 1 FHIR lines or files not readable")


def test_a_folder_for_films_of_several_patients(tmp_path: Path) -> None:
    late = {"lastUpdated": "2020-06-02T00:00:00Z"}
    resources = [
        patient(), patient("p2", "P-2"), observation(KG, 60, "kg", "2020-05-30", id="a"),
        observation(KG, 80, "kg", "2020-05-30", of="p2"),
        observation(HEIGHT, 170, "cm", "2020-05-30", id="h"),
        observation(HEIGHT, 170, "cm", "2020-05-30", id="h", of="p2", meta=late),
    ]  # fmt: skip
    bundle = {"resourceType": "Bundle", "entry": [{"resource": one} for one in resources]}
    (tmp_path / "all.json").write_text(json.dumps(bundle))
    films = [film(), film(PatientID="P-2"), film(PatientID="P-3")]
    one, two, three = records_for(asking_for(source=f"fhir:{tmp_path}"), films, FIELDS)
    assert (one.ehr["weight"], two.ehr["weight"]) == (60, 80)
    assert "height" not in one.ehr and two.ehr["height"] == 170  # it was moved to the other
    assert one.flags == ("record: 1 value of other patients, not used",) and two.flags == ()
    (alone,) = records_for(asking_for(source=f"fhir:{tmp_path}"), films[:1], FIELDS)
    assert alone == one
    assert three.flags == ("record: no patient of the record has the film's id",)


def test_one_that_was_recorded_comes_before_one_that_is_made(server: FhirServer) -> None:
    server.resources += [observation(KG, 70, "kg", "2020-05-31"),
                         observation("39156-5", 31, "kg/m2", "2020-04-01")]  # fmt: skip
    assert asked_for(server).ehr["bmi"] == 31


def test_an_ambiguous_patient_is_nobody(server: FhirServer) -> None:
    server.resources.append(patient("p3"))
    record = asked_for(server)
    assert record == FhirRecord(flags=("record: 2 patients have the film's id, none is used",))
    assert not any("Observation" in asked for asked in server.asked)


def test_values_of_others_in_the_answer_are_flagged(server: FhirServer) -> None:
    server.fault = "mixed"
    record = asked_for(server)
    assert record.ehr["heart_rate"] == 71
    assert "record: 2 values of other patients, not used" in record.flags  # asked twice


@pytest.fixture
def granted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that each exchange may take, filled in as they begin."""
    seconds: list[float] = []
    begin = _Watch.__init__

    def noted(self: _Watch, limit: float) -> None:
        seconds.append(limit)
        begin(self, limit)

    monkeypatch.setattr(_Watch, "__init__", noted)
    return seconds


@pytest.mark.parametrize(
    ("fault", "flag"),
    [
        ("cut", SILENT), ("500", UNUSABLE), ("401", UNUSABLE), ("html", UNUSABLE),
        ("huge", UNUSABLE), ("elsewhere", UNUSABLE), ("redirect", UNUSABLE),
    ],
)  # fmt: skip
def test_whatever_the_server_answers_is_no_record(
    server: FhirServer, fault: Fault, flag: str
) -> None:
    server.fault = fault
    assert asked_for(server, seconds=60.0) == FhirRecord(flags=(flag,))
    assert len(server.asked) <= 2  # and so it is not for want of time


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_a_server_that_does_not_come_to_an_end_is_cut_off(
    server: FhirServer, fault: Fault, granted: list[float]
) -> None:
    """A loaded machine may be late, so what is compared is the time that exchanges were given."""
    server.fault = fault
    began = time.monotonic()
    assert asked_for(server, seconds=1.0) == FhirRecord(flags=(SILENT,))
    assert granted and max(granted) <= 0.5 and sum(granted) <= 1
    assert time.monotonic() - began < 20  # the server would go on for 30 s, or for ever


def test_pages_without_end_are_counted(server: FhirServer) -> None:
    server.fault = "endless"
    assert asked_for(server, seconds=60.0) == FhirRecord(flags=(UNUSABLE,))
    assert len(server.asked) == 50


def test_pages_without_end_take_no_longer_than_all_together_may(
    server: FhirServer, granted: list[float]
) -> None:
    """Each page comes at once, and 5000 take far longer than 0.3 s on any machine."""
    server.fault = "endless"
    limits = Limits(seconds=0.3, page_seconds=0.3, waits=(), pages=5000)
    with pytest.raises(HttpError, match="does not answer"):
        [*Server(server.url, limits).search("Patient", {"identifier": "P-1"})]
    assert granted == sorted(granted, reverse=True) and granted[0] <= 0.3  # less for each


def test_a_server_that_fails_once_is_asked_again(server: FhirServer) -> None:
    faults: tuple[Fault, ...] = ("500", "cut")
    for fault in faults:
        server.fault, server.faults = fault, 1
        assert asked_for(server).ehr["weight"] == 61
        server.fault, server.faults = fault, 2
        assert asked_for(server).ehr == {}


def test_nobody_waits_for_those_who_were_given_up(server: FhirServer) -> None:
    before = threading.active_count()
    server.fault = "drip"
    asked_for(server, seconds=0.3)  # and the server would go on for ever
    deadline = time.monotonic() + 3
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before


def test_an_address_where_nobody_is(tmp_path: Path) -> None:
    with FhirServer([]) as gone:
        url = gone.url
    asking = asking_for(source=url)
    began = time.monotonic()
    assert record_or_flag(asking, film(), FIELDS).flags == (SILENT,)
    assert time.monotonic() - began < 3
    with pytest.raises(HttpError, match="does not answer") as caught:
        [*Server(url, asking.limits).search("Patient", {"identifier": "P-1"})]
    again = pickle.loads(pickle.dumps(caught.value))
    assert not caught.value.answered and not again.answered and str(again) == str(caught.value)
    assert "P-1" not in str(caught.value)


def test_the_token_of_a_variable_or_a_file(
    server: FhirServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.token = "abc"
    assert asked_for(server).flags == (UNUSABLE,)
    (tmp_path / "token").write_text("abc\n")
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "token"))
    assert asked_for(server).ehr["weight"] == 61
    monkeypatch.setenv(TOKEN, "other")
    assert asked_for(server).flags == (UNUSABLE,)
    for bad in ("a b", "a\r\nX: y", "é"):
        monkeypatch.setenv(TOKEN, bad)
        with pytest.raises(UserError, match="holds no token") as caught:
            asked_for(server)
        assert bad not in str(caught.value)
    monkeypatch.delenv(TOKEN)
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "absent"))
    with pytest.raises(UserError, match="cannot be read"):
        asked_for(server)


def test_a_token_goes_nowhere_else(server: FhirServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "abc")
    with FhirServer([patient()]) as other:
        server.fault = "redirect"
        assert asked_for(server).flags == (UNUSABLE,)
        assert len(server.asked) == 1 and other.asked == []
    with pytest.raises(UserError, match="is not sent over http"):
        record_or_flag(asking_for(source="http://hospital.example/fhir"), film(), FIELDS)


def test_the_size_of_all_answers_is_bounded(server: FhirServer) -> None:
    with pytest.raises(HttpError, match="sent more than") as caught:
        [*Server(server.url, Limits(total_bytes=500)).search("Patient", {})]
    assert caught.value.answered


def test_names_with_signs_of_the_search(server: FhirServer) -> None:
    server.resources = [patient("p9", "A,1|2 &x=y")]
    asking = asking_for(source=server.url)
    assert record_or_flag(asking, film(PatientID="A,1|2 &x=y"), FIELDS).ehr["sex"] == 0


def test_a_film_without_patient_or_date_asks_for_little(server: FhirServer) -> None:
    asking = asking_for(source=server.url)
    assert record_or_flag(asking, film(PatientID=""), FIELDS).flags == (
        "record: the film has no patient id",
    )
    assert server.asked == []
    assert record_or_flag(asking, film(StudyDate=""), FIELDS).ehr == {"sex": 0}
    assert len(server.asked) == 1


def test_a_service_asks_film_by_film(
    server: FhirServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    tags = {"PatientID": "P-1", "StudyDate": "20200601", "StudyTime": "113000"}
    path = copy.dicom("a.dcm", copy.film(0), **tags)
    finder = Finder(asking=asking_for(source=server.url, zone=zone_of("UTC")), fields=FIELDS)
    assert pickle.loads(pickle.dumps(finder))(path, read_identity(path)).ehr["weight"] == 61
    monkeypatch.setenv(TOKEN_FILE, str(tmp_path / "gone"))
    assert finder(path, read_identity(path)) == FhirRecord(flags=(UNUSABLE,))
    with pytest.raises(UserError, match="cannot be read"):
        Finder(asking=finder.asking, fields=FIELDS)
    with pytest.raises(UserError, match="is not a DICOM file"):
        finder(copy.picture("a.png", copy.film(0)), {})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"source": "/nowhere/at/all"}, "is neither a folder nor http"),
        ({"seconds": 0}, "give up to 600"),
    ],
)
def test_what_cannot_be_asked(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError, match=error):
        asking_for(**({"source": "http://localhost/fhir"} | changes))
    with pytest.raises(UserError, match="no time zone has this name"):
        zone_of("Mars/Olympus")
    assert zone_of(None) is None


def test_the_window_of_one_day_is_asked_for_at_once(server: FhirServer) -> None:
    record = asked_for(server, window=EhrWindow(days=1, direction="before"))
    assert "weight" not in record.ehr and "height" not in record.ehr
    dates = {tuple(parse_qs(urlsplit(one).query).get("date", ())) for one in server.asked[1:]}
    assert dates == {("ge2020-05-30", "le2020-06-02")}


def test_around_the_study_both_sides_are_asked_for(server: FhirServer) -> None:
    server.resources += [observation(KG, 70, "kg", "2020-06-12")]
    record = asked_for(server, window=EhrWindow())
    assert record.ehr["weight"] == 70 and dict(record.used)["weight"] == -11
    dates = {tuple(parse_qs(urlsplit(one).query).get("date", ())) for one in server.asked[1:]}
    assert dates == {("ge2020-05-29", "le2020-06-04"), ("ge2020-03-02", "le2020-05-28"),
                     ("ge2020-06-05", "le2020-08-31")}  # fmt: skip


def test_a_value_in_the_margin_does_not_settle_what_is_nearest(server: FhirServer) -> None:
    server.resources += [
        observation(KG, 70, "kg", "2020-05-29T01:00:00Z"),  # 82.5 hours before
        observation(KG, 71, "kg", "2020-06-05T00:30:00Z"),
    ]  # 85 hours after
    assert asked_for(server, window=EhrWindow()).ehr["weight"] == 70
    server.resources[-1] |= {"effectiveDateTime": "2020-06-04T20:30:00Z"}
    assert asked_for(server, window=EhrWindow()).ehr["weight"] == 71


def test_a_resource_of_another_kind_is_no_patient(server: FhirServer) -> None:
    wrong: Resource = {"resourceType": "Person", "id": "p1"}
    server.resources = [wrong, *VALUES]
    assert asked_for(server).flags == ("record: no patient of the record has the film's id",)
