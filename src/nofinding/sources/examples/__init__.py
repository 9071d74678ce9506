"""Small copies of datasets with phantom films: what `nofinding example` writes."""

from collections.abc import Callable

from nofinding.sources.examples.dicom import write_dicom
from nofinding.sources.examples.fhir import write_fhir
from nofinding.sources.examples.nih import write_nih
from nofinding.sources.examples.omop import write_omop
from nofinding.sources.examples.writing import Copy

__all__ = ["EXAMPLES", "Copy"]

EXAMPLES: dict[str, Callable[[Copy], None]] = {
    "nih": write_nih,
    "dicom": write_dicom,
    "omop": write_omop,
    "fhir": write_fhir,
}
