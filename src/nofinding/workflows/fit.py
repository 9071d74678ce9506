"""fit: films and records in, a calibrated model out."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import EhrField, EhrStats
from nofinding.data.image import Aspect
from nofinding.data.nearest_value import EhrWindow
from nofinding.data.split import hold_out, normals
from nofinding.data.twin_choice import TwinCheck
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.datasets.twin_check import PAIRS, Part, parts_apart, signatures_for
from nofinding.errors import UserError
from nofinding.evaluation.statistics.pixels import normal_threshold
from nofinding.methods import METHODS
from nofinding.methods.base.protocol import Detector, LearnsFromOthers, dimensions_of
from nofinding.model.bundle import Model, load_model, save_model
from nofinding.model.calibration import stored_calibration
from nofinding.model.input_gate import save_model_gate
from nofinding.model.known_films import KnownFilms, save_known_films
from nofinding.progress import is_first_process, say, tracked
from nofinding.ranges import Range, require_ranges
from nofinding.runtime import before_fit, to_device, use_threads
from nofinding.training import TrainingRun
from nofinding.training.state import what_differs
from nofinding.types import Exam

__all__ = [
    "FitOptions",
    "apart",
    "chosen_fields",
    "fit",
    "others_of",
    "set_auxiliary",
]

BATCH = 16  # films scored at once
HELD_OUT = 0.15  # of the training patients, where calibration films are taken from training
THRESHOLD_FILMS = 1000  # calibration films whose maps decide on the threshold of maps


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Learns from the normal films of the train split and writes a calibrated model."""

    films: list[str]
    """Films and records, SOURCE:PATH (see `nofinding sources`); several may be given."""
    out: Path
    """Folder for the model; it must not hold one yet."""
    others: list[str] | None = None
    """Films beside the normal ones, SOURCE:PATH, for methods that learn from unlabelled or diseased
    ones; default: those films of split train that are not known to be normal."""
    preset: str = "small"
    """Named set of the method's options; single ones are changed by --method.OPTION."""
    seed: int = 0
    """Of the first weights, the order of films and all noise."""
    resume: bool = False
    """Go on where an interrupted run in the same folder stopped."""
    fields: list[str] | None = None
    """Record fields to use; default: every field recorded for some training film."""
    fields_file: Path | None = None
    """YAML file with further record fields (docs/ehr.md)."""
    balance: Annotated[int, Range(1)] = 1
    """Repeat the films of small sources, this often at most, so that a large one does not drown
    them."""
    aspect: Aspect = "pad"
    """pad keeps the film's proportions; squash is what the paper does."""
    calibrate: Literal["auto", "val", "train", "none"] = "auto"
    """Normal films for the p-value: the val split, or 15 % of the training patients held out."""
    twins: TwinCheck = "refuse"
    """Calibration films that are altered copies of training films (docs/twins.md): refuse stops;
    report goes on, and lists the pairs in the folder; skip does not look."""
    gate: Literal["auto", "none"] = "auto"
    """Fit an input gate (docs/gate.md): auto does, from 50 training normals on."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    devices: Annotated[int, Range(1)] = 1
    """Processes, one a device; more than 1 needs torchrun."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: all."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


def fit(
    method: str, config: Any, options: FitOptions, cohort: Cohort | None = None
) -> Model | None:
    """Fits a method and writes the model folder; None in all but torchrun's first process.

    `cohort`: the films of `options.films`, or a part of them, where they were read already.
    Raises UserError for anything wrong with the films, the record or the folder, before
    training starts.
    """
    use_threads(options.threads)
    if (options.out / "model.json").exists():
        if options.resume:
            return _finished(method, config, options)
        raise UserError(f"--out {options.out}: holds a model already; choose another folder")
    _require_writable(options.out)
    fields = known_fields(options.fields_file)
    cohort = cohort or Cohort(options.films, fields)
    window = cohort.ehr_window or EhrWindow()
    train, calibration, origin = _parts(cohort, options)
    stats = EhrStats.of(train, chosen_fields(cohort, train, fields, options.fields))
    detector = METHODS[method](config, stats)
    cache = cache_at(options.cache)
    size = detector.image_size
    repeated = cohort.balanced(train, options.balance)
    dimensions = dimensions_of(detector)
    training = Films(repeated, stats, size, options.aspect, cache, dimensions)
    calibrating = Films(calibration, stats, size, options.aspect, cache, dimensions)
    others = _others(detector, cohort, options, fields)
    hashes = apart(training, calibrating, "calibration")
    if others:
        beside = Films(others, stats, size, options.aspect, cache, dimensions)
        apart(beside, calibrating, "calibration")
        set_auxiliary(detector, beside)
    known = _known(train, others, calibration, options, cache, size) if dimensions == 2 else None
    used = ", ".join(detector.fields_used) or "none"
    say(f"{len(train)} normal films to learn from, {len(calibration)} to calibrate; record: {used}")
    job = TrainingRun(
        folder=options.out / "training",
        resume=options.resume,
        accelerator=options.accelerator,
        devices=options.devices,
        about={"method": method, "config": asdict(config), "films": _digest(hashes)},
    )
    before_fit(detector, options.accelerator)
    start = time.perf_counter()
    detector.fit(training, seed=options.seed, job=job)
    minutes = (time.perf_counter() - start) / 60
    if not is_first_process():
        return None  # under torchrun all processes learn, and the first one writes
    to_device(detector, options.accelerator)
    scores, threshold = _calibrated(detector, calibrating, options.seed)
    gate: dict[str, Any] = {"fitted": False, "why": "--gate none"}
    if options.gate == "auto" and dimensions != 2:
        say("no input gate: it looks at films, and these are volumes")
        gate = {"fitted": False, "why": "volumes"}
    elif options.gate == "auto":
        gate = save_model_gate(options.out, train, calibration, scores, cache, options.seed)
    twins: dict[str, Any] = {"check": "skip"}
    if known is not None:
        twins = known[0] | save_known_films(options.out, known[1])
    meta = {
        "preset": options.preset,
        "seed": options.seed,
        "source": cohort.name,
        "image_size": size,
        "aspect": options.aspect,
        "ehr_window": window.to_json(),
        "data_fingerprint": cohort.fingerprint(),
        "counts": {"train normals": len(train), "calibration normals": len(calibration)},
        "training_pixels": hashes,
        "calibration": stored_calibration(scores, calibration, fields, origin),
        "gate": gate,
        "twins": twins,
        "map_threshold": threshold,
        "fit_minutes": minutes,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    save_model(options.out, detector, meta)
    say(f"{options.out}: {method} fitted in {minutes:.1f} minutes")
    return load_model(options.out)


def _finished(method: str, config: Any, options: FitOptions) -> Model:
    """The model that is there. Raises UserError, naming what differs, where another was asked for:
    method, options, seed, films, record."""
    model = load_model(options.out)
    fields = known_fields(options.fields_file)
    cohort = Cohort(options.films, fields, look=False)
    train, _, origin = _parts(cohort, options)
    meta = model.meta
    there = {
        "method": meta["method"],
        "config": asdict(model.detector.config),
        "seed": meta.get("seed"),
        "aspect": meta["aspect"],
        "films": meta.get("data_fingerprint"),
        "fields": [field.name for field in model.detector.stats.fields],
        "calibration": meta["calibration"]["from"],
    }
    here = {
        "method": method,
        "config": asdict(config),
        "seed": options.seed,
        "aspect": options.aspect,
        "films": cohort.fingerprint(),
        "fields": [f.name for f in chosen_fields(cohort, train, fields, options.fields)],
        "calibration": origin,
    }
    if others := what_differs(json.loads(json.dumps(there)), json.loads(json.dumps(here))):
        raise UserError(
            f"--out {options.out}: holds the finished model of another run ({others}); give what "
            "it had, or another folder"
        )
    say(f"{options.out} is finished already")
    return model


def _require_writable(out: Path) -> None:
    """Raises UserError where no folder can be made at `out`, before hours are spent."""
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"--out {out}: {nearest.name} is a file; give a folder")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"--out {out}: no permission to write there")


def _digest(hashes: list[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _parts(cohort: Cohort, options: FitOptions) -> tuple[list[Exam], list[Exam], str]:
    """Normal films to learn from and to calibrate on, and where the latter come from."""
    exams = cohort.exams
    if all(r.findings is None for r in exams):
        raise UserError(
            f"{cohort.name}: no film is labelled, and only films known to be normal may be learnt "
            "from; add a column findings, empty for a normal film"
        )
    train = normals(exams, "train")
    if not train:
        here = ", ".join(sorted({r.split or "none" for r in exams}))
        raise UserError(
            f"{cohort.name}: no normal film (empty findings) in split train; splits: {here}"
        )
    choice = options.calibrate
    val = normals(exams, "val")
    if choice == "val" and not val:
        raise UserError(f"{cohort.name}: --calibrate val, but split val has no normal film")
    if choice == "none":
        return train, [], "none"
    if choice == "val" or (choice == "auto" and val):
        return train, val, "val split"
    rest, held = hold_out(train, HELD_OUT, options.seed)
    return rest, held, "train split, patients held out"


def chosen_fields(
    cohort: Cohort, train: list[Exam], fields: dict[str, EhrField], names: list[str] | None
) -> list[EhrField]:
    """The record fields to learn: those named, or all that some training film has."""
    recorded = {name for record in train for name in record.ehr}
    if names is None:
        return [field for name, field in fields.items() if name in recorded]
    for name in names:
        if name not in fields:
            raise UserError(f"--fields {name}: not one of {', '.join(fields)}")
        if name not in cohort.offers:
            offered = ", ".join(cohort.offers) or "none"
            raise UserError(f"--fields {name}: not offered by {cohort.name}, which has {offered}")
        if name not in recorded:
            raise UserError(f"--fields {name}: known for none of the {len(train)} training films")
    return [fields[name] for name in fields if name in names]


def _others(
    detector: Detector, cohort: Cohort, options: FitOptions, fields: dict[str, EhrField]
) -> list[Exam]:
    """The films beside the normal ones that this method learns from; none for most methods."""
    if not isinstance(detector, LearnsFromOthers):
        if options.others:
            raise UserError(f"--others: {detector.name} learns from normal films alone")
        return []
    if options.others:
        exams = Cohort(options.others, fields).exams
        patients = {r.patient_id for r in cohort.exams if r.split != "train"}
        both = sorted({r.patient_id for r in exams} & patients)
        if both:
            raise UserError(
                f"--others: {len(both)} of their patients are in split val or test of --films, for "
                f"example patient_id {both[0]!r}; a patient must be in one part"
            )
    else:
        exams = [r for r in cohort.exams if r.split == "train"]
    others = others_of(detector, exams, given=bool(options.others))
    if not others:
        raise UserError(
            f"{detector.name}: learns from {detector.OTHERS} films, too, and split train has none; "
            "name some by --others SOURCE:PATH"
        )
    say(f"{len(others)} {detector.OTHERS} films beside them")
    return others


def others_of(detector: LearnsFromOthers, exams: Sequence[Exam], *, given: bool) -> list[Exam]:
    """Those of the records that the method may learn from beside normal films.

    "diseased": the films with a finding. "unlabelled": all of them where they were given for
    that (`given`), else those not known to be normal; what they show is never told.
    """
    if detector.OTHERS == "diseased":
        return [r for r in exams if r.findings]
    return [r for r in exams if given or r.findings != frozenset()]


def set_auxiliary(detector: Detector, others: Films) -> None:
    """Shows the detector those films, if it is one that learns from some."""
    if isinstance(detector, LearnsFromOthers):
        detector.set_auxiliary(others)


def _known(
    train: list[Exam],
    others: list[Exam],
    calibration: list[Exam],
    options: FitOptions,
    cache: FilmCache,
    size: int,
) -> tuple[dict[str, Any], KnownFilms] | None:
    """(what is noted of the check, what the model keeps of its films); None: there was no check.

    Each film is decoded here once, for the method, too. Raises UserError where a calibration film
    is a twin of one that is learnt from, unless --twins says otherwise.
    """
    if options.twins == "skip":
        return None
    learnt = [
        Part("training", exams, signatures_for(exams, cache, (size, options.aspect)))
        for exams in (train, others)
    ]
    kept_apart = signatures_for(calibration, cache, (size, options.aspect))
    rows = parts_apart(
        learnt, Part("calibration", calibration, kept_apart), options.twins, options.out / PAIRS
    )
    known = KnownFilms.of([part.signatures for part in learnt], kept_apart)
    return {"check": options.twins, "pairs": len(rows)}, known


def apart(training: Films, calibration: Films, what: str) -> list[str]:
    """Pixel hashes of the training films. Raises UserError where a film that is kept from
    training has one; `what` it is kept for: calibration, evaluation."""
    say(f"reading {len(training) + len(calibration)} films")
    hashes = [training.pixel_hash(i) for i in tracked(range(len(training)), "reading films")]
    learnt = set(hashes)
    twice = [
        image_id
        for i, image_id in enumerate(calibration.ids)
        if calibration.pixel_hash(i) in learnt
    ]
    if twice:
        raise UserError(
            f"{len(twice)} of {len(calibration)} {what} films have the pixels of a training "
            f"film, for example image_id {twice[0]!r}; a film must be in one part"
        )
    return sorted(learnt)


def _calibrated(
    detector: Detector, films: Films, seed: int
) -> tuple[Float[np.ndarray, " n"], float | None]:
    """Scores of the calibration films, and the map value that 99 % of their pixels stay below: of
    all films, or of about THRESHOLD_FILMS spread over them, so that not all maps are held."""
    batches_of_scores, maps = [np.empty(0)], []
    step = max(1, -(-len(films) // THRESHOLD_FILMS))
    for start in tracked(range(0, len(films), BATCH), "calibrating"):
        batch = films.batch(range(start, min(start + BATCH, len(films))))
        scores = detector.score(batch, seed=seed)
        batches_of_scores.append(scores.score.double().numpy())
        if scores.anomaly_map is not None:
            some = range(-start % step, len(batch.ids), step)
            maps += [scores.anomaly_map[i, 0].numpy().copy() for i in some]
    threshold = normal_threshold([partial(np.asarray, m) for m in maps]) if maps else None
    return np.concatenate(batches_of_scores), threshold
