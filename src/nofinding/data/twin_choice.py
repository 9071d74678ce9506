"""What becomes of films of two parts that are one film in other clothes. Imports nothing heavy, for
options use it."""

from typing import Literal, TypeAlias

__all__ = ["TwinCheck"]

TwinCheck: TypeAlias = Literal["refuse", "report", "skip"]
