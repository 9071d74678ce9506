"""One chest film from a DICOM file (CR or DX). Runs in the decoder's child process only.

What is shown is what a viewer would show: rescale, VOI LUT or the first window, and inversion
for MONOCHROME1 or an INVERSE presentation shape. Where the file brings no window, the range is
that between two percentiles (`image.from_stored`).
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.multival import MultiValue

from nofinding.data.codestream import NATIVE, check_frame
from nofinding.data.dicom_file import elements_of, header_of
from nofinding.data.image import from_stored
from nofinding.data.limits import FilmError, check_size

__all__ = ["header", "identity", "pixels", "study"]

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
PIXELS = ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated",
          "BitsStored")  # fmt: skip
# What a refusal may quote (PS3.3 C.7.3.1.1.1): anything else in that place may be a name.
DEFINED = (
    "ANN AR ASMT AU BDUS BI BMD CFM CT CTPROTOCOL DG DMS DOC ECG EEG EMG EOG EPS ES FID GM HC HD "
    "IO IOL IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA "
    "PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN "
    "RTSTRUCT RWV SC SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC"
)
MODALITIES = frozenset(DEFINED.split())
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


def header(path: Path) -> dict[str, str]:
    """The five things about the patient that may enter a record, as they are written."""
    dataset = header_of(path, ASKED)
    values = {name: dataset.get(name) for name in ASKED}
    texts = {name: str(value).strip()[:32] for name, value in values.items() if value is not None}
    return {name: text for name, text in texts.items() if text}


def identity(path: Path) -> dict[str, Any]:
    """Whose film it is and how it lies: the elements of IDENTITY that the file has, as DICOM JSON
    (PS3.18 annex F). Sequences and everything else stay behind."""
    dataset = header_of(path, IDENTITY)
    told = Dataset()
    for element in dataset:
        if element.keyword in IDENTITY and element.VR != "SQ":
            told.add(element)
    found: dict[str, Any] = told.to_json_dict()
    if len(json.dumps(found)) > IDENTITY_MOST:
        raise FilmError("has a header larger than a film's")
    return found


def study(path: Path) -> dict[str, str]:
    """What a cohort is chosen by, as it is written, at most 64 characters each; several values
    are joined by a backslash. `taken` is YYYYMMDDHHMMSS, `unfit` why its pixels are not decoded.

    Raises FilmError for a DICOMDIR, which is no film.
    """
    times = [f"{of}{what}" for of in TAKEN for what in ("Date", "Time")]
    asked = [*STUDY, *CODES, *PIXELS, *times, "AcquisitionDateTime", "SourceImageSequence"]
    dataset = header_of(path, asked)
    if dataset.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
        raise FilmError("a DICOMDIR")
    told = {name: _text(dataset.get(keyword)) for keyword, name in STUDY.items()}
    for keyword, name in CODES.items():
        codes = [item.get("CodeValue") for item in dataset.get(keyword) or ()]
        told[name] = _text(codes)
    sources = [item.get("ReferencedSOPInstanceUID") for item in dataset.get("SourceImageSequence")
               or ()]  # fmt: skip
    told |= {"source": _text(sources[:1]), "taken": _taken(dataset)}
    try:
        _check_pixels(dataset)
    except FilmError as error:
        told["unfit"] = str(error)
    return {name: text for name, text in told.items() if text}


def _text(value: Any) -> str:
    """A value, or several, as text without blanks around it and characters that do not print."""
    many = value if isinstance(value, (list, MultiValue)) else [value]
    texts = ["" if one is None else str(one) for one in many]
    return "".join(c for c in "\\".join(texts) if c.isprintable()).strip()[:64].strip()


def _taken(dataset: Dataset) -> str:
    """YYYYMMDDHHMMSS of the first date that is one; the hours are 0 where no time stands by it."""
    pairs = [(_text(dataset.get("AcquisitionDateTime")), "")]
    for of in TAKEN:
        pairs.append((_text(dataset.get(f"{of}Date")), _text(dataset.get(f"{of}Time"))))
    for date, time in pairs:
        digits = re.match(r"(\d{4})\.?(\d{2})\.?(\d{2})(\d*)", date, re.ASCII)
        if digits is None:
            continue
        rest = digits[4] or time.replace(":", "").partition(".")[0]
        rest = rest if re.fullmatch(r"(\d\d){1,3}", rest, re.ASCII) else ""
        return digits[1] + digits[2] + digits[3] + rest.ljust(6, "0")
    return ""


def pixels(path: Path) -> Float[np.ndarray, "h w"]:
    """float32 in [0, 1], dense tissue bright. Refuses what is not one CR or DX film."""
    head = header_of(path)
    _check(head)
    dataset = elements_of(path, int(head.Rows) * int(head.Columns))
    _check(dataset)
    stored = _stored(dataset)
    padding = _padding(dataset, stored)
    slope, intercept = _number(dataset, "RescaleSlope", 1), _number(dataset, "RescaleIntercept", 0)
    if dataset.get("ModalityLUTSequence"):
        stored, _ = _looked_up(stored, dataset.ModalityLUTSequence[0])
        slope, intercept = 1.0, 0.0
    voi = _voi(dataset)
    if dataset.get("VOILUTSequence"):
        rescaled = np.rint(stored * np.float32(slope) + np.float32(intercept)).astype(np.int32)
        stored, top = _looked_up(rescaled, dataset.VOILUTSequence[0])
        slope, intercept, voi = 1.0, 0.0, (top / 2, top, "LINEAR_EXACT")
    shape = str(dataset.get("PresentationLUTShape") or "").upper()
    # MONOCHROME1 and INVERSE state the same inversion twice (PS3.3 C.8.11.3.1.2): never both
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE"
    return from_stored(
        stored, slope=slope, intercept=intercept, voi=voi, inverted=inverted, padding=padding
    )


def _check(dataset: Dataset) -> None:
    """Everything that can be refused from the header alone."""
    modality = str(dataset.get("Modality") or "")
    if modality not in ("CR", "DX"):
        named = modality if modality in MODALITIES else "not stated"
        raise FilmError(f"has modality {named}; CR and DX are read")
    _check_pixels(dataset)


def _check_pixels(dataset: Dataset) -> None:
    """That there is one frame, of a kind and size that is decoded."""
    if "Rows" not in dataset or "Columns" not in dataset:
        raise FilmError("has no pixels")
    check_size(int(dataset.Columns), int(dataset.Rows))
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise FilmError("has more than one frame")
    if dataset.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise FilmError("is not MONOCHROME1 or MONOCHROME2")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise FilmError("has more than one sample a pixel")
    allocated, bits = int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0)
    if allocated not in (8, 16) or not 8 <= bits <= allocated:
        raise FilmError(f"stores {bits} of {allocated} bits a pixel; 8 to 16 are read")


def _stored(dataset: Dataset) -> Integer[np.ndarray, "h w"]:
    """The stored values; pydicom clears what some scanners leave in the bits above them.

    Those that lie higher in their words than the standard has it today (PS3.5 8.1.1) are taken
    down: pydicom would take the bits below them for the value.
    """
    _check_frame(dataset)
    allocated, bits = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = dataset.get("HighBit")
    top = bits if high is None else int(high) + 1
    if not bits <= top <= allocated:
        raise FilmError("has its values at an impossible place in their words")
    dataset.BitsStored, dataset.HighBit = top, top - 1
    stored = dataset.pixel_array
    if stored.shape != (dataset.Rows, dataset.Columns):
        raise FilmError("has pixels that do not fit its rows and columns")
    return np.asarray(stored >> (top - bits))


def _check_frame(dataset: Dataset) -> None:
    """A compressed frame must be what the header says: decoders believe the frame."""
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if not syntax:
        raise FilmError("does not say how its pixels are stored")
    if "PixelData" not in dataset:
        raise FilmError("has no pixels")
    if syntax in NATIVE:
        return
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    wide, high = int(dataset.Columns), int(dataset.Rows)
    check_frame(syntax, frame, wide, high, int(dataset.BitsAllocated))


def _looked_up(
    values: Integer[np.ndarray, "h w"], item: Dataset
) -> tuple[Integer[np.ndarray, "h w"], float]:
    """The values through a modality or VOI table (PS3.3 C.11.1.1), and the table's white.

    Values below the table take its first entry, values above it the last.
    """
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 65536  # 65,536 does not fit the 16 bits that it is stored in
    data = item.LUTData
    if isinstance(data, bytes):
        table = np.frombuffer(data, dtype=np.uint8 if len(data) <= count + 1 else "<u2")
    else:
        table = np.atleast_1d(np.asarray(data, dtype=np.int64))
    if len(table) < count or not 8 <= bits <= 16:
        raise FilmError("has a damaged lookup table")
    index = np.clip(values.astype(np.int32) - first, 0, count - 1)
    return table[index].astype(np.int32), 2.0**bits - 1


def _padding(
    dataset: Dataset, stored: Integer[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"] | None:
    """Where the film was padded, which is background whatever its value (PS3.3 C.7.5.1.1.2)."""
    if dataset.get("PixelPaddingValue") is None:
        return None
    one = int(dataset.PixelPaddingValue)
    other = int(dataset.get("PixelPaddingRangeLimit") or one)
    found: Bool[np.ndarray, "h w"] = (stored >= min(one, other)) & (stored <= max(one, other))
    return found


def _voi(dataset: Dataset) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window; None where there is no valid one."""
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    known = function in ("LINEAR", "LINEAR_EXACT", "SIGMOID")
    valid = width >= 1 if function == "LINEAR" else width > 0
    return (centre, width, function) if known and valid and np.isfinite(centre) else None


def _number(dataset: Dataset, name: str, otherwise: float = float("nan")) -> float:
    """The first value of a decimal string that may be absent, empty or manifold."""
    value: Any = dataset.get(name)
    if value is None or value == "":
        return otherwise
    try:
        return float(value)
    except TypeError:
        return float(value[0])
