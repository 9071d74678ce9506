"""The options of `nofinding study`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from nofinding.errors import UserError
from nofinding.model.calibration import Calibration
from nofinding.model.input_gate import GateMode
from nofinding.model.pretrained import AUTO
from nofinding.ranges import Range, require_ranges

__all__ = ["StudyOptions"]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Scores studies in an archive (DICOMweb) and stores the results beside their films."""

    archive: str
    """Base address of the archive's DICOMweb services: https://archive.example/dicom-web"""
    out: Path
    """Folder for scores and DICOM objects, a folder by study in it, under pseudonyms. What is there
    already is not done again."""
    study: str | None = None
    """Study Instance UID of the one study to score."""
    date: str | None = None
    """Score all studies of a day or of a range of days: 20240101-20240131."""
    patient: str | None = None
    """Score all studies of the patient with this PatientID; with --date those of these days."""
    login: Path | None = None
    """File with "bearer TOKEN" or "basic USER:PASSWORD" in it, readable by its owner alone;
    default: what NOFINDING_DICOMWEB_TOKEN or NOFINDING_DICOMWEB_BASIC (USER:PASSWORD) says."""
    ca: Path | None = None
    """File of certificates (PEM) to trust in place of the machine's own, such as a hospital's."""
    store: bool = True
    """Store the objects: in the archive, or at --peer."""
    peer: str | None = None
    """Send them to this application entity by C-STORE instead: TITLE@host:port."""
    title: str = "NOFINDING"
    """Our application entity title, for --peer."""
    segmentation: bool = False
    """Write a segmentation of the map above its threshold, too."""
    model: str = AUTO
    """Folder of a fitted model, or one inside the package: adult or paediatric; auto: by age."""
    ehr: list[str] = field(default_factory=list)
    """With --study or --patient, what is known of the patient beside what the films' headers say:
    age=63 "weight=180 lb"."""
    calibration: Calibration | None = None
    """Which normal films p is against, as in score."""
    gate: GateMode = "refuse"
    """What is no upright frontal chest film: leave it unscored; score and flag it; do not look."""
    key: Path | None = None
    """File with the secret that pseudonyms are made by; default: ~/.config/nofinding/pseudonym.key,
    made on first use."""
    keep_films: bool = False
    """Keep the fetched films in the study's folder; else they are removed once they are scored."""
    most: Annotated[int, Range(1)] = 32
    """A study with more CR and DX films is not scored."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: all."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)
        if self.study is not None and (self.date is not None or self.patient is not None):
            raise UserError("--study names one study: leave --date and --patient out")
        if self.study is None and self.date is None and self.patient is None:
            raise UserError("name a study by --study, or studies by --date or --patient")
        if self.ehr and self.study is None and self.patient is None:
            raise UserError("--ehr is of one patient: give --study or --patient")
        if self.peer is not None and not self.store:
            raise UserError("--peer goes with --store")
