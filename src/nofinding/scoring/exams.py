"""Exams from what a Python user holds: paths, bytes, arrays, DICOM data sets, pictures.

Whatever is a file's content is decoded as a file is: in a child process that can be killed. Arrays
are taken as they are, once their range and polarity are stated.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from nofinding.data.decoding.decode import FilmFile
from nofinding.data.ehr import EhrField, parse, plausible
from nofinding.datasets.local.single_files import file_exam, file_name
from nofinding.errors import UserError
from nofinding.types import Exam, Pixels, View

__all__ = ["ArrayPixels", "Bright", "FileContent", "ehr_rows", "exam_of", "is_one_film"]

Bright = Literal["dense", "air"]
"""What is bright in an array: dense tissue (bone white), or air (a negative)."""
RANGES = {"u1": (0.0, 255.0), "u2": (0.0, 65535.0), "b1": (0.0, 1.0)}  # of whole-number arrays


@dataclass(frozen=True)
class FileContent:
    """The content of a film file that is in memory, decoded as the file would be; picklable."""

    data: bytes

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 of the content, hex."""
        return self._digest

    @contextmanager
    def as_file(self) -> Iterator[FilmFile]:
        """The content as a file that only this user can read, and that is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="nofinding-") as folder:
            path = Path(folder) / "film"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.data)
            yield FilmFile(path)

    def __call__(self) -> Pixels:
        """(h, w) float32 in [0, 1], dense tissue bright. Raises UserError where it is no film."""
        try:
            with self.as_file() as film:
                return film()
        except UserError as error:
            reason = getattr(error, "reason", "cannot be read")
            raise UserError(f"film given as bytes {reason}") from None


@dataclass(frozen=True)
class ArrayPixels:
    """A film that is an array already: (h, w) float32 in [0, 1], dense tissue bright."""

    values: Float[np.ndarray, "h w"]

    @cached_property
    def _digest(self) -> str:
        shape = repr(self.values.shape).encode()
        return hashlib.sha256(shape + self.values.tobytes()).hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 of shape and values, hex."""
        return self._digest

    def __call__(self) -> Pixels:
        """The array."""
        return self.values


def is_one_film(films: object) -> bool:
    """Whether this is one film rather than several: a path, bytes, an array of two dimensions, a
    DICOM data set, a picture, an exam."""
    if isinstance(films, (str, os.PathLike, bytes, bytearray, memoryview, Exam)):
        return True
    if hasattr(films, "save_as") or hasattr(films, "getbands"):  # pydicom, PIL
        return True
    shape = getattr(films, "shape", None)
    return shape is not None and (len(shape) == 2 or (len(shape) == 3 and shape[0] == 1))


def exam_of(
    film: Any,
    number: int,
    ehr: Mapping[str, Any] | None,
    fields: Mapping[str, EhrField],
    *,
    value_range: tuple[float, float] | None = None,
    bright: Bright = "dense",
) -> Exam:
    """The exam of one film, whatever holds it; `number` names one that has no name of its own.

    Raises UserError where it is no film, or the record cannot be understood.
    """
    if isinstance(film, Exam):
        if ehr:
            raise UserError("ehr: goes with files and arrays; an Exam has its own")
        return film
    stated = stated_ehr(ehr or {}, fields)
    if isinstance(film, (str, os.PathLike)):
        file = FilmFile(Path(film))
        file.check()
        return file_exam(file, file_name(file.path, file), stated, fields)
    if hasattr(film, "save_as") or hasattr(film, "getbands"):
        film = _content(film)
    if isinstance(film, (bytes, bytearray, memoryview)):
        content = FileContent(bytes(film))
        with content.as_file() as file:
            file.check()
            record = file_exam(file, f"film-{number}", stated, fields)
        return _with_pixels(record, content)
    if not hasattr(film, "shape"):
        raise UserError(
            f"film {number}: a {type(film).__name__} is no film; give a path, bytes, a NumPy or "
            "torch array, a pydicom Dataset, a PIL image or an Exam"
        )
    pixels = ArrayPixels(scaled(film, value_range, bright))
    return _exam(f"film-{number}", pixels, stated, fields)


def _content(film: Any) -> bytes:
    """A DICOM data set as a DICOM file, a picture as PNG."""
    file = io.BytesIO()
    if hasattr(film, "save_as"):
        try:
            film.save_as(file, enforce_file_format=True)
        except (AttributeError, ValueError, KeyError) as error:
            raise UserError(
                f"pydicom Dataset: cannot be written as a DICOM file ({error})"
            ) from None
    else:
        film.save(file, format="PNG")
    return file.getvalue()


def _with_pixels(exam: Exam, pixels: FileContent) -> Exam:
    return replace(exam, pixels=pixels)


def _exam(
    image_id: str, pixels: ArrayPixels, stated: Mapping[str, float], fields: Mapping[str, EhrField]
) -> Exam:
    ehr, flags = plausible(dict(stated), fields)
    view = fields["view"].categories[int(ehr["view"])] if "view" in ehr else None
    return Exam(
        image_id=image_id,
        patient_id=image_id,
        pixels=pixels,
        ehr=ehr,
        view=next((one for one in get_args(View) if one == view), None),
        flags=flags,
    )


def scaled(
    array: Any, value_range: tuple[float, float] | None, bright: Bright
) -> Float[np.ndarray, "h w"]:
    """An array as (h, w) float32 in [0, 1], dense tissue bright.

    `value_range` is black and white of the array; default: 0 to 255 of 8-bit and 0 to 65535 of
    16-bit numbers, 0 to 1 of floats. Raises UserError for another shape, for values outside
    the range, and for kinds of numbers whose range must be stated.
    """
    if bright not in get_args(Bright):
        raise UserError(f"bright {bright!r}: give 'dense' (bone is white) or 'air' (a negative)")
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    values = np.asarray(array)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"array of shape {values.shape}: give (h, w), one grey value a pixel")
    kind = values.dtype.kind + str(values.dtype.itemsize)
    if values.dtype.kind not in "uibf":
        raise UserError(f"array of {values.dtype}: give whole numbers or floats")
    if value_range is None and values.dtype.kind != "f" and kind not in RANGES:
        raise UserError(f"array of {values.dtype}: state its value_range=(black, white)")
    low, high = value_range or RANGES.get(kind, (0.0, 1.0))
    if not (np.isfinite([low, high]).all() and low < high):
        raise UserError(f"value_range ({low}, {high}): give black, then a larger white")
    if not np.isfinite(values).all():
        raise UserError("array: holds values that are no numbers (NaN or infinite)")
    least, most = float(values.min()), float(values.max())
    if least < low or most > high:
        raise UserError(
            f"array: values {least:g} to {most:g} are outside {low:g} to {high:g}; state its "
            "value_range=(black, white)"
        )
    grey = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.ascontiguousarray(1 - grey if bright == "air" else grey, dtype=np.float32)


def stated_ehr(ehr: Mapping[str, Any], fields: Mapping[str, EhrField]) -> dict[str, float]:
    """What the user says of the patient, in the fields' units: {"age": 63, "sex": "M", "weight":
    "180 lb"}. None and NaN are not recorded. Raises UserError for an unknown field or value."""
    stated: dict[str, float] = {}
    for name, value in ehr.items():
        if name not in fields:
            raise UserError(f"ehr {name!r}: is not one of {', '.join(fields)}")
        if value is None or value != value:  # NaN, also that of pandas and NumPy
            continue
        text = f"{value:.10g}" if isinstance(value, (float, np.floating)) else str(value)
        try:
            number = parse(fields[name], text)
        except UserError as error:
            raise UserError(f"ehr {error}") from None
        if number is not None:
            stated[name] = number
    return stated


def ehr_rows(ehr: Any, n: int, fields: Mapping[str, EhrField]) -> list[Mapping[str, Any]]:
    """The record of each of `n` films: of one mapping for all, a sequence of mappings, or a
    data frame (pandas, polars) with a row a film. Columns that are no field are left out.

    Raises UserError where there is another number of rows than of films.
    """
    if ehr is None:
        return [{}] * n
    if isinstance(ehr, Mapping):
        return [ehr] * n
    if hasattr(ehr, "to_dicts"):  # polars
        rows: Sequence[Mapping[str, Any]] = ehr.to_dicts()
    elif hasattr(ehr, "to_dict") and hasattr(ehr, "columns"):  # pandas
        rows = ehr.to_dict("records")
    else:
        rows = list(ehr)
        if len(rows) != n:
            raise UserError(f"ehr: has {len(rows)} rows, and there are {n} films")
        return rows
    if len(rows) != n:
        raise UserError(f"ehr: has {len(rows)} rows, and there are {n} films")
    return [{k: v for k, v in row.items() if k in fields} for row in rows]
