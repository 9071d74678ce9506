"""What a DICOM file (CR or DX) says of its film and patient. Runs in the decoder's child process
only; the picture is read in `pixels.py`."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from numpy import ndarray
from pydicom import Dataset
from pydicom.dataset import FileDataset

from nofinding.data.decoding.element_values import Elements, printable
from nofinding.data.decoding.elements import header_of
from nofinding.data.decoding.limits import FilmError
from nofinding.data.decoding.pixels import ENTRIES, check_pixels, picture
from nofinding.data.fitness import objection, other_modality
from nofinding.data.patient_age import DAYS, study_day

__all__ = ["Film", "about", "film", "header", "identity", "study"]

ASKED = ("PatientAge", "PatientSex", "ViewPosition", "PatientSize", "PatientWeight")
STUDY = {  # what a cohort is chosen by, as it is called there
    "SOPClassUID": "sop_class", "SOPInstanceUID": "sop", "StudyInstanceUID": "study",
    "Modality": "modality", "ImageType": "image_type", "PresentationIntentType": "intent",
    "ViewPosition": "view", "PatientOrientation": "orientation", "BodyPartExamined": "body_part",
    "NumberOfFrames": "frames", "BurnedInAnnotation": "burned", "PatientID": "patient",
    "PatientSex": "sex", "PatientBirthDate": "born", "PatientAge": "age",
    "PatientSize": "height", "PatientWeight": "weight",
}  # fmt: skip
CODES = {"ViewCodeSequence": "view_code", "AnatomicRegionSequence": "region_code"}
# In the order of trust: when the film was taken, made, or belongs to.
TAKEN = ("Acquisition", "Content", "Series", "Study")
DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR

IDENTITY = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "StudyID"),
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight", "AccessionNumber", "StudyDate", "StudyTime"),
    *("StudyDescription", "ReferringPhysicianName", "Modality", "Manufacturer"),
    *("InstanceNumber", "SeriesNumber", "BodyPartExamined", "ViewPosition", "ImageLaterality"),
    *("PatientOrientation", "Rows", "Columns", "PixelSpacing", "ImagerPixelSpacing"),
    *("FrameOfReferenceUID", "NumberOfFrames", "ImageType", "PhotometricInterpretation"),
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC"),
)  # what an object about a film must repeat, or needs to lie on it
IDENTITY_MOST = 2**15  # characters of JSON


OPTIONAL = ("PixelSpacing", "ImagerPixelSpacing", "InstanceNumber", "SeriesNumber")
"""Numbers that no score needs; a result or a map on the film does."""


class Film(NamedTuple):
    """The picture of a file, and what its header says of it."""

    pixels: Float[ndarray, "h w"]
    """float32 in [0, 1], dense tissue bright."""
    flags: tuple[str, ...]
    """What cannot be used."""
    objection: str | None
    """Why it is no frontal chest film by its own header (`fitness`)."""


def film(path: Path) -> Film:
    """The picture, decoded. Raises FilmError for what is no CR or DX film, or cannot be decoded."""
    head = header_of(path)
    message = _study(head)
    other = other_modality(message.get("modality", ""), message.get("sop_class", ""))
    if other is not None:
        raise FilmError(f"has modality {other}; CR and DX are read")
    pixels, flags = picture(path, head)
    optional = Elements(head)
    for keyword in OPTIONAL:
        optional.numbers(keyword)
    message.pop("unfit", None)  # or there would be no picture
    return Film(pixels, (*flags, *optional.flags), objection(message))


def header(path: Path) -> dict[str, str]:
    """What of the patient may enter a record, as it is written: the five elements of ASKED and,
    where the date of birth stands there, that and the day of the study."""
    return _header(header_of(path, [*ASKED, "PatientBirthDate", *DAYS]))


def _header(dataset: Dataset) -> dict[str, str]:
    elements = Elements(dataset)
    texts = {name: elements.text(name)[:32] for name in (*ASKED, "PatientBirthDate")}
    if texts["PatientBirthDate"]:
        day = study_day({name: elements.text(name) for name in DAYS})
        texts["StudyDate"] = "" if day is None else f"{day:%Y%m%d}"
    return {name: text for name, text in texts.items() if text}


def identity(path: Path) -> dict[str, Any]:
    """Whose film it is and how it lies: the elements of IDENTITY that the file has and that can be
    read, as DICOM JSON (PS3.18 annex F). Sequences and everything else stay behind."""
    return _identity(header_of(path, IDENTITY))


def about(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """`header` and `identity`, of a file that is read once."""
    dataset = header_of(path, [*IDENTITY, *ASKED, *DAYS])
    return _header(dataset), _identity(dataset)


def _identity(dataset: FileDataset) -> dict[str, Any]:
    elements, metadata = Elements(dataset), dict[str, Any]()
    for keyword in IDENTITY:
        element = elements.element(keyword)
        if element is None or element.VR == "SQ":
            continue
        one = Dataset()
        try:
            one.add(element)
            metadata |= one.to_json_dict()
        except Exception:  # a value that its kind cannot have counts as absent
            continue
    entries: dict[str, Any] = dict(sorted(metadata.items()))
    for keyword, tag in (("SOPClassUID", "00080016"), ("SOPInstanceUID", "00080018")):
        uid = dataset.file_meta.get(f"MediaStorage{keyword}")
        if uid and not entries.get(tag, {}).get("Value"):
            entries[tag] = {"vr": "UI", "Value": [str(uid)]}
    if len(json.dumps(entries)) > IDENTITY_MOST:
        raise FilmError("has a header larger than a film's")
    return entries


def study(path: Path) -> dict[str, str]:
    """What a cohort is chosen by, as it is written, at most 64 characters each; several values
    are joined by a backslash. `taken` is YYYYMMDDHHMMSS, `unfit` why its pixels are not decoded.

    Raises FilmError for a DICOMDIR, which is no film.
    """
    times = [f"{of}{what}" for of in TAKEN for what in ("Date", "Time")]
    asked = [*STUDY, *CODES, *ENTRIES, *times, "AcquisitionDateTime", "SourceImageSequence"]
    dataset = header_of(path, asked)
    if dataset.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
        raise FilmError("a DICOMDIR")
    return _study(dataset)


def _study(dataset: FileDataset) -> dict[str, str]:
    elements = Elements(dataset)
    metadata = {name: elements.text(keyword) for keyword, name in STUDY.items()}
    for keyword, name in (("SOPClassUID", "sop_class"), ("SOPInstanceUID", "sop")):
        uid = dataset.file_meta.get(f"MediaStorage{keyword}")  # some leave it out of the data set
        metadata[name] = metadata[name] or printable(str(uid or ""))
    for keyword, name in CODES.items():
        codes = [Elements(item).text("CodeValue") for item in elements.items(keyword)]
        metadata[name] = printable("\\".join(codes))
    sources = [Elements(item).text("ReferencedSOPInstanceUID")
               for item in elements.items("SourceImageSequence")]  # fmt: skip
    metadata |= {"source": (sources or [""])[0], "taken": _taken(elements)}
    day = study_day({name: elements.text(name) for name in DAYS})
    metadata["day"] = "" if day is None else f"{day:%Y%m%d}"
    try:
        check_pixels(Elements(dataset))
    except FilmError as error:
        metadata["unfit"] = str(error)
    return {name: text for name, text in metadata.items() if text}


def _taken(elements: Elements) -> str:
    """YYYYMMDDHHMMSS of the first date that is one; the hours are 0 where no time stands by it."""
    pairs = [(elements.text("AcquisitionDateTime"), "")]
    pairs += [(elements.text(f"{of}Date"), elements.text(f"{of}Time")) for of in TAKEN]
    for date, time in pairs:
        digits = re.match(r"(\d{4})\.?(\d{2})\.?(\d{2})(\d*)", date, re.ASCII)
        if digits is None:
            continue
        rest = digits[4] or time.replace(":", "").partition(".")[0]
        rest = rest if re.fullmatch(r"(\d\d){1,3}", rest, re.ASCII) else ""
        return digits[1] + digits[2] + digits[3] + rest.ljust(6, "0")
    return ""
