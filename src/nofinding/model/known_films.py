"""The films that a model was fitted on, as sketches in its folder: what it is scored on is compared
with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nofinding.data.signatures import Signatures
from nofinding.data.sketches import MOST, Sketches
from nofinding.errors import UserError
from nofinding.evaluation.flags import TWIN_CALIBRATES, TWIN_TRAINED
from nofinding.progress import say
from nofinding.storage import checkpoint

__all__ = ["KnownFilms", "load_known_films", "save_known_films"]

STEM = "twins"
PARTS = ("training", "calibration")


@dataclass(frozen=True, slots=True)
class KnownFilms:
    """Sketches of what a model learnt from and of what calibrates it."""

    training: Sketches
    calibration: Sketches

    @classmethod
    def of(cls, training: Sequence[Signatures], calibration: Signatures) -> Self:
        """Of all films, up to MOST; those that calibrate come first."""
        calibrating = Sketches.of(calibration.part(0, MOST))
        parts, left = [], MOST - len(calibrating)
        for films in training:
            parts.append(Sketches.of(films.part(0, left)))
            left -= len(parts[-1])
        own = cls(Sketches.joined(parts), calibrating)
        every = sum(map(len, training)) + len(calibration)
        if len(own) < every:
            say(f"of {every:,} films the model keeps sketches of {len(own):,}, to know twins by")
        return own

    def __len__(self) -> int:
        return len(self.training) + len(self.calibration)

    def flags(self, films: Signatures) -> list[list[str]]:
        """What a row must say of each film: that it is an altered copy of one of these."""
        twins = zip(
            self.training.twin_of_each(films), self.calibration.twin_of_each(films), strict=True
        )
        names = (TWIN_TRAINED, TWIN_CALIBRATES)
        return [[name for name, twin in zip(names, two, strict=True) if twin is not None]
                for two in twins]  # fmt: skip


def save_known_films(folder: Path, known: KnownFilms) -> dict[str, Any]:
    """Writes the sketches into a model's folder, and gives what model.json says of them."""
    tensors = {
        f"{part}.{name}": tensor
        for part in PARTS
        for name, tensor in getattr(known, part).tensors().items()
    }
    checkpoint.save(folder / STEM, tensors, {})
    return {"sketches": len(known), "sha256": checkpoint.load_meta(folder / STEM)["sha256"]}


def load_known_films(folder: Path, meta: Mapping[str, Any]) -> KnownFilms | None:
    """What lies in the folder of the model that `meta` is of; None where it keeps no sketches.

    Raises UserError where they are absent, damaged, or of another model.
    """
    about = meta.get("twins")
    if not isinstance(about, Mapping) or "sha256" not in about:
        return None
    tensors, stored = checkpoint.load(folder / STEM)
    if stored["sha256"] != about["sha256"]:
        raise UserError(f"--model {folder}: {STEM}.safetensors is of another model")
    try:
        return KnownFilms(
            *(
                Sketches.from_tensors(
                    {name: tensors[f"{part}.{name}"] for name in Sketches.__slots__}
                )
                for part in PARTS
            )
        )
    except (KeyError, ValueError):
        raise UserError(f"--model {folder}: {STEM}.safetensors holds no sketches") from None
