"""A small copy of what a hospital's archive exports."""

from datetime import date, timedelta
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from nofinding.datasets.examples.writing import Copy

__all__ = ["write_dicom"]

PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LABELS = {"nodule": "Nodule", "effusion": "Pleural effusion", "mass": "Mass"}


def write_dicom(copy: Copy) -> None:
    """Folders by patient and study, files without ending, with the odd ones of life among them: a
    lateral, a hand, a CT, a secondary capture, a raw image, a file sent twice, a text, a DICOMDIR.
    Findings by study, and weights, are in record.csv."""
    rng = copy.rng("dicom")
    rows = []
    for number in range(copy.patients):
        who = copy.person(number)
        mrn = f"MRN{100_000 + 7 * number}"
        for visit in range(1 + number % 2):
            kind = [*LABELS][number % 3] if number % 5 in (2, 3) and visit == 0 else None
            study = _uid(copy, f"study {number} {visit}")
            taken = date(2020, 1, 1) + timedelta(days=int(rng.integers(1000)))
            born = date(2020, 1, 1) - timedelta(days=round(who["age"] * 365.25) + 100)
            years = f"{(taken - born).days // 365.25:03.0f}Y"
            view = "AP" if who["view"] else "PA"
            tags: dict[str, Any] = {
                "SOPInstanceUID": _uid(copy, f"film {number} {visit}"),
                "StudyInstanceUID": study, "PatientID": mrn,
                "PatientName": f"Phantom^{number}", "PatientSex": "FM"[int(who["sex"])],
                "PatientBirthDate": f"{born:%Y%m%d}",
                "PatientAge": None if number % 4 == 1 else years,
                "PatientSize": f"{who['height'] / 100:.2f}",
                "PatientWeight": None if number % 3 == 0 else f"{who['weight']:.1f}",
                "StudyDate": f"{taken:%Y%m%d}", "StudyTime": f"{8 + number % 9:02d}3000.000",
                "BodyPartExamined": "CHEST", "ViewPosition": view,
                "PatientOrientation": ["L", "F"], "PresentationIntentType": "FOR PRESENTATION",
            }  # fmt: skip
            folder = f"{mrn}/{study}"
            pixels = copy.film(number, kind, visit)
            modality = "CR" if number % 3 == 0 else "DX"
            copy.dicom(f"{folder}/IM0001", pixels, modality=modality, **tags)
            pounds = f"{who['weight'] / 0.45359237:.1f}" if number % 3 == 0 else ""
            rows.append([study, LABELS[kind] if kind else "No Finding", pounds])
            if visit == 0:
                _odd_ones(copy, number, folder, tags)
    copy.table("record.csv", ["study_id", "findings", "Weight [lb]"], rows)
    copy.text("README.txt", ["Films of phantoms."])


def _odd_ones(copy: Copy, number: int, folder: str, tags: dict[str, Any]) -> None:
    """What else lies in such a folder, one for each of the first patients."""
    pixels = copy.film(number)
    own = {**tags, "SOPInstanceUID": None}
    if number == 0:
        own |= {"ViewPosition": "LL", "PatientOrientation": ["A", "F"]}
        copy.dicom(f"{folder}/IM0002.dcm", pixels, **own)
    elif number == 1:
        own |= {"BodyPartExamined": "HAND", "PatientOrientation": None}
        copy.dicom(f"{folder}/IM0002.dcm", pixels, **own)
    elif number == 2:
        copy.dicom(f"{folder}/CT1", pixels, **own | {"Modality": "CT"})
    elif number == 3:
        copy.dicom(f"{folder}/SC1", pixels, **own | {"SOPClassUID": CAPTURE})
    elif number == 4:
        raw = {"SOPClassUID": PROCESSING, "PresentationIntentType": "FOR PROCESSING"}
        copy.dicom(f"{folder}/RAW1", 255 - pixels, **own | raw)
    elif number == 5:
        whole = (copy.root / folder / "IM0001").read_bytes()
        (copy.root / folder / "IM0001 (1)").write_bytes(whole)
    elif number == 6:
        _directory(copy)


def _uid(copy: Copy, what: str) -> str:
    return str(generate_uid(None, [str(copy.seed), what]))


def _directory(copy: Copy) -> None:
    data = Dataset()
    data.FileSetID = "FILMS"
    copy.save("DICOMDIR", data, "1.2.840.10008.1.3.10")
