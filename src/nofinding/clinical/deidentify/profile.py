"""A film de-identified: the Basic Application Level Confidentiality Profile of PS3.15 annex E.

What is done to which element is the standard's table E.1-1, taken from dicom-anonymizer, which has
a copy of it; where the table leaves a choice, that which says least and keeps the object valid is
made. Private elements, overlays and curves go. UIDs and the patient's id become pseudonyms that
follow from a secret key, so that films of one study stay together.

Stricter than the table: of what it does not name, names, dates, texts and bytes go unless they are
on a short list here; so do retired elements, signatures and what is encrypted. Where a sequence is
to be replaced, all that its items say is.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib import import_module
from typing import Any

from pydicom.datadict import dictionary_is_retired, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from nofinding import __version__
from nofinding.data.decoding.limits import FilmError

__all__ = ["TABLE", "Profile", "deidentified", "pseudonym"]

TABLE = "dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c"
SHIFT = 365  # days at most that dates are moved back
LEAST = 16  # bytes of a key

# PS3.15 table E.1-1, column "Retain Patient Characteristics Option".
CHARACTERISTICS = frozenset(
    Tag(keyword)
    for keyword in (
        *("PatientSex", "PatientAge", "PatientSize", "PatientWeight", "EthnicGroup"),
        *("PregnancyStatus", "SmokingStatus", "PatientSexNeutered"),
    )
)  # that it keeps as they are; those to be cleaned, free text such as Allergies, go
TEXTS = ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
BYTES = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
DATES = ("DA", "DT", "TM")
# Looser than the standard: some films have an age without its letter, a view in small letters.
FORMS = {"AS": re.compile(r"(\d{1,3}[DWMY]?)?", re.ASCII), "CS": re.compile(r"[\w -]{0,16}")}
# What says nothing of a person, of the kinds above, and the table does not name.
HARMLESS = frozenset(
    Tag(keyword)
    for keyword in (
        *("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodeMeaning"),
        *("CodingSchemeVersion", "Manufacturer", "ManufacturerModelName", "SoftwareVersions"),
        *("DetectorManufacturerName", "DetectorManufacturerModelName", "FilterType", "PlateType"),
        *("PhosphorType", "AcquisitionDeviceProcessingCode", "PixelSpacingCalibrationDescription"),
        *("RescaleType", "ModalityLUTType", "LUTExplanation", "WindowCenterWidthExplanation"),
        *("LUTData", "PixelData", "CodingSchemeUID", "ContextUID", "MappingResourceUID"),
    )
)
SEALED = frozenset(map(Tag, ("EncryptedAttributesSequence", "MACParametersSequence",
                             "DigitalSignaturesSequence")))  # fmt: skip
DUMMY: dict[str, Any] = {
    "AE": "REMOVED", "AS": "000Y", "CS": "REMOVED", "DA": "19000101", "DS": "0", "DT": "19000101",
    "FD": 0.0, "FL": 0.0, "IS": "0", "LO": "REMOVED", "LT": "REMOVED", "PN": "REMOVED^",
    "SH": "REMOVED", "SL": 0, "SS": 0, "ST": "REMOVED", "TM": "000000", "UC": "REMOVED",
    "UL": 0, "UR": "", "US": 0, "UT": "REMOVED", "OB": b"\0\0", "OW": b"\0\0", "UN": b"\0\0",
}  # fmt: skip
CODES = {
    "profile": ("113100", "Basic Application Confidentiality Profile"),
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
    "dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Which options of the standard are taken beside the basic profile."""

    key: bytes
    """Secret; whoever has it can link pseudonyms to patients."""
    characteristics: bool = True
    """Keep sex, age, size and weight, which the model's record needs."""
    dates: bool = False
    """Keep the days between a patient's films: every date is moved by as many days as the key
    says, 1 to 365 back. Otherwise dates are emptied or replaced."""

    def __post_init__(self) -> None:
        if len(self.key) < LEAST:
            raise ValueError(f"a key has {LEAST} bytes or more")

    def digest(self, what: str, text: str) -> bytes:
        """The keyed hash of a text, for one purpose."""
        return hmac.digest(self.key, f"{what}|{text}".encode(), hashlib.sha256)


def pseudonym(profile: Profile, patient_id: str, issuer: str = "") -> str:
    """What a patient is called afterwards: 16 hex digits."""
    return profile.digest("patient", f"{issuer}|{patient_id}").hex()[:16]


def deidentified(dataset: Dataset, profile: Profile) -> Dataset:
    """A de-identified copy. Raises FilmError where names may be in the pixels: burnt in, by
    the film's own word, or as an overlay in the bits above them."""
    if str(dataset.get("BurnedInAnnotation") or "NO").strip().upper() != "NO":
        raise FilmError("says that names are burnt into its pixels; those are not cleaned here")
    if any(e.tag.group >> 8 == 0x60 and e.tag.element == 0x0102 and e.value for e in dataset):
        raise FilmError("has an overlay in the bits of its pixels; those are not cleaned here")
    patient = str(dataset.get("PatientID") or ""), str(dataset.get("IssuerOfPatientID") or "")
    days = 1 + int.from_bytes(profile.digest("days", "|".join(patient))[:4]) % SHIFT
    cleaned = _cleaned(dataset, profile, days)
    name = pseudonym(profile, *patient)
    cleaned.PatientID, cleaned.PatientName = name, f"{name}^"
    cleaned.PatientIdentityRemoved = "YES"
    cleaned.LongitudinalTemporalInformationModified = "MODIFIED" if profile.dates else "REMOVED"
    cleaned.DeidentificationMethod = [f"nofinding {__version__}", "PS3.15 annex E, basic profile"]
    taken = ("profile", *(n for n in ("characteristics", "dates") if getattr(profile, n)))
    cleaned.DeidentificationMethodCodeSequence = [_code(*CODES[name]) for name in taken]
    cleaned.file_meta = FileMetaDataset()
    cleaned.file_meta.MediaStorageSOPClassUID = cleaned.SOPClassUID
    cleaned.file_meta.MediaStorageSOPInstanceUID = cleaned.SOPInstanceUID
    cleaned.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    return cleaned


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


@cache
def _actions() -> tuple[dict[int, str], tuple[tuple[int, int, str], ...]]:
    """The action on each tag, and on each (tag, mask); X wins nothing, for an object must stay
    valid: of X/Z it is Z, of Z/D, X/D and X/Z/D it is D, of X/Z/U* it is U."""
    table = import_module(TABLE)
    lists = {"X": "X_TAGS", "Z": "Z_TAGS", "D": "D_TAGS", "U": "U_TAGS"}
    several = {"X_Z_TAGS": "Z", "Z_D_TAGS": "D", "X_D_TAGS": "D", "X_Z_D_TAGS": "D",
               "X_Z_U_STAR_TAGS": "U"}  # fmt: skip
    named = [(name, action) for action, name in lists.items()] + [*several.items()]
    plain: dict[int, str] = {}
    masked: list[tuple[int, int, str]] = []
    for name, action in named:
        for entry in getattr(table, name):
            tag = (entry[0] << 16) | entry[1]
            if len(entry) == 2:
                plain[tag] = action
            else:
                masked.append((tag, (entry[2] << 16) | entry[3], action))
    return plain, tuple(masked)


def action_on(tag: BaseTag) -> str:
    """X: remove, Z: empty, D: replace, U: another UID, K: keep."""
    plain, masked = _actions()
    if int(tag) in plain:
        return plain[int(tag)]
    for start, mask, action in masked:
        if int(tag) & mask == start & mask:
            return action
    return "K"


def _action(element: DataElement, profile: Profile) -> str:
    """What is done to an element: the table's action, the options', or our stricter one."""
    tag, vr, action = element.tag, element.VR, action_on(element.tag)
    if tag in SEALED or dictionary_is_retired(tag):
        return "X"
    if vr in (*TEXTS, *BYTES) and vr not in dictionary_VR(tag).split(" or "):
        return "X"  # a text where a number belongs
    if vr in FORMS and not all(map(FORMS[vr].fullmatch, _texts(element))):
        return "X"  # a text where an age or a word of a list belongs
    if profile.characteristics and tag in CHARACTERISTICS:
        return "K"
    if profile.dates and vr in DATES:
        return "S"
    if vr == "UI" and (action == "Z" or (action == "K" and tag not in HARMLESS)):
        return "U"
    if action == "K" and vr in (*TEXTS, *BYTES, *DATES) and tag not in HARMLESS:
        return "X"
    return action


def _texts(element: DataElement) -> list[str]:
    value = element.value
    return [str(one or "") for one in (value if element.VM > 1 else [value])]


def _cleaned(dataset: Dataset, profile: Profile, days: int) -> Dataset:
    cleaned = Dataset()
    for element in dataset:
        if _is_known(element):
            changed = ACTIONS[_action(element, profile)](element, profile, days)
            if changed is not None:
                cleaned.add(changed)
    return cleaned


def _is_known(element: DataElement) -> bool:
    """Whether the standard says what it is; overlays and curves do not count."""
    tag = element.tag
    layered = tag.group >> 8 in (0x50, 0x60)
    return bool(element.keyword) and element.VR != "UN" and not tag.is_private and not layered


def _cached(element: DataElement, profile: Profile, days: int) -> DataElement:
    if element.VR != "SQ":
        return element
    items = [_cleaned(item, profile, days) for item in element.value]
    return DataElement(element.tag, "SQ", items)


def _emptied(element: DataElement, profile: Profile, days: int) -> DataElement:
    return DataElement(element.tag, element.VR, [] if element.VR == "SQ" else None)


def _replaced(element: DataElement, profile: Profile, days: int) -> DataElement:
    if element.VR == "UI":
        return _renamed(element, profile, days)
    if element.VR != "SQ":
        return DataElement(element.tag, element.VR, DUMMY.get(element.VR))
    items = []
    for item in element.value:
        items.append(Dataset())
        for inner in item:
            if _is_known(inner):
                items[-1].add(_replaced(inner, profile, days))
    return DataElement(element.tag, "SQ", items)


def _renamed(element: DataElement, profile: Profile, days: int) -> DataElement:
    if element.VR == "SQ":  # of references: their UIDs are renamed by the same table
        return _cached(element, profile, days)
    if element.VR != "UI":
        return _replaced(element, profile, days)
    values = element.value if element.VM > 1 else [element.value] if element.value else []
    return DataElement(element.tag, "UI", [other_uid(profile, str(value)) for value in values])


def other_uid(profile: Profile, uid: str) -> UID:
    """The pseudonym of a UID: of the form 2.25 (PS3.5 annex B.2). The standard's own UIDs stay."""
    if uid.startswith("1.2.840.10008."):
        return UID(uid)
    return UID(f"2.25.{int.from_bytes(profile.digest('uid', uid)[:16])}")


def _shifted(element: DataElement, profile: Profile, days: int) -> DataElement | None:
    """The date as many days earlier; a time of day as it is; nothing where it is no date."""
    if element.VR == "TM":
        return element
    values = element.value if element.VM > 1 else [element.value]
    moved = []
    for value in values:
        text = str(value or "")
        try:
            day = datetime.strptime(text[:8], "%Y%m%d") - timedelta(days=days)
        except (ValueError, OverflowError):
            return _emptied(element, profile, days)
        moved.append(f"{day:%Y%m%d}" + (text[8:] if element.VR == "DT" else ""))
    return DataElement(element.tag, element.VR, moved)


ACTIONS: dict[str, Callable[[DataElement, Profile, int], DataElement | None]] = {
    "X": lambda element, profile, days: None,
    "Z": _emptied,
    "D": _replaced,
    "U": _renamed,
    "S": _shifted,
    "K": _cached,
}
