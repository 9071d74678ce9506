"""Where records come from. `SOURCES` is a plain dict: adding a dataset is one file, one line."""

from nofinding.sources.chexpert import CHEXPERT
from nofinding.sources.cohort import COHORT
from nofinding.sources.dicom import DICOM
from nofinding.sources.fhir import FHIR
from nofinding.sources.kermany import KERMANY
from nofinding.sources.mimic_cxr import MIMIC_CXR
from nofinding.sources.nifti import NIFTI
from nofinding.sources.nih import NIH
from nofinding.sources.omop import OMOP
from nofinding.sources.padchest import PADCHEST
from nofinding.sources.phantom import PHANTOM
from nofinding.sources.protocol import Source
from nofinding.sources.rsna import RSNA
from nofinding.sources.synthetic import Synthetic
from nofinding.sources.table import TABLE
from nofinding.sources.vindr import VINDR

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
