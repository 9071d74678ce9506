"""The options of `nofinding score`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from nofinding.model.calibration import Calibration
from nofinding.model.input_gate import GateMode
from nofinding.model.pretrained import AUTO
from nofinding.ranges import Range, require_ranges
from nofinding.scoring.batch_scorer import Unreadable

__all__ = ["ScoreOptions"]


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Scores films: how far each is from the normal ones, where, and with what confidence."""

    out: Path
    """Folder for scores.csv, maps, pseudo-healthy films and run.json."""
    model: str = AUTO
    """Folder of a fitted model, or one inside the package: adult or paediatric (docs/weights.md).
    auto: paediatric for patients under 10 years, else adult."""
    films: list[str] = field(default_factory=list)
    """Films and records, SOURCE:PATH; or name single FILEs instead."""
    ehr: list[str] = field(default_factory=list)
    """For single FILEs, what is known of the patient: age=63 sex=M view=PA "weight=180 lb"."""
    record: str | None = None
    """For single DICOM FILEs: a FHIR server's base address, or a folder of FHIR files (fhir:URL,
    fhir:FOLDER), which fills in what neither --ehr nor the header says (docs/clinical.md)."""
    zone: str | None = None
    """Time zone of the films' clocks, Europe/Berlin for example; default: this machine's."""
    patient_system: str | None = None
    """Identifier system that the films' patient ids are of in --record; default: any."""
    split: Literal["train", "val", "test"] | None = None
    """Only this part of the source."""
    seed: int = 0
    """Of the noise, drawn for each film by itself."""
    batch_size: Annotated[int, Range(1)] = 16
    """Films at once; changes speed, never a score."""
    maps: bool = True
    """Write maps and pseudo-healthy films."""
    missing_fields: Literal["refuse", "mask"] = "refuse"
    """If the source has no column for a field the model was fitted with."""
    calibration: Calibration | None = None
    """Which normal films p is against (docs/calibration.md): all (plain); those of the same sex,
    age band and view (mondrian); or all, weighted to the records of these films (weighted).
    Default: plain, but mondrian for the shipped adult model."""
    gate: GateMode = "refuse"
    """What is no upright frontal chest film: leave it unscored; score and flag it; do not look."""
    gate_from: Path | None = None
    """Folder of another gate (nofinding fit-gate), in place of the model's own."""
    unreadable: Unreadable = "stop"
    """What to do where a film cannot be read: stop; or go on, and list it in unreadable.csv."""
    shard: str | None = None
    """Only a part of the films, K/N with K from 0 to N - 1: the last part that is done joins all of
    them. Default: all films; under torchrun RANK/WORLD_SIZE."""
    engine: Literal["local", "ray"] = "local"
    """Where batches are scored. ray: on a Ray cluster, needs the extra nofinding[ray]."""
    address: str | None = None
    """Of the Ray cluster; default: the one that this machine belongs to, else a new one on it."""
    workers: Annotated[int, Range(0)] = 0
    """Processes on the Ray cluster, each with a copy of the model; 0: one a core, or a GPU."""
    overwrite: bool = False
    """Replace the scores in the folder, if there are some, and drop unfinished ones."""
    fields_file: Path | None = None
    """YAML file with further record fields, as in fit."""
    rule: str | None = None
    """Detection rule of the method, from the same weights; default: the model's own. Another one
    than the model was calibrated with gives no p-value."""
    steps: Annotated[int, Range(0)] = 0
    """Kept levels of the diffusion, the noise level keeping its share; 0: the model's own."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks; everything else stays float32."""
    runtime: Literal["torch", "openvino"] = "torch"
    """What runs the networks. openvino: CPU only, needs the extra nofinding[openvino]."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: all."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)
