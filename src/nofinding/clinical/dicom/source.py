"""The film that a result is about, as far as its objects must repeat it: no pixel, and of the
header only what is on a list, read where it can do no harm."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import validate_value

from nofinding.data.decoding.decode import read_identity
from nofinding.errors import UserError

__all__ = ["metadata_of", "read_source", "source_of", "spacing_of", "uid_of"]

# What every object must have, if only empty (type 2, PS3.3 C.7.1.1 and C.7.2.1).
EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# Elements that have words of their own (PS3.3 C.7.1.1 and C.7.6.1): objects with others are none.
WORDS = {
    "PatientSex": re.compile(r"[MFO]"),
    "PatientOrientation": re.compile(r"[APRLHF]"),
}
UTF_8 = "ISO_IR 192"
PLAIN = {f"ISO_IR {n}" for n in (13, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166, 192)}


def metadata_of(message: Mapping[str, Any], path: Path) -> Dataset:
    """What a DICOM film says of its patient, study and geometry, of what was read of the file
    already (`decode.read_about`); of what every object must have some may be empty. Raises
    UserError where the file is none."""
    if not message:
        raise UserError(f"{path} is not a DICOM file; only such a film says whose it is")
    film = Dataset()
    for tag, element in message.items():
        if element["vr"] != dictionary_VR(int(tag, 16)):
            continue  # a text where an age belongs would go into every object
        if _valid(int(tag, 16), element["vr"], element.get("Value", [])):
            film.update(Dataset.from_json({tag: element}))
    # All texts are Unicode by now. Of what else they were written in not everybody knows all.
    written = film.get("SpecificCharacterSet")
    if written and str(written) not in PLAIN:
        film.SpecificCharacterSet = UTF_8
    for keyword in EMPTY:
        if keyword not in film:
            setattr(film, keyword, None)
    return film


def read_source(path: Path) -> Dataset:
    """The header of a film that results can be about. Raises UserError where it is none, or
    says not to which study it belongs."""
    return source_of(read_identity(path), path)


def source_of(message: Mapping[str, Any], path: Path) -> Dataset:
    """As `read_source`, of what was read of the file already (`decode.read_about`)."""
    film = metadata_of(message, path)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        value = film.get(keyword)
        if not value or not UID(str(value)).is_valid:
            raise UserError(f"{path}: its {keyword} is missing or no UID; results need it")
    for keyword in ("Rows", "Columns"):
        if not film.get(keyword):
            raise UserError(f"{path}: has no {keyword}")
    return film


def _valid(tag: int, vr: str, values: list[object]) -> bool:
    """Whether a value is one that its kind may have: an archive refuses objects with others."""
    keyword, many = keyword_for_tag(tag), dictionary_VM(tag)
    if keyword == "SpecificCharacterSet":
        return True
    if values and many.isdecimal() and len(values) != int(many):
        return False  # two patients' names, two days
    words = WORDS.get(keyword)
    if words is not None and not all(words.fullmatch(str(value)) for value in values):
        return False
    try:
        for value in values if vr != "PN" else ():
            validate_value(vr, str(value) if vr in ("DS", "IS") else value, config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def spacing_of(film: Dataset) -> tuple[float, float]:
    """Millimetres between rows and between columns at the detector; 1 where nothing is told.

    PixelSpacing is preferred where it was calibrated, else ImagerPixelSpacing is taken
    (PS3.3 C.8.11.3 and 10.7.1.3).
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        value = film.get(keyword)
        if value is not None and len(value) == 2 and all(0 < float(v) < 100 for v in value):
            return float(value[0]), float(value[1])
    return 1.0, 1.0


def uid_of(*parts: str) -> UID:
    """A UID that follows from the parts: the same result of the same film is one object."""
    return generate_uid(entropy_srcs=list(parts))
