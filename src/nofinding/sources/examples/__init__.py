"""Small copies of datasets with phantom films: what `nofinding example` writes."""

from collections.abc import Callable

from nofinding.sources.examples.mimic_cxr import write_mimic_cxr
from nofinding.sources.examples.nih import write_nih
from nofinding.sources.examples.writing import Copy

__all__ = ["EXAMPLES", "Copy"]

EXAMPLES: dict[str, Callable[[Copy], None]] = {
    "nih": write_nih,
    "mimic-cxr": write_mimic_cxr,
}
