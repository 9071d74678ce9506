"""How long a thread of OpenMP waits for the others before it sleeps.

While it waits it spins: it keeps a processor core busy with nothing. Where other programs use the
cores, too, the thread that it waits for is often the one that is not running, and the program
slows down many times over. A short spin costs next to nothing where the machine is quiet.
"""

from collections.abc import MutableMapping

__all__ = ["CHOICES", "WAIT", "set_wait"]

WAIT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""For GNU's runtime, turns of its waiting loop: as many as it takes itself where it knows of more
threads than cores, in place of 300,000. For LLVM's and Intel's, milliseconds, in place of 200."""
CHOICES = ("OMP_WAIT_POLICY", *WAIT)
"""A user who has set any of these has chosen."""


def set_wait(environment: MutableMapping[str, str]) -> None:
    """Sets the wait in an environment, unless the user has.

    A runtime reads it when it is loaded: call this before torch is imported. Programs that are
    started later take it over.
    """
    if not any(name in environment for name in CHOICES):
        environment.update(WAIT)
