"""De-identified films, made where a hostile file can do no harm: by a child process that is
killed when it takes too long or too much. This process never looks into a film."""

import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from nofinding.clinical.deidentify.profile import Profile
from nofinding.data.decoding.decode import child_of

__all__ = ["Cleaned", "Deidentifier"]

NAMES = {
    "film": r"film-[0-9a-f]{20}",
    "patient": r"[0-9a-f]{16}",
    "study": r"(study-[0-9a-f]{20})?",
    "burnt_in": r"no|not stated",
}  # what a child says goes into file names: nothing else is taken from one


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """A film de-identified."""

    film: str
    """Its pseudonym, which `dicom:` gives the same film under the same key."""
    patient: str
    """Its PatientID now."""
    study: str
    """A pseudonym of its study; empty where it names none."""
    burnt_in: str
    """Whether text is burnt into its pixels, by its own word: "no", "not stated"."""
    data: bytes
    """Of the DICOM file."""


class Deidentifier:
    """`with Deidentifier(profile) as clean: clean(path)`; its child ends with it."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._child = child_of("nofinding.clinical.deidentify.child")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.close()

    def __call__(self, path: Path) -> Cleaned:
        """The film in that file. Raises FilmError, which quotes nothing, where there is none."""
        profile = self.profile
        names, data = self._child.ask(
            path,
            "deidentified",
            key=profile.key.hex(),
            characteristics=profile.characteristics,
            dates=profile.dates,
        )
        pseudonyms = {name: str(names.get(name)) for name in NAMES}
        for name, form in NAMES.items():
            if not re.fullmatch(form, pseudonyms[name], re.ASCII):
                raise RuntimeError(f"the child's {name} has not its form")
        return Cleaned(**pseudonyms, data=data)
