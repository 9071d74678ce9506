"""Small copies of datasets with phantom films: what `nofinding example` writes."""

from collections.abc import Callable

from nofinding.sources.examples.chexpert import write_chexpert
from nofinding.sources.examples.kermany import write_kermany
from nofinding.sources.examples.nih import write_nih
from nofinding.sources.examples.writing import Copy

__all__ = ["EXAMPLES", "Copy"]

EXAMPLES: dict[str, Callable[[Copy], None]] = {
    "nih": write_nih,
    "chexpert": write_chexpert,
    "kermany": write_kermany,
}
