"""Where records come from. `SOURCES` is a plain dict: adding a dataset is one file, one line."""

from nofinding.datasets.build.cohort_folder import COHORT
from nofinding.datasets.hospital.dicom import DICOM
from nofinding.datasets.hospital.fhir.source import FHIR
from nofinding.datasets.hospital.omop import OMOP
from nofinding.datasets.local.nifti import NIFTI
from nofinding.datasets.local.table import TABLE
from nofinding.datasets.phantom import PHANTOM
from nofinding.datasets.protocol import Source
from nofinding.datasets.public.chexpert import CHEXPERT
from nofinding.datasets.public.kermany import KERMANY
from nofinding.datasets.public.mimic_cxr import MIMIC_CXR
from nofinding.datasets.public.nih import NIH
from nofinding.datasets.public.padchest import PADCHEST
from nofinding.datasets.public.rsna import RSNA
from nofinding.datasets.public.vindr import VINDR
from nofinding.datasets.synthetic import Synthetic

__all__ = ["SOURCES", "Source"]

SOURCES: dict[str, Source] = {source.name: source for source in (PHANTOM, TABLE, COHORT, NIFTI)}
# Each as its publisher ships it.
PUBLISHERS = (
    NIH,
    MIMIC_CXR,
    CHEXPERT,
    KERMANY,
    RSNA,
    VINDR,
    PADCHEST,
    DICOM,
    OMOP,
    FHIR,
)
SOURCES |= {source.name: source for source in PUBLISHERS}
SOURCES["synthetic"] = Synthetic(of={"phantom": PHANTOM, "table": TABLE})  # over films
