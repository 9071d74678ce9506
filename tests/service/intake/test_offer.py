"""What a request says of a patient, and whose film a file is: understood, or refused in a line."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from nofinding.data.ehr import FIELDS
from nofinding.errors import UserError
from nofinding.service.intake.offer import identity_of, offer, offer_what_if, stated_record
from nofinding.service.store.home import Home
from support.serving import dicom_film

NAMES = st.sampled_from([*FIELDS]) | st.text(max_size=5)
TEXTS = st.text(max_size=12) | st.sampled_from(["63", "180 lb", "M", "pa", "NA", "1e400", "-0"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))


@given(JSON | st.dictionaries(NAMES, LEAVES))
@settings(max_examples=200, derandomize=True, database=None, deadline=None)
def test_whatever_is_said_is_numbers_or_one_line(data: Any) -> None:
    try:
        stated = stated_record(data, FIELDS)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
    else:
        assert set(stated) <= set(FIELDS) and all(map(math.isfinite, stated.values()))


def test_values_and_texts_are_read_as_on_the_command_line() -> None:
    said = {"age": 63, "sex": "m", "weight": "180 lb", "height": "NA", "bmi": None, "spo2": 97.5}
    stated = stated_record(said, FIELDS)
    assert stated == {"age": 63.0, "sex": 1.0, "weight": pytest.approx(81.6466266), "spo2": 97.5}
    with pytest.raises(UserError, match="has 201 entries, at most 200"):
        stated_record({str(number): 1 for number in range(201)}, FIELDS)
    huge = json.loads("1" * 4000)
    with pytest.raises(UserError, match="record: age"):
        stated_record({"age": huge * huge}, FIELDS)  # more digits than Python prints


def test_the_instance_and_the_patient_are_read_in_the_child(tmp_path: Path) -> None:
    result = identity_of(dicom_film(tmp_path, 3))
    assert result.uid == "1.2.826.0.1.3680043.8.498.4.1.1" and result.patient == "|P-3"
    issued = identity_of(dicom_film(tmp_path, 3, IssuerOfPatientID="WARD"))
    assert issued.patient == "WARD|P-3"
    assert identity_of(dicom_film(tmp_path, 3, PatientID="")).patient == ""


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("uid", ["CANARY", "1.2.CANARY", "1." * 40 + "1"])
def test_a_film_whose_instance_uid_is_none_is_refused(tmp_path: Path, uid: str) -> None:
    film = dicom_film(tmp_path, 0, SOPInstanceUID=uid)
    with pytest.raises(UserError, match="the film has no SOP Instance UID") as refused:
        identity_of(film)
    assert "CANARY" not in str(refused.value) and str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("meta", [True, False])
def test_a_film_without_an_instance_uid_is_known_by_its_meta_or_its_bytes(
    tmp_path: Path, meta: bool
) -> None:
    film = dicom_film(tmp_path, 3)
    data = dcmread(film)
    del data.SOPInstanceUID
    if not meta:
        del data.file_meta.MediaStorageSOPInstanceUID
    data.save_as(film, enforce_file_format=False)
    result = identity_of(film)
    assert result.uid == ("1.2.826.0.1.3680043.8.498.4.1.1" if meta else "")
    assert result.patient == "|P-3"


def test_the_order_in_which_a_record_is_said_makes_no_other_job(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", keep_free=0)
    received = home.spool.put("film", b"film", ".png")
    first = offer(home, received, {"age": 1.0, "bmi": 2.0})
    assert not offer(home, received, {"bmi": 2.0, "age": 1.0}).new
    assert offer(home, received, {"age": 1.0}).new
    asked = offer_what_if(home, first.job, {"age": 5.0})
    assert asked.new and asked.job.kind == "what-if" and asked.job.payload["of"] == first.job.id
    assert not offer_what_if(home, first.job, {"age": 5.0}).new
