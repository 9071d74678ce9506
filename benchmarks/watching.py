"""What a command costs: seconds, and the most memory that it and its children held at once."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import nofinding

__all__ = ["Cost", "machine", "memory_of", "run"]

INTERVAL = 0.25  # seconds between two looks at the memory


@dataclass(frozen=True)
class Cost:
    """Of one command."""

    seconds: float
    mib: float
    """Peak of the sum over the process and its children, each shared page counted once."""
    status: int
    said: str
    """What it said on stderr."""


def memory_of(root: int) -> float:
    """MiB that a process and all its descendants hold (Pss, which splits shared pages)."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    tree, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in tree} - tree
        tree, grown = tree | more, bool(more)
    return sum(_pss(pid) for pid in tree) / 1024


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def run(
    arguments: Sequence[object], environment: dict[str, str], kill_after: float | None = None
) -> Cost:
    """Runs `nofinding ARGUMENTS`; kills it (SIGKILL) after some seconds if told to."""
    package = str(Path(nofinding.__file__).parents[1])
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from nofinding.cli import main; sys.exit(main())"]
        + [str(a) for a in arguments],
        env={**os.environ, "PYTHONPATH": package, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        if kill_after is not None and time.perf_counter() - start > kill_after:
            process.kill()
        time.sleep(INTERVAL)
    assert process.stderr is not None
    return Cost(time.perf_counter() - start, peak, process.returncode, process.stderr.read())


def machine() -> str:
    """Cores, processor and versions, for the top of a page of results."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "processor")
    packages = ", ".join(f"{p} {version(p)}" for p in ("numpy", "torch", "pydicom"))
    decoder = version("pylibjpeg-openjpeg")
    return (
        f"{os.cpu_count()} cores ({name}), Python {platform.python_version()}, {packages}, "
        f"pylibjpeg-openjpeg {decoder}"
    )
