"""The use case `doctor`: what is installed on this machine, and what works on it.

Each check does the thing itself on a small scale: it decodes a film, reads the weights, writes
into the cache. It says nothing of any film that was ever scored here.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from nofinding import __version__
from nofinding.data.decoding.decode import FilmFile
from nofinding.datasets.cohort import cache_at
from nofinding.errors import UserError
from nofinding.model.pretrained import SHIPPED, model_folder
from nofinding.openmp import BUSY, CHOICES, QUIET
from nofinding.runtime import load_openvino
from nofinding.storage import checkpoint

__all__ = ["Check", "examine"]

TOOLS = {
    "Orthanc": "an archive to try the network with",
    "storescu": "DICOM send, of DCMTK or pynetdicom",
    "echoscu": "DICOM echo, of DCMTK or pynetdicom",
    "dcmdump": "DCMTK: shows a DICOM file",
    "nvidia-smi": "NVIDIA's driver",
}
HASH = 12  # digits of a SHA-256 that are shown
GIB = 2.0**30
LITTLE = 2.0  # GiB: with less, the cache of a large cohort fills the disk


@dataclass(frozen=True)
class Check:
    """What came of one look at the machine."""

    sign: Literal["ok", "-", "BROKEN"]
    """-: not there, and not needed for everything."""
    what: str
    state: str


def examine() -> list[Check]:
    """Every check, in the order that they are to be read."""
    parts: tuple[Callable[[], Iterator[Check]], ...] = (
        _program, _packages, _accelerators, _threads, _decoding, _cache, _weights, _tools,
    )  # fmt: skip
    return [check for part in parts for check in part()]


def _program() -> Iterator[Check]:
    yield Check("ok", "nofinding", f"{__version__}, Python {platform.python_version()}")
    yield Check("ok", "machine", f"{platform.system()} {platform.machine()}")
    yield Check("ok", "torch", torch.__version__)


def _packages() -> Iterator[Check]:
    """The packages that the core and each extra need."""
    try:
        lines = metadata.requires("nofinding") or []
    except metadata.PackageNotFoundError:
        yield Check("-", "packages", "nofinding runs from its source: what it needs is not listed")
        return
    missing: dict[str, list[str]] = {"": []}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = marker.rpartition("extra ==")[2].strip(" \"')") if "extra ==" in marker else ""
        name = _name(requirement)
        absent = missing.setdefault(extra, [])
        if name != "nofinding" and not _is_installed(name):
            absent.append(name)
    for extra, names in missing.items():
        what = f"extra {extra}" if extra else "packages"
        if not names:
            yield Check("ok", what, "installed")
        elif extra:
            hint = f"pip install 'nofinding[{extra}]'"
            yield Check("-", what, f"without {', '.join(names)}: {hint}")
        else:
            yield Check("BROKEN", what, f"without {', '.join(names)}: install nofinding again")


def _name(requirement: str) -> str:
    """The package of "highdicom<0.29,>=0.28.2"."""
    return "".join(c if c.isalnum() or c in "-_." else " " for c in requirement).split()[0]


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _accelerators() -> Iterator[Check]:
    if torch.cuda.is_available():
        try:
            total = float(torch.ones(8, device="cuda").sum())
        except RuntimeError as error:
            yield Check("BROKEN", "GPU", f"is there, but computes nothing: {_first_line(error)}")
        else:
            memory = torch.cuda.get_device_properties(0).total_memory / GIB
            name = torch.cuda.get_device_name(0)
            assert total == 8
            yield Check("ok", "GPU", f"{name}, {memory:.0f} GiB; --accelerator auto takes it")
    else:
        yield Check("-", "GPU", "none that torch can use; films are scored on the CPU")
    if torch.backends.mps.is_available():
        yield Check("ok", "mps", "Apple's GPU: --accelerator mps")
    try:
        devices = load_openvino().Core().available_devices
    except UserError:
        yield Check("-", "OpenVINO", "not installed: pip install 'nofinding[openvino]'")
        return
    sign: Literal["ok", "-"] = "ok" if "CPU" in devices else "-"
    yield Check(sign, "OpenVINO", f"runs on {', '.join(devices)}; --runtime openvino takes CPU")


def _threads() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f"{torch.get_num_threads()} of torch on {cores} cores"
    yield Check("ok", "threads", f"{threads}; --threads changes it")
    settings = {name: os.environ[name] for name in CHOICES if name in os.environ}
    shown = " ".join(f"{name}={value}" for name, value in settings.items())
    ours = settings in (QUIET, BUSY)
    whose = "set by nofinding" if ours else "set by you"
    yield Check("ok", "OpenMP wait", f"{shown} ({whose})")


def _decoding() -> Iterator[Check]:
    """Decodes a film as every film is decoded: in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "film.png"
        Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(file)
        try:
            shape = FilmFile(file)().shape
        except (UserError, OSError) as error:
            yield Check("BROKEN", "decoding", _first_line(error))
            return
    sign: Literal["ok", "BROKEN"] = "ok" if shape == (64, 64) else "BROKEN"
    yield Check(sign, "decoding", "a film is decoded in a process of its own")


def _cache() -> Iterator[Check]:
    try:
        folder = cache_at(None).folder
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free / GIB
    except (UserError, OSError) as error:
        yield Check("BROKEN", "cache", f"cannot be written: {_first_line(error)}")
        return
    little = ": little for a large cohort" if free < LITTLE else ""
    yield Check("ok", "cache", f"{folder}: {free:.1f} GiB free{little}")


def _weights() -> Iterator[Check]:
    """Reads the models inside the package; each file is held to its SHA-256."""
    for name in SHIPPED:
        for stem in ("model", "gate"):
            what = f"weights {name} {stem}"
            try:
                _, meta = checkpoint.load(model_folder(name) / stem)
            except UserError as error:
                yield Check("BROKEN", what, _first_line(error))
            else:
                yield Check("ok", what, f"SHA-256 {meta[checkpoint.TENSORS_HASH][:HASH]}... holds")


def _tools() -> Iterator[Check]:
    """Programs of others. None is needed to score a film."""
    for tool, about in TOOLS.items():
        place = shutil.which(tool)
        yield Check("ok" if place else "-", tool, place or f"not on the PATH ({about})")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
