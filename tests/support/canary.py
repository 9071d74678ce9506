"""Values that must appear nowhere: planted in films and records, and looked for in all that comes
out."""

import gzip
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from nofinding.datasets.examples import Copy

__all__ = ["CARRIED", "Canaries", "leaks", "plant"]

ROOT = "1.2.826.0.1.3680043.8.498.77"
VALUES = {
    "name": "CANARYNAME",
    "MRN": "CANARYMRN7",
    "birth date": "19511127",
    "accession": "CANARYACC",
    "study id": "CANARYSTUDY",
    "SOP instance": f"{ROOT}1001",
    "study": f"{ROOT}1002",
    "series": f"{ROOT}1003",
    "frame of reference": f"{ROOT}1004",
    "referenced": f"{ROOT}1005",
    "institution": "CANARYWARD",
    "device": "CANARYSERIAL",
    "physician": "CANARYDOCTOR",
    "description": "CANARYDESCRIPTION",
    "comment": "CANARYCOMMENT",
    "private": "CANARYPRIVATE",
    "address": "CANARYSTREET",
    "age": "CANARYAGE",
    "phone": "CANARYPHONE",
    "note": "CANARYNOTE",
}
CARRIED = frozenset(
    {"name", "MRN", "birth date", "accession", "study id", "SOP instance", "study", "series",
     "frame of reference", "physician", "description"}
)  # fmt: skip
"""What a DICOM result of the same patient and study repeats; nothing else may."""


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """What was planted, and where."""

    values: Mapping[str, str]
    """By what it is: "MRN"."""
    film: Path
    """A chest film that can be read; its file is called by its SOP Instance UID."""
    turned: Path
    """The same upside down and inverted, which a gate refuses."""
    broken: Path
    """One that is cut short."""
    folder: Path
    """A folder with films alone: the first, the broken one, and one called by the patient."""
    record: Path
    """A folder of FHIR resources of the patient."""


def plant(folder: Path) -> Canaries:
    """Films and a record of one patient, in that folder, with a canary wherever one can sit."""
    copy = Copy(root=folder / "planted", patients=8, seed=0, size=128)
    pixels = copy.film(0)
    film = _film(copy, f"films/{VALUES['SOP instance']}.dcm", pixels, VALUES["SOP instance"])
    named = f"films/{VALUES['name']}^{VALUES['MRN']} 2.dcm"
    _film(copy, named, copy.film(1), f"{VALUES['SOP instance']}.2")
    turned = _film(copy, "turned.dcm", (255 - pixels)[::-1].copy(), f"{VALUES['SOP instance']}.3")
    broken = _film(copy, "films/broken.dcm", pixels, f"{VALUES['SOP instance']}.4")
    broken.write_bytes(broken.read_bytes()[:-5000])
    return Canaries(
        values=VALUES,
        film=film,
        turned=turned,
        broken=broken,
        folder=film.parent,
        record=_record(copy),
    )


def _film(copy: Copy, path: str, pixels: np.ndarray, uid: str) -> Path:
    v = VALUES
    data = Dataset()
    data.PatientName, data.PatientID = f"{v['name']}^Ann", v["MRN"]
    data.OtherPatientNames, data.OtherPatientIDs = f"{v['name']}^B", v["MRN"]
    data.PatientBirthDate, data.PatientSex, data.PatientAddress = v["birth date"], "F", v["address"]
    data.PatientTelephoneNumbers, data.PatientComments = v["phone"], v["comment"]
    data.PatientSize, data.PatientWeight = "1.7", "70"
    data.AccessionNumber, data.StudyID = v["accession"], v["study id"]
    data.InstitutionName, data.InstitutionAddress = v["institution"], v["address"]
    data.ReferringPhysicianName = data.OperatorsName = f"{v['physician']}^Doc"
    data.StudyDescription = data.SeriesDescription = v["description"]
    data.ImageComments, data.Allergies = v["comment"], v["comment"]
    data.StationName = data.DeviceSerialNumber = v["device"]
    data.StudyInstanceUID, data.SeriesInstanceUID = v["study"], v["series"]
    data.FrameOfReferenceUID = v["frame of reference"]
    data.StudyDate, data.StudyTime, data.ViewPosition = "20240301", "101500", "PA"
    data.BodyPartExamined, data.PatientOrientation = "CHEST", ["L", "F"]
    inner = Dataset()
    inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = "1.2.3", v["referenced"]
    inner.PersonName, inner.TextValue = f"{v['name']}^In", v["comment"]
    data.ReferencedImageSequence = data.RequestAttributesSequence = [inner]
    block = data.private_block(0x0099, v["private"], create=True)
    block.add_new(1, "LO", v["private"])
    data.add_new(0x60003000, "OB", v["comment"].encode() + b" ")
    data[0x00101010] = DataElement(0x00101010, "LO", v["age"])  # a text for an age
    tags = {element.tag: element for element in data}
    film = copy.dicom(path, pixels, SOPInstanceUID=uid)
    return _with(copy, film, path, tags, uid)


def _with(copy: Copy, place: Path, path: str, tags: Mapping[int, DataElement], uid: str) -> Path:
    """The file with these elements, too."""
    from pydicom import dcmread

    data = dcmread(place)
    for element in tags.values():
        data.add(element)
    data.file_meta.PrivateInformationCreatorUID = VALUES["referenced"]
    data.file_meta.PrivateInformation = VALUES["private"].encode() + b" " * 1
    data.file_meta.SourceApplicationEntityTitle = VALUES["institution"]
    data.preamble = VALUES["comment"].encode().ljust(128, b"\0")
    data.save_as(place, enforce_file_format=True)
    return place


def _record(copy: Copy) -> Path:
    v = VALUES
    born = f"{v['birth date'][:4]}-{v['birth date'][4:6]}-{v['birth date'][6:]}"
    patient = {
        "resourceType": "Patient", "id": v["MRN"], "gender": "female", "birthDate": born,
        "identifier": [{"system": "urn:oid:1.2.3", "value": v["MRN"]}],
        "name": [{"family": v["name"]}], "address": [{"line": [v["address"]]}],
        "telecom": [{"value": v["phone"]}], "text": {"div": f"<div>{v['note']}</div>"},
    }  # fmt: skip
    resource = {
        "resourceType": "Observation", "id": v["accession"], "status": "final",
        "subject": {"reference": f"Patient/{v['MRN']}", "display": v["name"]},
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}], "text": v["note"]},
        "effectiveDateTime": "2024-03-01T09:30:00Z", "note": [{"text": v["note"]}],
        "valueQuantity": {"value": 71, "unit": v["note"], "code": "/min",
                          "system": "http://unitsofmeasure.org"},
        "performer": [{"display": v["physician"]}],
    }  # fmt: skip
    copy.text("record/Patient.ndjson", [json.dumps(patient)])
    copy.text("record/Observation.ndjson", [json.dumps(resource), f'{{"cut": "{v["note"]}'])
    return copy.root / "record"


def leaks(canaries: Canaries, place: Path | str) -> list[str]:
    """Which canaries are in a text, or in the files and file names of a folder: "MRN in a.csv".

    Small and capital letters count alike, as do UTF-8 and UTF-16; Parquet, gzip and zip are
    looked into.
    """
    if isinstance(place, str):
        return [f"{name} in the text" for name in _in(canaries, place.encode())]
    places = []
    for path in sorted(place.rglob("*")):
        shown = path.relative_to(place)
        places += [f"{name} in the name {shown}" for name in _in(canaries, path.name.encode())]
        if path.is_file():
            for data in _contents(path):
                places += [f"{name} in {shown}" for name in _in(canaries, data)]
    return [*dict.fromkeys(places)]


def _contents(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if data.startswith(b"PAR1"):
        table = pq.read_table(path)
        yield repr([table.to_pydict(), table.schema.metadata]).encode()
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif data.startswith(b"PK"):
        with zipfile.ZipFile(BytesIO(data)) as inside:
            yield from map(inside.read, inside.namelist())
    elif data.startswith(b"\x89PNG"):  # texts in it may be deflated
        for piece in data.split(b"zTXt")[1:] + data.split(b"iTXt")[1:]:
            at = piece.find(b"\x78")
            yield zlib.decompressobj().decompress(piece[at:], 2**16) if at >= 0 else piece


def _in(canaries: Canaries, data: bytes) -> list[str]:
    low = data.lower()
    return [name for name, value in canaries.values.items()
            if any(text in low for text in _spellings(value))]  # fmt: skip


def _spellings(value: str) -> list[bytes]:
    texts = [value]
    if len(value) == 8 and value.isdecimal():  # a date
        year, month, day = value[:4], value[4:6], value[6:]
        texts += [f"{year}-{month}-{day}", f"{day}.{month}.{year}", f"{month}/{day}/{year}",
                  f"datetime.date({year}, {int(month)}, {int(day)})"]  # fmt: skip
    return [t.lower().encode(code) for t in texts for code in ("utf-8", "utf-16-le", "utf-16-be")]
