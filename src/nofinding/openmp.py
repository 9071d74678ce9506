"""How long a thread of OpenMP waits for the others before it sleeps.

While it waits it spins: it keeps a processor core busy with nothing. Where other programs use the
cores, too, the thread that it waits for is often the one that is not running, and the program
slows down many times over; there it sleeps at once. On a quiet machine waking up costs more than a
short spin (benchmarks/results/busy.md has both).
"""

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

__all__ = ["BUSY", "CHOICES", "QUIET", "others_running", "set_wait", "wait_beside"]

QUIET = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""For GNU's runtime, turns of its waiting loop, in place of 300,000: less than a millisecond. For
LLVM's and Intel's, milliseconds, in place of 200."""
BUSY = {"GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
CHOICES = ("OMP_WAIT_POLICY", *QUIET)
"""A user who has set any of these has chosen."""
STATUS = Path("/proc/stat")
LOOKS, BETWEEN = 3, 0.002  # a program that runs for an instant is no neighbour; seconds


def others_running(status: Path = STATUS) -> int:
    """Programs' threads that run or wait for a core all the while, but this one; 0 where the system
    does not say."""
    counts = []
    for look in range(LOOKS):
        time.sleep(BETWEEN if look else 0)
        counts.append(_running(status))
    return max(min(counts) - 1, 0)


def _running(status: Path) -> int:
    try:
        lines = status.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("procs_running ")), 0)


def wait_beside(others: int, threads: int, cores: int) -> dict[str, str]:
    """What to set for a program of so many threads where `others` run on a machine of `cores`."""
    return BUSY if others + threads > cores else QUIET


def set_wait(environment: MutableMapping[str, str]) -> None:
    """Sets the wait in an environment, unless the user has.

    A runtime reads it when it is loaded: call this before torch is imported. Programs that are
    started later take it over.
    """
    if any(name in environment for name in CHOICES):
        return
    cores = os.cpu_count() or 1
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    environment.update(wait_beside(others_running(), ours, cores))
