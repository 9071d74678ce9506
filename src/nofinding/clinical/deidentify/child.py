"""The child process that takes the person out of films: `python -m
nofinding.clinical.deidentify.child`, spoken to by `deidentifier.py`.

It reads the whole of a hostile file, so it is confined as the decoder is
(`data/decoding/codec.py`): a limit of memory and time, no file to write. What it makes goes back
through the pipe.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from nofinding.clinical.deidentify.profile import Profile, deidentified, pseudonym
from nofinding.clinical.dicom.frames import bare_pixels
from nofinding.data.decoding.codec import serve
from nofinding.data.decoding.limits import FilmError, check_size

__all__ = ["cleaned"]

# CR, DX for presentation and for processing: where names are not burnt in as a matter of course,
# as in secondary captures, and no text is the content, as in reports.
FILMS = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1",
         "1.2.840.10008.5.1.4.1.1.1.1.1")  # fmt: skip
DIRECTORY = "1.2.840.10008.1.3.10"


def cleaned(path: Path, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """A film de-identified, as the bytes of a DICOM file, and what it is called by the key."""
    profile = Profile(
        key=bytes.fromhex(request["key"]),
        characteristics=bool(request["characteristics"]),
        dates=bool(request["dates"]),
    )
    if path.exists() and not path.is_file():  # a pipe or a device would never end
        raise FilmError("is not a file")
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            raise FilmError("is not a DICOM file")
    _check(dcmread(path, stop_before_pixels=True))
    film = dcmread(path)
    _check(film)
    bare_pixels(film)
    dataset = deidentified(film, profile)
    uid, study = str(film.SOPInstanceUID).strip(), str(film.get("StudyInstanceUID") or "").strip()
    names = {
        "film": f"film-{profile.digest('film', uid).hex()[:20]}",
        "patient": pseudonym(
            profile, str(film.get("PatientID") or ""), str(film.get("IssuerOfPatientID") or "")
        ),
        "study": f"study-{profile.digest('study', study).hex()[:20]}" if study else "",
        "burnt_in": "no" if film.get("BurnedInAnnotation") else "not stated",
    }
    out = BytesIO()
    with warnings.catch_warnings():  # of values that were in the film before
        warnings.simplefilter("ignore")
        dataset.save_as(out, enforce_file_format=True)
    data = out.getvalue()
    return {**names, "bytes": len(data)}, data


def _check(dataset: Dataset) -> None:
    """Everything that can be refused from the header alone."""
    if dataset.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
        raise FilmError("is a DICOMDIR")
    if dataset.get("SOPClassUID") not in FILMS:
        raise FilmError("is neither a CR nor a DX image")
    if not str(dataset.get("SOPInstanceUID") or "").strip():
        raise FilmError("has no SOP Instance UID")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise FilmError("has no pixels")
    check_size(int(dataset.Columns), int(dataset.Rows))
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise FilmError("has more than one frame")


if __name__ == "__main__":
    serve(cleaned)
