"""Small copies of datasets with phantom films: what `nofinding example` writes."""

from collections.abc import Callable

from nofinding.datasets.examples.chexpert import write_chexpert
from nofinding.datasets.examples.dicom import write_dicom
from nofinding.datasets.examples.fhir import write_fhir
from nofinding.datasets.examples.kermany import write_kermany
from nofinding.datasets.examples.mimic_cxr import write_mimic_cxr
from nofinding.datasets.examples.nih import write_nih
from nofinding.datasets.examples.omop import write_omop
from nofinding.datasets.examples.padchest import write_padchest
from nofinding.datasets.examples.rsna import write_rsna
from nofinding.datasets.examples.vindr import write_vindr
from nofinding.datasets.examples.writing import Copy

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
