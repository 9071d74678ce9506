"""A service's home with a small model and films to send, for the tests of the service."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nofinding.cli import main
from nofinding.datasets.examples import Copy
from nofinding.datasets.local.single_files import NOTHING, Known
from nofinding.service.intake.offer import offer
from nofinding.service.options import ServiceOptions
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import Accepted

PHANTOM = "phantom:train=12,val=8,test=0,abnormal=0,size=64"


def small_model(folder: Path, method: str = "ae") -> Path:
    """A model that has learned next to nothing, for films of 64 pixels. `diff3m` uses a record."""
    more = ["--method.base-steps", "2"] if method == "diff3m" else []
    fit = ["fit", method, "--films", PHANTOM, "--preset", "tiny", "--out", str(folder)]
    assert main([*fit, "--method.train.steps", "2", *more]) == 0
    return folder


def tags(number: int, series: int = 0) -> dict[str, str]:
    """Of the study of one phantom patient."""
    root = f"1.2.826.0.1.3680043.8.498.{number + 1}"
    return {
        "StudyInstanceUID": root,
        "SeriesInstanceUID": f"{root}.1",
        "SOPInstanceUID": f"{root}.1.{series + 1}",
        "PatientID": f"P-{number}",
    }


def dicom_film(folder: Path, number: int, size: int = 64, **more: str) -> Path:
    """A DICOM film of a phantom patient; `more` are further elements of its header."""
    copy = Copy.__new__(Copy)  # into a folder that holds other films, too
    for name, value in {"root": folder, "patients": 64, "seed": 0, "size": size}.items():
        object.__setattr__(copy, name, value)
    return copy.dicom(f"film-{number}.dcm", copy.film(number), **(tags(number) | more))


def options_for(tmp_path: Path, model: Path, **more: object) -> ServiceOptions:
    """A quick service under `tmp_path`."""
    given: dict[str, object] = {
        "home": tmp_path / "home",
        "model": str(model),
        "wait": 0.0,
        "keep_free": 0.0,
        "threads": 1,
    }
    return ServiceOptions(**(given | more))  # type: ignore[arg-type]


def send(home: Home, film: Path, record: Mapping[str, float] | None = None) -> Accepted:
    """Puts a file into the spool and the queue, as an intake does."""
    received = home.spool.put(film.name, film.read_bytes(), film.suffix)
    return offer(home, received, record)


def slow(path: Path, identity: Mapping[str, Any]) -> Known:
    """Hangs over one film for ever."""
    if b"HANGS" in path.read_bytes():
        time.sleep(1000)
    return NOTHING


def deadly(path: Path, identity: Mapping[str, Any]) -> Known:
    """One film kills."""
    if b"KILLS" in path.read_bytes():
        os.kill(os.getpid(), signal.SIGKILL)
    return NOTHING


def until(what: Callable[[], object], seconds: float = 60) -> None:
    """Waits for it."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)
