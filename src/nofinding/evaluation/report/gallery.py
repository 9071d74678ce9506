"""Films beside their maps and pseudo-healthy films, as pictures that a page can hold."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy import ndimage

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrField
from nofinding.data.image import fit_square_mask
from nofinding.errors import UserError
from nofinding.evaluation.report.colours import coloured
from nofinding.evaluation.statistics.metrics import count, threshold_at
from nofinding.evaluation.table import Scored
from nofinding.types import Exam, Scores

__all__ = [
    "Picture",
    "Wall",
    "array_file",
    "legend",
    "pictures_of",
    "png_uri",
    "read_array",
    "select_films",
    "walls",
]

PRINTED = {"a": "years", "kg/m2": "kg/m²", "mm[Hg]": "mmHg", "Cel": "°C"}  # UCUM: as people write
OUTLINE = (64, 224, 208)
EACH = 4  # films a wall
WALLS = (
    ("Highest scores", "The films that the method finds most anomalous."),
    ("Lowest scores", "The films that it finds most normal."),
    ("False alarms", "Normal films called at 95 % specificity, the highest first."),
    ("Misses", "Abnormal films not called at 95 % specificity, the lowest first."),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One film and what is said of it. Pictures are data URIs; None where there is no file."""

    image_id: str
    score: float
    p_value: float | None
    abnormal: bool
    label: str  # the findings, or "No finding"
    known: str  # of the patient, with units
    flags: tuple[str, ...]
    film: str
    overlay: str | None
    reconstruction: str | None


@dataclass(frozen=True, slots=True)
class Wall:
    title: str
    note: str
    pictures: tuple[Picture, ...]


def array_file(folder: Path, image_id: str) -> Path | None:
    """Gives FOLDER/<image_id>.npy where it is, never a path outside the folder."""
    if image_id in ("", ".", "..") or any(mark in image_id for mark in '/\\\0"'):
        return None
    file = folder / f"{image_id}.npy"
    return file if file.is_file() else None


def read_array(file: Path, size: int | None = None) -> Float[np.ndarray, "h w"]:
    """Gives the (size, size) array in `file`. Raises UserError for anything else."""
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise UserError(f"{file}: cannot be read as an array") from None
    shape = array.shape if size is None else (size, size)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape != shape:
        raise UserError(f"{file}: must hold a {size or 'h'} x {size or 'w'} array")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise UserError(f"{file}: must hold finite floating-point numbers")
    return array.astype(np.float32)


def select_films(scored: Scored) -> tuple[Int[np.ndarray, " k"], ...]:
    """Gives the films of each wall of WALLS, as indices, in the order that they are shown."""
    threshold = threshold_at(count(scored.score, scored.abnormal), 0.95)
    rising = np.argsort(scored.score, kind="stable")
    called = scored.score >= threshold
    alarms = [i for i in rising[::-1] if called[i] and not scored.abnormal[i]]
    misses = [i for i in rising if not called[i] and scored.abnormal[i]]
    return tuple(
        np.asarray(films[:EACH], dtype=np.int64) for films in (rising[::-1], rising, alarms, misses)
    )


def walls(
    scored: Scored,
    films: Films,
    lesions: Mapping[int, Bool[np.ndarray, "h w"]],
    fields: Sequence[EhrField],
) -> tuple[list[Wall], float | None]:
    """Gives the walls that have films, and the map value at the top of the common colour scale.

    `films` are those of `scored`, in the same order; `lesions` are drawn outlines by index, on
    the films' grid. The scale ends at the 99.8th percentile of the maps shown: None without maps.
    """
    picks = select_films(scored)
    maps: dict[int, np.ndarray] = {}
    for i in sorted({int(i) for pick in picks for i in pick}):
        file = array_file(scored.path.parent / "maps", scored.exams[i].image_id)
        if file is not None:
            maps[i] = read_array(file, films.size)
    top = float(np.percentile(np.stack(list(maps.values())), 99.8)) if maps else None
    pictures = {
        i: _picture(scored, i, films, maps.get(i), top or 1.0, lesions.get(i), fields)
        for i in sorted({int(i) for pick in picks for i in pick})
    }
    shown = [
        Wall(title, note, tuple(pictures[int(i)] for i in pick))
        for (title, note), pick in zip(WALLS, picks, strict=True)
        if len(pick)
    ]
    return shown, top


def pictures_of(
    scored: Scored, indices: Sequence[int], films: Films, scores: Scores, fields: Sequence[EhrField]
) -> tuple[Picture, ...]:
    """Gives films of `scored` under one colour scale, with what is drawn on them outlined.

    `films` are those of `indices`, in that order, and `scores` what a method says of them.
    """
    maps = None if scores.anomaly_map is None else scores.anomaly_map[:, 0].numpy()
    top = 1.0 if maps is None else float(np.percentile(maps, 99.8)) or 1.0
    pictures = []
    for place, i in enumerate(indices):
        exam = scored.exams[i]
        film = (films.batch([place]).image[0, 0].numpy() + 1) / 2
        overlay = normal = None
        if maps is not None:
            drawn = exam.lesion
            lesion = None if drawn is None else fit_square_mask(drawn(), films.size, films.aspect)
            overlay = png_uri(_overlay(film, maps[place], top, lesion))
        if scores.reconstruction is not None:
            normal = png_uri(_grey((scores.reconstruction[place, 0].numpy() + 1) / 2))
        picture = Picture(
            image_id=exam.image_id,
            score=float(scored.score[i]),
            p_value=None if scored.p_value is None else float(scored.p_value[i]),
            abnormal=bool(scored.abnormal[i]),
            label=", ".join(sorted(exam.findings or ())) or "No finding",
            known=known(exam, fields),
            flags=scored.flags[i],
            film=png_uri(_grey(film)),
            overlay=overlay,
            reconstruction=normal,
        )
        pictures.append(picture)
    return tuple(pictures)


def _picture(
    scored: Scored,
    i: int,
    films: Films,
    heat: Float[np.ndarray, "h w"] | None,
    top: float,
    lesion: Bool[np.ndarray, "h w"] | None,
    fields: Sequence[EhrField],
) -> Picture:
    exam = scored.exams[i]
    film = (films.batch([i]).image[0, 0].cpu().numpy() + 1) / 2
    normal_file = array_file(scored.path.parent / "normal", exam.image_id)
    return Picture(
        image_id=exam.image_id,
        score=float(scored.score[i]),
        p_value=None if scored.p_value is None else float(scored.p_value[i]),
        abnormal=bool(scored.abnormal[i]),
        label=", ".join(sorted(exam.findings or ())) or "No finding",
        known=known(exam, fields),
        flags=scored.flags[i],
        film=png_uri(_grey(film)),
        overlay=None if heat is None else png_uri(_overlay(film, heat, top, lesion)),
        reconstruction=None
        if normal_file is None
        else png_uri(_grey(read_array(normal_file, films.size))),
    )


def known(exam: Exam, fields: Sequence[EhrField]) -> str:
    """Gives what was recorded of the patient in a line: "age 63 years, sex M"."""
    said = []
    for field in fields:
        value = exam.ehr.get(field.name)
        if value is not None and field.kind == "categorical":
            said.append(f"{field.name} {field.categories[int(value)]}")
        elif value is not None:
            unit = PRINTED.get(field.unit, field.unit)
            said.append(f"{field.name} {value:.3g} {unit}".rstrip())
    return ", ".join(said)


def _grey(film: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    return np.asarray(np.clip(film, 0, 1) * 255).round().astype(np.uint8)


def _overlay(
    film: Float[np.ndarray, "h w"],
    heat: Float[np.ndarray, "h w"],
    top: float,
    lesion: Bool[np.ndarray, "h w"] | None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The map over the film, clear where it is 0; a drawn lesion as a turquoise outline."""
    share = np.clip(heat / (top or 1.0), 0, 1)
    colour = coloured(share)
    opaque = 0.85 * np.sqrt(share)[..., None]
    mixed = opaque * colour + (1 - opaque) * np.clip(film, 0, 1)[..., None]
    picture = np.asarray(mixed * 255).round().astype(np.uint8)
    if lesion is not None:
        picture[ndimage.binary_dilation(lesion) & ~lesion] = OUTLINE
    return picture


def png_uri(picture: UInt8[np.ndarray, "h w *rgb"]) -> str:
    """The picture as a PNG that a page can hold."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def legend() -> str:
    """Gives the colour scale of the maps, from 0 on the left, as a picture 256 x 1."""
    colour = coloured(np.linspace(0, 1, 256))[None]
    return png_uri(np.round(colour * 255).astype(np.uint8))
