"""Small copies of datasets, exact in folders, columns and quirks, with phantom films in them."""

import csv
import gzip
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from nofinding.datasets.phantom.film import PhantomFilm
from nofinding.datasets.phantom.patients import patient
from nofinding.errors import UserError

__all__ = ["Copy"]

CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
FLOOR = 64  # pixels


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A folder that a copy is written into."""

    root: Path
    patients: int
    """How many there are; each has one film or more."""
    seed: int
    size: int
    """Pixels along a side of the films."""

    def __post_init__(self) -> None:
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise UserError(f"--out {self.root}: is not an empty folder")
        if not 8 <= self.patients <= 10_000:
            raise UserError(f"--patients {self.patients}: give 8 to 10,000")
        if not FLOOR <= self.size <= 2048:
            raise UserError(f"--size {self.size}: give {FLOOR} to 2048")

    def rng(self, what: str) -> np.random.Generator:
        """Random numbers for one purpose; the same for the same seed."""
        return np.random.default_rng([self.seed, *what.encode()])

    def person(self, number: int) -> dict[str, float]:
        """What is true of a patient: age in years, sex (0: F, 1: M), height, weight, ..."""
        return dict(patient(self.seed, number))

    def film(
        self, number: int, kind: str | None = None, visit: int = 0
    ) -> UInt8[np.ndarray, "h w"]:
        """A film of that patient, 8 bits; `kind` is a finding of the phantom, None: normal."""
        index = number + visit * 100_000  # another visit is another film
        pixels = PhantomFilm(seed=self.seed, index=index, size=self.size, kind=kind)()
        return (pixels * 255).round().astype(np.uint8)

    def picture(
        self, path: str, pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]
    ) -> Path:
        """Writes a PNG of 8 or 16 bits, or a JPEG, by the ending of the path."""
        file = self._at(path)
        image = Image.fromarray(pixels)
        if file.suffix.lower() in (".jpg", ".jpeg"):
            image.save(file, quality=95)
        else:
            image.save(file)
        return file

    def dicom(
        self,
        path: str,
        pixels: UInt8[np.ndarray, "h w"],
        *,
        modality: str = "DX",
        without: Sequence[str] = (),
        **tags: object,
    ) -> Path:
        """Writes an uncompressed single-frame DICOM file, MONOCHROME2; `tags` by keyword, a
        value of None leaves the element out. `without` are elements that a file has to have and
        this one has not; without SOPInstanceUID its file meta information has none either."""
        given = str(tags.pop("SOPInstanceUID", None) or "")
        uid = UID(given) if given else generate_uid(None, [str(self.seed), path])
        data = Dataset()
        data.SOPClassUID = CR if modality == "CR" else DX
        data.SOPInstanceUID, data.Modality = uid, modality
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelRepresentation = 0
        with warnings.catch_warnings():  # some publishers' ages lack their letter
            warnings.simplefilter("ignore")
            for keyword, value in tags.items():
                if value is not None:
                    setattr(data, keyword, value)
        data.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
        data["PixelData"].VR = "OB"
        sop_class = str(data.SOPClassUID)
        for keyword in without:
            delattr(data, keyword)
        return self.save(path, data, sop_class, uid, named="SOPInstanceUID" not in without)

    def save(
        self, path: str, data: Dataset, sop_class: str, uid: str = "", *, named: bool = True
    ) -> Path:
        """Writes any DICOM file, explicit VR little endian; `named`: with an instance UID in its
        file meta information."""
        file = self._at(path)
        data.file_meta = FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = UID(sop_class)
        if named:
            data.file_meta.MediaStorageSOPInstanceUID = UID(
                uid or generate_uid(None, [str(self.seed), path])
            )
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.preamble = bytes(128)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.save_as(file, enforce_file_format=named)
        return file

    def table(
        self,
        path: str,
        titles: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        quote: int = csv.QUOTE_MINIMAL,
        ending: str = "\n",
    ) -> Path:
        """Writes a CSV file, gzipped where the path ends in .gz (the same bytes each time)."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, quoting=quote, lineterminator=ending)  # type: ignore[arg-type]
        writer.writerow(titles)
        writer.writerows(rows)
        data = text.getvalue().encode()
        file = self._at(path)
        file.write_bytes(gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)
        return file

    def text(self, path: str, lines: Iterable[str]) -> Path:
        """Writes lines."""
        file = self._at(path)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return file

    def _at(self, path: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        return file
