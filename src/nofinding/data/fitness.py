"""Whether a film is a frontal chest radiograph by the word of its own header: one rule for every
intake.

A header speaks against a film by its modality, SOP class, image type, body part, view or
orientation. What it leaves out speaks against no film by itself; a cohort and a study in an archive
ask for more (`Needs`).
"""

import re
from collections.abc import Iterator, Mapping
from enum import Flag, auto

__all__ = [
    "CHEST",
    "CHEST_CODES",
    "IMAGES",
    "SECONDARY",
    "Needs",
    "facing_of",
    "objection",
    "other_modality",
]

# PS3.3 C.8.1, C.8.11; PS3.16 CID 4009, 4010 in SNOMED CT and in the older SNOMED RT.
IMAGES = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1",
          "1.2.840.10008.5.1.4.1.1.1.1.1")  # fmt: skip
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
CHEST = ("CHEST", "THORAX", "PORT CHEST", "PORTABLE CHEST", "CHEST PORT", "CHEST PORTABLE")
CHEST_CODES = ("816094009", "51185008", "T-D3000")
PA, AP = ("272479007", "R-40888"), ("399348003", "R-10206")
RADIOGRAPHS = frozenset({"CR", "DX", "DR"})  # DR is what many devices write for DX
# What a refusal may quote (PS3.3 C.7.3.1.1.1): anything else in that place may be a name.
DEFINED = (
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DR DX ECG EEG EMG EOG EPS ES FID "
    "GM HC HD IO IOL IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV "
    "OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD "
    "RTSEGANN RTSTRUCT RWV SC SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC"
)
MODALITIES = frozenset(DEFINED.split())


class Needs(Flag):
    """What a header must state, where nobody looks at the film itself."""

    NOTHING = 0
    SOP = auto()
    """SOP Instance UID and SOP class: results are stored beside the film."""
    PATIENT = auto()
    PART = auto()
    VIEW = auto()
    COHORT = SOP | PATIENT | PART | VIEW


def other_modality(modality: str, sop_class: str) -> str | None:
    """The modality of what is no CR or DX film, as a refusal may quote it; None of one that is.

    Where none is stated, the SOP class decides. Small letters, DR and "CR\\DX" are understood.
    """
    values = [value.strip().upper() for value in modality.split("\\") if value.strip()]
    if not values:
        return None if sop_class in IMAGES else "not stated"
    if RADIOGRAPHS.issuperset(values):
        return None
    return "\\".join(values) if MODALITIES.issuperset(values) else "not stated in DICOM's terms"


def facing_of(header: Mapping[str, str]) -> str | None:
    """PA, AP or another view in capitals; "two views" where two are stated; None where none is."""
    coded, view = header.get("view_code"), header.get("view", "").upper()
    coded = "PA" if coded in PA else "AP" if coded in AP else coded
    if coded and view and coded != view:
        return "two views"
    return coded or view or None


def objection(header: Mapping[str, str], needs: Needs = Needs.NOTHING) -> str | None:
    """Why a film (`data.dicom.study`) is none that may be scored, by its own header; else None."""
    return next(_objections(header, needs), None)


def _objections(header: Mapping[str, str], needs: Needs) -> Iterator[str]:
    """In the order in which it is asked."""
    unfit, sop_class = header.get("unfit"), header.get("sop_class", "")
    if "sop" not in header and needs == Needs.SOP:
        yield unfit or "no SOP Instance UID"
    elif "sop" not in header and "modality" not in header and needs and unfit is not None:
        yield unfit
    yield from _kinds(header, sop_class, needs)
    if Needs.SOP in needs and "sop" not in header:
        yield "no SOP Instance UID"
    if Needs.PATIENT in needs and "patient" not in header:
        yield "no PatientID"
    yield from _parts(header, needs)
    yield from _views(header, needs)
    if unfit is not None:
        sized = re.search(r"\d", unfit) and not unfit.startswith("is not")
        yield "its size or depth is not decoded" if sized and Needs.VIEW in needs else unfit


def _kinds(header: Mapping[str, str], sop_class: str, needs: Needs) -> Iterator[str]:
    """What kind of object it is."""
    capture = sop_class == SECONDARY or sop_class.startswith(f"{SECONDARY}.")
    if capture and Needs.VIEW in needs:
        yield "a secondary capture"
    named = "modality" in header or Needs.VIEW in needs
    if named and other_modality(header.get("modality", ""), sop_class):
        yield "neither CR nor DX"
    # A secondary capture that is CR or DX by its own word is what RSNA publishes: films of a
    # publisher's list, and films that a user names, may be such.
    allowed = not needs and (capture or not sop_class)
    if sop_class not in IMAGES and not allowed:
        yield "neither a CR nor a DX image"
    if "LOCALIZER" in header.get("image_type", "").upper():
        yield "a localiser"
    if Needs.VIEW in needs and not re.fullmatch(r"\+?0*1(\.0*)?", header.get("frames", "1")):
        yield "more than one frame"


def _parts(header: Mapping[str, str], needs: Needs) -> Iterator[str]:
    """Of which part of the body."""
    part, region = header.get("body_part", "").upper().replace("_", " "), header.get("region_code")
    if not part and not region and Needs.PART in needs:
        yield "body part not stated"
    if part not in CHEST if part else region is not None and region not in CHEST_CODES:
        yield "another body part than the chest"


def _views(header: Mapping[str, str], needs: Needs) -> Iterator[str]:
    """From which side. Rows run to the patient's left or right, columns to the feet or the head;
    obliquely, where nothing else says that the film is frontal, is not enough."""
    facing, orientation = facing_of(header), header.get("orientation")
    if facing not in (None, "PA", "AP"):
        yield "neither PA nor AP"
    frontal = r"[LR]\\[FH]" if facing is None else r"[LR].*\\[FH].*"
    if orientation is not None and not re.fullmatch(frontal, orientation.upper()):
        contrary = "ViewPosition and PatientOrientation contradict each other"
        yield "neither PA nor AP" if facing is None else contrary
    if facing is None and orientation is None and Needs.VIEW in needs:
        yield "frontal or lateral is not stated"
