"""A trial of known answers: normal films, and the same films with one lesion each."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from nofinding.datasets.insertion.insert import KINDS, Inserted, insert
from nofinding.datasets.insertion.scene import ADULT_FIELD, Scene, scene_of
from nofinding.errors import UserError
from nofinding.storage.atomic import written
from nofinding.types import Exam, Pixels

__all__ = ["Case", "Held", "Trial", "build_trial"]

REPEATS: Mapping[str, int] = {"nodule": 2}
"""Lesions of a kind for each film, where one film with one lesion is too few to grade."""


@dataclass(frozen=True, slots=True)
class Held:
    """A film of 8 bits that is held in memory; calling it gives what a file would."""

    stored: UInt8[np.ndarray, "h w"]

    def __call__(self) -> Pixels:
        """(h, w) float32 in [0, 1]."""
        return (self.stored / np.float32(255)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A film with a lesion that was put there, and its twin without."""

    record: Exam
    twin: Exam
    kind: str
    diameter: float
    """mm; of what, `KINDS` says."""
    contrast: float
    """Contrast to noise."""
    cell: str
    mask: Bool[np.ndarray, "h w"]


@dataclass(frozen=True, slots=True)
class Trial:
    """Films that are all to be scored, once each."""

    cases: tuple[Case, ...]
    skipped: tuple[str, ...]
    """Films on which no two lungs could be traced; they are in no comparison."""

    @property
    def twins(self) -> list[Exam]:
        """The unchanged films, once each."""
        return list({case.twin.image_id: case.twin for case in self.cases}.values())

    def of(self, kinds: Sequence[str]) -> "Trial":
        """The part with these kinds of lesion."""
        return Trial(tuple(c for c in self.cases if c.kind in kinds), self.skipped)


def build_trial(
    exams: Sequence[Exam],
    *,
    kinds: Sequence[str] = tuple(KINDS),
    field: float = ADULT_FIELD,
    seed: int = 0,
    cache: Path | None = None,
) -> Trial:
    """One lesion of each kind (two nodules) in each of the normal films, which are `field` mm wide.

    A lesion depends on its film, kind and seed alone, not on what else is in the trial. With
    `cache`, a folder, films with lesions are stored there and read the next time. Raises UserError
    for a film that is not labelled normal, and for an unknown kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"lesion {kind!r}: is one of {', '.join(KINDS)}")
    cases: list[Case] = []
    skipped = []
    for exam in exams:
        if exam.findings is None or exam.findings:
            raise UserError(
                f"film {exam.image_id}: is not labelled normal; a lesion whose place is known "
                "goes into normal films only"
            )
        film = exam.pixels()
        twin = replace(exam, pixels=Held(np.round(film * 255).astype(np.uint8)), lesion=None)
        inserted = _all_of(twin, kinds, field, seed, cache)
        if not inserted:
            skipped.append(exam.image_id)
        cases += [_case(twin, key, lesion) for key, lesion in inserted.items()]
    return Trial(tuple(cases), tuple(skipped))


def _case(twin: Exam, key: str, lesion: Inserted) -> Case:
    film = Held(np.round(lesion.film * 255).astype(np.uint8))
    return Case(
        record=replace(
            twin,
            image_id=f"{twin.image_id}+{key}",
            pixels=film,
            findings=frozenset({lesion.kind}),
        ),
        twin=twin,
        kind=lesion.kind,
        diameter=lesion.diameter,
        contrast=lesion.contrast,
        cell=lesion.cell,
        mask=lesion.mask,
    )


def _all_of(
    twin: Exam, kinds: Sequence[str], field: float, seed: int, cache: Path | None
) -> dict[str, Inserted]:
    """The lesions of one film by "kind#number"."""
    film = twin.pixels()
    scene: list[Scene | None] = []  # built once, and only if a lesion is not in the cache
    inserted: dict[str, Inserted] = {}
    for kind in kinds:
        file = None
        if cache is not None:
            text = f"{_source_hash()}/{seed}/{field:g}/{kind}/{twin.image_id}".encode()
            digest = hashlib.sha256(text + np.ascontiguousarray(film).tobytes()).hexdigest()
            file = cache / f"{digest[:24]}.npz"
            if file.is_file():
                inserted |= _read(file)
                continue
        if not scene:
            scene.append(scene_of(film, field))
        part = _of_kind(scene[0], twin.image_id, kind, seed)
        if file is not None:
            _write(file, part)
        inserted |= part
    return inserted


def _of_kind(scene: Scene | None, image_id: str, kind: str, seed: int) -> dict[str, Inserted]:
    if scene is None:
        return {}
    lesions = {
        f"{kind}#{number}": insert(scene, kind, f"{image_id}#{number}", seed=seed)
        for number in range(REPEATS.get(kind, 1))
    }
    return {key: lesion for key, lesion in lesions.items() if lesion is not None}


@functools.cache
def _source_hash() -> str:
    """Of the code that makes lesions: what is stored comes from the same."""
    folder = Path(__file__).parent
    text = b"".join(p.read_bytes() for p in sorted(folder.glob("*.py")) if p.name != "trial.py")
    return hashlib.sha256(text).hexdigest()[:16]


def _write(file: Path, inserted: Mapping[str, Inserted]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {"names": np.array(list(inserted), dtype=np.str_)}
    for i, lesion in enumerate(inserted.values()):
        arrays[f"film{i}"] = np.round(lesion.film * 255).astype(np.uint8)
        arrays[f"mask{i}"] = np.packbits(lesion.mask)
        arrays[f"what{i}"] = np.array([lesion.kind, lesion.cell], dtype=np.str_)
        arrays[f"size{i}"] = np.array([lesion.diameter, lesion.contrast])
    with written(file) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _read(file: Path) -> dict[str, Inserted]:
    with np.load(file, allow_pickle=False) as stored:
        inserted = {}
        for i, name in enumerate(stored["names"].tolist()):
            film = (stored[f"film{i}"] / np.float32(255)).astype(np.float32)
            mask = np.unpackbits(stored[f"mask{i}"], count=film.size).reshape(film.shape) > 0
            kind, cell = stored[f"what{i}"].tolist()
            diameter, contrast = stored[f"size{i}"].tolist()
            inserted[name] = Inserted(
                film=film, mask=mask, kind=kind, diameter=diameter, contrast=contrast, cell=cell
            )
        return inserted
