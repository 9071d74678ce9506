"""Nothing of the person is left, and what must stay together stays together."""

from dataclasses import replace
from datetime import date

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from nofinding.clinical.deidentify.profile import (
    Profile,
    action_on,
    deidentified,
    other_uid,
    pseudonym,
)
from nofinding.data.decoding.limits import FilmError

PROFILE = Profile(key=b"0123456789abcdef")
CANARY = "CANARY"
UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


def film(**changes: object) -> Dataset:
    data = Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    for number, keyword in enumerate(UIDS, start=1):
        setattr(data, keyword, f"1.2.3.{number}")
    data.PatientID, data.PatientName = f"{CANARY}1", f"{CANARY}^Ann"
    data.OtherPatientNames, data.PatientAddress = f"{CANARY}^B", f"{CANARY} street"
    data.PatientBirthDate, data.StudyDate, data.ContentDate = "19600229", "20240301", "20240303"
    data.AcquisitionDateTime, data.StudyTime = "20240301101500.5", "101500"
    data.AccessionNumber, data.StudyID = f"{CANARY}A"[:16], f"{CANARY}S"
    data.InstitutionName, data.OperatorsName = f"{CANARY} ward", f"{CANARY}^Op"
    data.StudyDescription, data.ImageComments = f"chest {CANARY}", f"seen by {CANARY}"
    data.PatientSex, data.PatientAge, data.PatientSize = "F", "064Y", "1.7"
    data.Modality, data.ViewPosition, data.Rows, data.Columns = "DX", "PA", 2, 2
    data.WindowCenter, data.PixelData = "100", b"\1\2\3\4"
    data["PixelData"].VR = "OB"
    inner = Dataset()
    inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = data.SOPClassUID, "1.2.3.1"
    inner.PersonName = f"{CANARY}^In"
    data.ReferencedImageSequence = [inner]
    request = Dataset()
    request.RequestedProcedureDescription = f"chest of {CANARY}"
    data.RequestAttributesSequence = [request]
    block = data.private_block(0x0099, f"{CANARY} private", create=True)
    block.add_new(1, "LO", CANARY)
    data.add_new(Tag(0x6000, 0x3000), "OB", CANARY.encode())
    data.add_new(Tag(0x0077, 0x1234), "UN", CANARY.encode())
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.SourceApplicationEntityTitle = CANARY
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    return data


def everything(data: Dataset) -> str:
    elements = [*data.iterall(), *data.file_meta]
    return " ".join(f"{e.value!r}" for e in elements if e.VR != "SQ")


def places_where_a_person_can_hide() -> Dataset:
    """A film with names and dates where the standard's table does not look."""
    data = film()
    person = Dataset()
    person.CodeValue, person.CodingSchemeDesignator, person.CodeMeaning = CANARY, "99X", CANARY
    data.InstitutionCodeSequence = [person]
    said = Dataset()
    said.ValueType, said.TextValue, said.PersonName = "TEXT", CANARY, f"{CANARY}^In"
    said.ConceptNameCodeSequence = [person]
    data.ContentSequence = [said]
    data.EncryptedAttributesSequence = [Dataset()]
    data.EncryptedAttributesSequence[0].EncryptedContent = CANARY.encode() * 2
    data.Allergies, data.PatientBirthDateInAlternativeCalendar = CANARY, f"19600229 {CANARY}"
    data.DateOfGainCalibration, data.MultiFrameSourceSOPInstanceUID = "20240301", "1.2.3.7"
    data.PartialViewDescription, data.DetectorDescription = CANARY, CANARY
    data.add_new(Tag("SmallestImagePixelValue"), "LO", CANARY)  # a text where a number belongs
    data.add_new(Tag("PatientSex"), "LO", f"{CANARY} F")
    data.add_new(Tag(0x0028, 0x0005), "US", 2)  # retired, and a number
    data.add_new(Tag("PatientAge"), "AS", CANARY)
    data.add_new(Tag("BodyPartExamined"), "CS", f"CHEST OF {CANARY} {CANARY}")
    data.add_new(Tag(0x0040, 0x2006), "SH", CANARY)  # retired: an order's number
    return data


@pytest.mark.parametrize("dates", [False, True])
@pytest.mark.parametrize("characteristics", [False, True])
def test_nobody_hides_where_the_table_does_not_look(dates: bool, characteristics: bool) -> None:
    profile = replace(PROFILE, dates=dates, characteristics=characteristics)
    cleaned = deidentified(places_where_a_person_can_hide(), profile)
    said = everything(cleaned)
    assert CANARY not in said
    for real in ("19600229", "20240301", "1.2.3."):
        assert real not in said
    assert cleaned.InstitutionCodeSequence[0].CodeValue == "REMOVED"
    assert "EncryptedAttributesSequence" not in cleaned and Tag(0x0028, 0x0005) not in cleaned
    assert cleaned.Rows == 2 and cleaned.PixelData == b"\1\2\3\4"


def test_what_says_nothing_of_a_person_stays() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "816094009", "SCT", "Chest"
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData, lut.LUTExplanation = [2, 0, 8], b"\1\2\3\4", "normal"
    lut["LUTData"].VR = "OW"
    cleaned = deidentified(
        film(AnatomicRegionSequence=[code], VOILUTSequence=[lut], Manufacturer="Someone Ltd",
             RescaleType="US"), PROFILE)  # fmt: skip
    assert cleaned.AnatomicRegionSequence[0] == code and cleaned.VOILUTSequence[0] == lut
    assert cleaned.Manufacturer == "Someone Ltd" and cleaned.RescaleType == "US"


@pytest.mark.parametrize("dates", [False, True])
@pytest.mark.parametrize("characteristics", [False, True])
def test_no_canary_is_left(dates: bool, characteristics: bool) -> None:
    profile = replace(PROFILE, dates=dates, characteristics=characteristics)
    cleaned = deidentified(film(), profile)
    said = everything(cleaned)
    assert CANARY not in said
    for real in ("19600229", "20240301", "20240303", "1.2.3."):
        assert real not in said
    assert cleaned.Rows == 2 and cleaned.PixelData == b"\1\2\3\4" and cleaned.Modality == "DX"
    assert cleaned.ViewPosition == "PA" and cleaned.WindowCenter == 100


def test_films_of_one_patient_and_study_stay_together() -> None:
    one = deidentified(film(), PROFILE)
    two = deidentified(film(SOPInstanceUID="1.2.3.9"), PROFILE)
    assert one.StudyInstanceUID == two.StudyInstanceUID and one.PatientID == two.PatientID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.ReferencedImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert one.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"
    other = deidentified(film(), replace(PROFILE, key=b"another key, 16 b"))
    assert other.PatientID != one.PatientID and other.StudyInstanceUID != one.StudyInstanceUID
    assert pseudonym(PROFILE, "1") != pseudonym(PROFILE, "1", "hospital")


def test_dates_move_together_or_go() -> None:
    moved = deidentified(film(), replace(PROFILE, dates=True))
    days = [date.fromisoformat(str(d)) for d in (moved.StudyDate, moved.ContentDate)]
    assert (days[1] - days[0]).days == 2
    assert moved.StudyTime == "101500" and str(moved.AcquisitionDateTime).endswith("101500.5")
    assert str(moved.AcquisitionDateTime)[:8] == str(moved.StudyDate)
    assert moved.LongitudinalTemporalInformationModified == "MODIFIED"
    gone = deidentified(film(), PROFILE)
    assert gone.LongitudinalTemporalInformationModified == "REMOVED"
    assert not deidentified(film(StudyDate=""), replace(PROFILE, dates=True)).StudyDate


def test_the_record_stays_if_asked_for_and_the_codes_say_so() -> None:
    remaining = deidentified(film(), PROFILE)
    assert (remaining.PatientSex, remaining.PatientAge, float(remaining.PatientSize)) == (
        "F",
        "064Y",
        1.7,
    )
    for age in ("81", "003M"):  # as some films have it, and as the standard has it
        assert deidentified(film(PatientAge=age), PROFILE).PatientAge == age
    codes = [code.CodeValue for code in remaining.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113108"]
    bare = deidentified(film(), Profile(key=PROFILE.key, characteristics=False, dates=True))
    assert not bare.PatientSex and "PatientAge" not in bare and "PatientSize" not in bare
    codes = [code.CodeValue for code in bare.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107"]
    assert bare.PatientIdentityRemoved == "YES"


@pytest.mark.parametrize("said", ["YES", "yes ", ["YES", "YES"], "MAYBE"])
def test_burnt_in_names_are_refused(said: object) -> None:
    with pytest.raises(FilmError, match="burnt into its pixels"):
        deidentified(film(BurnedInAnnotation=said), PROFILE)
    assert deidentified(film(BurnedInAnnotation="NO"), PROFILE).BurnedInAnnotation == "NO"


def test_an_overlay_in_the_pixels_is_refused() -> None:
    data = film()
    data.add_new(Tag(0x6000, 0x0102), "US", 0)
    assert Tag(0x6000, 0x0102) not in deidentified(data, PROFILE)
    data[0x6000, 0x0102].value = 12
    with pytest.raises(FilmError, match="overlay in the bits of its pixels"):
        deidentified(data, PROFILE)


def test_the_table_is_the_standards() -> None:
    expected = {"PatientName": "Z", "PatientID": "D", "StudyInstanceUID": "U", "Rows": "K",
              "InstitutionName": "D", "ImageComments": "X", "StudyDate": "Z"}  # fmt: skip
    assert {name: action_on(Tag(name)) for name in expected} == expected
    assert action_on(Tag(0x5010, 0x3000)) == action_on(Tag(0x6002, 0x3000)) == "X"


def test_a_uid_has_the_form_of_one_and_a_short_key_is_refused() -> None:
    output = other_uid(PROFILE, "1.2.3")
    assert output.is_valid and len(output) <= 64 and output == other_uid(PROFILE, "1.2.3")
    with pytest.raises(ValueError, match="16 bytes"):
        Profile(key=b"short")
