"""Small copies of datasets with phantom films: what `nofinding example` writes."""

from collections.abc import Callable

from nofinding.sources.examples.chexpert import write_chexpert
from nofinding.sources.examples.dicom import write_dicom
from nofinding.sources.examples.fhir import write_fhir
from nofinding.sources.examples.kermany import write_kermany
from nofinding.sources.examples.mimic_cxr import write_mimic_cxr
from nofinding.sources.examples.nih import write_nih
from nofinding.sources.examples.omop import write_omop
from nofinding.sources.examples.padchest import write_padchest
from nofinding.sources.examples.rsna import write_rsna
from nofinding.sources.examples.vindr import write_vindr
from nofinding.sources.examples.writing import Copy

__all__ = ["EXAMPLES", "Copy"]

EXAMPLES: dict[str, Callable[[Copy], None]] = {
    "nih": write_nih,
    "mimic-cxr": write_mimic_cxr,
    "chexpert": write_chexpert,
    "kermany": write_kermany,
    "rsna": write_rsna,
    "vindr": write_vindr,
    "padchest": write_padchest,
    "dicom": write_dicom,
    "omop": write_omop,
    "fhir": write_fhir,
}
