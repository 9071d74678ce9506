"""Where the parts of MIMIC lie: MIMIC-CXR-JPG, MIMIC-IV and MIMIC-IV-ED are three downloads."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nofinding.errors import UserError

__all__ = ["MimicFolders", "find_mimic"]

DEPTH = 4  # physionet.org/files/mimic-cxr-jpg/2.1.0
PATIENT = re.compile(r"[ps]\d+")  # folders of films, which are many
CXR = ("mimic-cxr-*-metadata.csv",)
HOSPITAL = ("hosp/patients.csv", "hosp/omr.csv")
EMERGENCY = ("ed/edstays.csv", "ed/triage.csv", "ed/vitalsign.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class MimicFolders:
    """The folders of the three parts."""

    films: Path
    """Of MIMIC-CXR-JPG: holds mimic-cxr-2.0.0-metadata.csv.gz and files/."""
    hospital: Path | None
    """Of MIMIC-IV: holds hosp/. None: not there."""
    emergency: Path | None
    """Of MIMIC-IV-ED: holds ed/. None: not there."""


def find_mimic(root: Path, record: Path | None) -> MimicFolders:
    """The parts under `root`, and under or beside `record`.

    Raises UserError where there are no films, a part is there twice, or `record` holds none.
    """
    films = [folder for folder in _folders(root) if _holds(folder, CXR)]
    if not films:
        raise UserError(
            f"{root}: has no mimic-cxr-2.0.0-metadata.csv.gz; give the folder of MIMIC-CXR-JPG "
            "2.0.0 or 2.1.0, or one above it"
        )
    if record is not None and not record.is_dir():
        raise UserError(f"--record {record}: is not a folder; give that of MIMIC-IV")
    if record is not None and _inner(record):
        record = record.resolve().parent
    named = [] if record is None else [*_folders(record)]
    under = [*_folders(root)]
    hospital = [f for f in (named or under) if _holds(f, HOSPITAL)]
    emergency = [f for f in named if _holds(f, EMERGENCY)]
    if record is not None and not hospital:
        raise UserError(
            f"--record {record}: has no hosp/patients.csv.gz; give the folder of MIMIC-IV"
        )
    if record is not None and not emergency:
        emergency = [
            f for near in _beside(record) for f in _folders(near, 2) if _holds(f, EMERGENCY)
        ]
    emergency = emergency or [f for f in under if _holds(f, EMERGENCY)]
    return MimicFolders(
        films=_only(films, "MIMIC-CXR-JPG", "name one of them after mimic-cxr:"),
        hospital=_only(hospital, "MIMIC-IV", "name one of them by --record") if hospital else None,
        emergency=_only(emergency, "MIMIC-IV-ED", "leave one there") if emergency else None,
    )


def _folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folder and those below, nearest first, without those of single patients."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = [
            Path(entry.path)
            for folder in level
            for entry in sorted(_entries(folder), key=lambda entry: entry.name)
            if entry.is_dir() and not PATIENT.fullmatch(entry.name) and entry.name[0] != "."
        ]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [*os.scandir(folder)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def _holds(folder: Path, names: Iterable[str]) -> bool:
    return any(True for name in names for ending in ("", ".gz") for _ in folder.glob(name + ending))


def _inner(record: Path) -> bool:
    """Whether the folder is hosp/ itself."""
    return _holds(record, (name.partition("/")[2] for name in HOSPITAL))


def _beside(record: Path) -> Iterator[Path]:
    """Folders called as MIMIC-IV-ED is, beside mimiciv/3.1 or beside mimiciv."""
    for above in (record.resolve().parent, record.resolve().parent.parent):
        for entry in _entries(above):
            if entry.is_dir() and re.match(r"mimic-?iv-?ed", entry.name, re.IGNORECASE):
                yield Path(entry.path)


def _only(folders: list[Path], what: str, remedy: str) -> Path:
    """The one folder. Raises UserError where there are two."""
    different = {folder.resolve(): folder for folder in folders}
    if len(different) > 1:
        first, second, *_ = different.values()
        raise UserError(f"{what} is there twice, in {first} and in {second}; {remedy}")
    return folders[0]
