"""import-official: a checkpoint of the authors' program in, a model of ours out."""

from dataclasses import dataclass, replace
from pathlib import Path

from nofinding.data.ehr import EhrStats
from nofinding.data.split import normals
from nofinding.datasets.cohort import Cohort, known_fields
from nofinding.errors import UserError
from nofinding.methods.diff3m import official_checkpoint
from nofinding.model.bundle import Model, load_model, save_model
from nofinding.progress import say

__all__ = ["ImportOptions", "import_official"]


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Turns a checkpoint of the published Diff3M program into a model of this one."""

    out: Path
    """Folder for the model; it must not hold one yet."""
    films: list[str] | None = None
    """SOURCE:PATH whose train normals give the mean and spread of the five measurements, which
    no published checkpoint contains. Without it the measurements are masked."""
    noise_level: int | None = None
    """L, counted in kept levels; default: 400 of 1000 for MIMIC-CXR, 600 for CheXpert."""
    image_size: int | None = None
    """Side of the films in pixels, where the checkpoint does not say; default 256."""
    heads: int | None = None
    """Attention heads, where the checkpoint does not say; default 1."""


def import_official(checkpoint: Path, options: ImportOptions) -> Model:
    """Writes the model folder. Raises UserError for a file that is not such a checkpoint."""
    if (options.out / "model.json").exists():
        raise UserError(f"--out {options.out}: holds a model already; choose another folder")
    tensors, flags = official_checkpoint.read_checkpoint(checkpoint)
    asked = {"image_size": options.image_size, "num_heads": options.heads}
    flags = {**{k: v for k, v in asked.items() if v is not None}, **flags}
    config = official_checkpoint.config_of(tensors, flags)
    if options.noise_level is not None:
        config = replace(config, noise_level=options.noise_level)
    stats, source = official_checkpoint.unstandardised(), "none"
    if options.films:
        stats, source = _standardised(options.films)
    elif config.record == "full":
        say("no --films: the record is age, sex and view; the five measurements are masked")
    detector = official_checkpoint.detector_of(tensors, config, stats)
    meta = {
        "preset": "official",
        "source": f"imported from {checkpoint.name}; statistics: {source}",
        "image_size": config.image_size,
        "aspect": "squash",
        "counts": {},
        "calibration": {"from": "none", "scores": [], "ids": []},
        "gate": {"fitted": False, "why": "imported"},
    }
    save_model(options.out, detector, meta)
    say(f"{options.out}: imported, {sum(t.numel() for t in tensors.values()) / 1e6:.1f} M numbers")
    return load_model(options.out)


def _standardised(specs: list[str]) -> tuple[EhrStats, str]:
    """Statistics of the training normals, but age as the program's network takes it."""
    cohort = Cohort(specs, known_fields(None))
    train = normals(cohort.exams, "train")
    if not train:
        raise UserError(f"{cohort.name}: no normal film in split train to take statistics from")
    raw = official_checkpoint.unstandardised()
    own = EhrStats.of(train, raw.fields)
    at = next(i for i, f in enumerate(raw.fields) if f.name == "age")
    mean, std = list(own.mean), list(own.std)
    mean[at], std[at] = raw.mean[at], raw.std[at]
    known = tuple(map(max, raw.known, own.known))  # demographics need no statistics
    return EhrStats(raw.fields, tuple(mean), tuple(std), known), cohort.name
