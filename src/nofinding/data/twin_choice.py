"""What becomes of altered copies of one film in two parts. Imports nothing heavy, since options
use it."""

from typing import Literal, TypeAlias

__all__ = ["TwinCheck"]

TwinCheck: TypeAlias = Literal["refuse", "report", "skip"]
