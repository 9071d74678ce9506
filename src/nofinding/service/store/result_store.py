"""What is said of each film, kept as a folder a job: whole, or not there.

    results/JOB/
      result.json          `told` (service/result_schema.py)
      film.npy             the film as it is shown, uint16, its longer side at most SHOWN
      map.npy, normal.npy  on the model's square, float32
      objects/KIND.dcm     report, picture, map, segmentation: these carry the patient's identity
      objects/fhir.json    the same for a record system, where the film says whose it is

Nothing but `objects` has a name, an id or a date of the patient.
"""

import contextlib
import io
import json
import re
import secrets
import shutil
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from nofinding.storage.atomic import move_into_place, write_durably
from nofinding.storage.plain_json import finite

__all__ = ["JOB", "SHOWN", "Array", "Results"]

Array: TypeAlias = Literal["film", "map", "normal"]
JOB = re.compile(r"[0-9a-f]{32}")
KIND = re.compile(r"[a-z]{1,20}")
SHOWN = 1024
"""Pixels of the longer side of the film that is shown."""


def _name(kind: str) -> str:
    return f"{kind}.json" if kind == "fhir" else f"{kind}.dcm"


class Results:
    """The folder of results. Safe for several processes, as long as a job is one's at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the folder cannot be made."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(
        self,
        job: str,
        payload: Mapping[str, Any],
        arrays: Mapping[Array, np.ndarray],
        objects: Mapping[str, bytes],
    ) -> None:
        """Writes a job's folder; it is on the disk when this returns. One that is there, from a
        worker that died after it, is replaced. Raises OSError where the disk is full."""
        building = self.folder / f".{job}.{secrets.token_hex(4)}.tmp"
        building.mkdir(mode=0o700)
        try:
            write_durably(building / "result.json", json.dumps(finite(dict(payload))).encode())
            for name, array in arrays.items():
                stream = io.BytesIO()
                np.save(stream, array, allow_pickle=False)
                write_durably(building / f"{name}.npy", stream.getvalue())
            if objects:
                (building / "objects").mkdir(mode=0o700)
            for kind, data in objects.items():
                write_durably(building / "objects" / _name(kind), data)
            move_into_place(building, self.folder / job)
        except OSError:
            shutil.rmtree(building, ignore_errors=True)
            raise

    def payload(self, job: str) -> dict[str, Any] | None:
        """result.json; None where there is none."""
        file = self._at(job, "result.json")
        if file is None:
            return None
        payload: dict[str, Any] = json.loads(file.read_bytes())
        return payload

    def array(self, job: str, name: Array) -> np.ndarray | None:
        """The film, map or pseudo-healthy film; None where there is none."""
        file = self._at(job, f"{name}.npy")
        return None if file is None else np.load(file, allow_pickle=False)

    def objects(self, job: str) -> dict[str, Path]:
        """The objects by their kind: those of DICOM, and "fhir"."""
        if not JOB.fullmatch(job):
            return {}
        files = sorted((self.folder / job / "objects").glob("*"))
        return {f.stem: f for f in files if KIND.fullmatch(f.stem) and f.name == _name(f.stem)}

    def bundle(self, job: str) -> dict[str, Any] | None:
        """What a record system is told; None where it is told nothing."""
        file = self._at(job, "objects/fhir.json")
        return None if file is None else dict(json.loads(file.read_bytes()))

    def remove(self, job: str) -> None:
        """Deletes a job's folder; first its name, so that no half of it is ever read."""
        if JOB.fullmatch(job) and (self.folder / job).is_dir():
            going = self.folder / f".{job}.{secrets.token_hex(4)}.tmp"
            (self.folder / job).rename(going)
            shutil.rmtree(going, ignore_errors=True)

    def clear(self, needed: Callable[[], Container[str]], before: float) -> None:
        """Deletes what a process that was killed has left: folders half made or half deleted, and
        those of jobs that are not `wanted`, older than that time. Raises OSError."""
        folders = [*self.folder.iterdir()]  # a job is made before its folder
        jobs = needed()
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):  # two services may be at it
                if folder.name in jobs or folder.stat().st_mtime > before:
                    continue
                if folder.name.startswith(".") and folder.suffix in (".tmp", ".old"):
                    shutil.rmtree(folder, ignore_errors=True)
                self.remove(folder.name)

    def _at(self, job: str, name: str) -> Path | None:
        file = self.folder / job / name
        return file if JOB.fullmatch(job) and file.is_file() else None
