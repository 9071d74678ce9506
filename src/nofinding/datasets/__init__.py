"""Where records come from. Adding a dataset is one file, and one line here.

A source's module is imported when the source is asked for: some need a database or Parquet.
"""

from collections.abc import MutableMapping

from nofinding.datasets.protocol import Source
from nofinding.datasets.synthetic import Synthetic
from nofinding.lazy_mapping import LazyMapping

__all__ = ["PUBLISHERS", "SOURCES", "Source"]

OWN = {
    "phantom": "phantom:PHANTOM",
    "table": "local.table:TABLE",
    "cohort": "build.cohort_folder:COHORT",
    "nifti": "local.nifti:NIFTI",
}
PUBLISHERS = {
    "nih": "public.nih:NIH",
    "mimic-cxr": "public.mimic_cxr:MIMIC_CXR",
    "chexpert": "public.chexpert:CHEXPERT",
    "kermany": "public.kermany:KERMANY",
    "rsna": "public.rsna:RSNA",
    "vindr": "public.vindr:VINDR",
    "padchest": "public.padchest:PADCHEST",
    "dicom": "hospital.dicom:DICOM",
    "omop": "hospital.omop:OMOP",
    "fhir": "hospital.fhir.source:FHIR",
}
"""Each as its publisher ships it."""
PLACES = {name: f"{__name__}.{place}" for name, place in (OWN | PUBLISHERS).items()}
SOURCES: MutableMapping[str, Source] = LazyMapping(PLACES)
SOURCES["synthetic"] = Synthetic(
    of=LazyMapping({name: PLACES[name] for name in ("phantom", "table")})
)
