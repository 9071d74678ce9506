"""score: a model and films in; scores.csv, maps, pseudo-healthy films and run.json out."""

import csv
import io
import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch.utils.flop_counter import FlopCounterMode

from nofinding import checkpoint
from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.evaluate.calibration import hashed
from nofinding.evaluate.table import TRAINED_ON
from nofinding.methods.protocol import dimensions_of
from nofinding.run.calibrating import Calibration, Calibrator
from nofinding.run.cohort import Cohort, cache_at, known_fields
from nofinding.run.fitting import to_device, use_threads
from nofinding.run.gating import Gatekeeper, GateMode
from nofinding.run.model import Model, load_model, with_rule
from nofinding.run.parity import parity_of, use_runtime
from nofinding.run.progress import say, tracked
from nofinding.run.shipped import (
    AUTO,
    SHIPPED,
    about_age,
    calibration_of,
    model_folder,
    shipped_for,
)
from nofinding.runtime import Runtime
from nofinding.sources.files import file_records
from nofinding.types import Record, Scores, Split

__all__ = ["ScoreOptions", "move_into_place", "score"]

OURS = frozenset({"scores.csv", "run.json", "maps", "normal"})  # what `score` writes
UNFIT = frozenset('/\\\0"')  # characters that an image_id may not have: it names files


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Scores films: how far each is from normal for its patient, where, and how sure that is."""

    out: Path
    """Folder for scores.csv, maps, pseudo-healthy films and run.json."""
    model: str = AUTO
    """Folder of a fitted model, or one inside the package: adult or paediatric (docs/weights.md).
    auto: paediatric for patients under 10 years, else adult."""
    films: list[str] = field(default_factory=list)
    """Films and records, SOURCE:PATH; or name single FILEs instead."""
    ehr: list[str] = field(default_factory=list)
    """For single FILEs, what is known of the patient: age=63 sex=M view=PA "weight=180 lb"."""
    split: Literal["train", "val", "test"] | None = None
    """Only this part of the source."""
    seed: int = 0
    """Of the noise, drawn for each film by itself."""
    batch_size: int = 16
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
    overwrite: bool = False
    """Replace the scores in the folder, if there are some."""
    fields_file: Path | None = None
    """YAML file with further record fields, as in fit."""
    rule: str | None = None
    """Detection rule of the method, from the same weights; default: the model's own. Another one
    than the model was calibrated with gives no p-value."""
    steps: int = 0
    """Kept levels of the diffusion, the noise level keeping its share; 0: the model's own."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks; everything else stays float32."""
    runtime: Literal["torch", "openvino"] = "torch"
    """What runs the networks. openvino: CPU only, needs the extra nofinding[openvino]."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    threads: int = 0
    """CPU threads; 0: all."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""


def score(files: Sequence[str], options: ScoreOptions) -> list[dict[str, str]]:
    """Scores films and writes the folder; gives the rows of scores.csv.

    Everything is written beside the folder and moved into it once all films are scored, so
    that nothing half-written is left. Raises UserError before that for any fault in the input.
    """
    use_threads(options.threads)
    _require_free(options)
    if options.batch_size < 1:
        raise UserError(f"--batch_size {options.batch_size}: give 1 or more")
    if bool(files) == bool(options.films):
        raise UserError("name either films with --films SOURCE:PATH or single FILEs")
    name = options.model if options.model != AUTO else _shipped_name(files, options)
    folder = model_folder(name)
    model = with_rule(load_model(folder), options.rule, options.steps)
    runtime = _runtime(options, model)
    every, source, phantom = _records(files, options, model)
    gatekeeper = Gatekeeper(model, folder, options.gate, options.gate_from)
    gatekeeper.look(every, cache_at(options.cache))
    records = gatekeeper.admitted(every, single=bool(files))
    films = Films(
        records,
        model.detector.stats,
        model.detector.image_size,
        model.meta["aspect"],
        cache_at(options.cache),
        dimensions_of(model.detector),
    )
    to_device(model.detector, "cpu" if options.runtime == "openvino" else options.accelerator)
    parity = None
    if not runtime.is_reference:
        parity = parity_of(model.detector, films, runtime, options.seed)
        model = replace(model, uncalibrated=model.uncalibrated or parity.why_not)
    how = options.calibration or calibration_of(name)
    calibrator = Calibrator(model, records, how, known_fields(options.fields_file))
    flags = _flags(records, films, model, phantom)
    ages = {record.image_id: about_age(name, record) for record in every}
    out = options.out.resolve()
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        label = "PHANTOM (simulated)" if phantom else "research use only"
        rows, cost = _score_all(model, films, options, partial, label, calibrator)
        scored = {row["image_id"]: float(row["score"]) for row in rows}
        gatekeeper.test_drift(records, scored, options.seed)
        for record in every:
            if record.image_id not in scored:
                rows.append({**dict.fromkeys(rows[0], ""), "image_id": record.image_id})
                flags[record.image_id] = record.flags
        for row in rows:
            own = (
                *flags[row["image_id"]],
                *ages[row["image_id"]],
                *gatekeeper.flags(row["image_id"]),
            )
            row["flags"] = "; ".join(own)
        run = (
            _run(model, films, options, source)
            | {"model": _shown(name)}
            | cost
            | calibrator.about()
            | gatekeeper.about()
        )
        if parity is not None:
            run |= {"parity": parity.to_json(), "gflop": parity.gflop}
        checkpoint.write_atomic(partial / "scores.csv", _csv(rows))
        checkpoint.write_atomic(partial / "run.json", json.dumps(run, indent=1).encode())
        move_into_place(partial, out)
    except OSError as error:
        raise UserError(f"--out {options.out}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if model.uncalibrated:
        say(f"no p-values: {model.uncalibrated}")
    _say_what_happened(options, len(every), len(scored), cost["seconds_per_film"], calibrator)
    return rows


def _runtime(options: ScoreOptions, model: Model) -> Runtime:
    """How the networks are to be run. Raises UserError where the method or the device cannot."""
    runtime = Runtime(precision=options.precision, engine=options.runtime)
    if options.runtime == "openvino" and options.accelerator not in ("auto", "cpu"):
        raise UserError(f"--runtime openvino: runs on the CPU, not on {options.accelerator}")
    use_runtime(model.detector, runtime)
    return runtime


def _say_what_happened(
    options: ScoreOptions, given: int, scored: int, seconds: float, calibrator: Calibrator
) -> None:
    refused = f", {given - scored} refused (see flags)" if given > scored else ""
    say(f"{options.out / 'scores.csv'}: {scored} films{refused}, {seconds:.2f} s a film")
    warning = calibrator.warning()
    if warning:
        say(warning)


def _require_free(options: ScoreOptions) -> None:
    if options.out.is_file():
        raise UserError(f"--out {options.out}: is a file; give a folder")
    present = {path.name for path in options.out.iterdir()} if options.out.is_dir() else set()
    if present and not options.overwrite:
        raise UserError(f"--out {options.out}: is not empty; choose another or give --overwrite")
    if present - OURS:
        raise UserError(
            f"--out {options.out}: holds {min(present - OURS)!r}, which is not of `score`; "
            "it is not overwritten"
        )


def _shown(model: str) -> str:
    """A shipped model by its name; of a folder only the last part of its path."""
    return model if model in SHIPPED else Path(model).name


def _shipped_name(files: Sequence[str], options: ScoreOptions) -> str:
    """The shipped model that these films' ages ask for."""
    fields = known_fields(options.fields_file)
    if files:
        return shipped_for(file_records(files, options.ehr, fields))
    records = Cohort(options.films, fields).records
    return shipped_for([r for r in records if options.split in (None, r.split)])


def _records(
    files: Sequence[str], options: ScoreOptions, model: Model
) -> tuple[list[Record], str, bool]:
    """The films to score, what their source is called, and whether phantoms are among them."""
    fields = known_fields(options.fields_file)
    for own in model.detector.stats.fields:
        given = fields.setdefault(own.name, own)
        if (given.kind, given.unit, given.categories) != (own.kind, own.unit, own.categories):
            raise UserError(
                f"field {own.name}: the model was fitted with {own.unit or own.categories}, "
                f"--fields_file says {given.unit or given.categories}"
            )
    if files:
        if options.split is not None:
            raise UserError("--split goes with --films; single FILEs have none")
        return file_records(files, options.ehr, fields), "files", False
    if options.ehr:
        raise UserError("--ehr goes with single FILEs; a source has records of its own")
    cohort = Cohort(options.films, fields)
    absent = [name for name in model.detector.fields_used if name not in cohort.offers]
    if absent and options.missing_fields == "refuse":
        raise UserError(
            f"{cohort.name}: has no column {', '.join(absent)}, with which the model was fitted; "
            "add it (cells may be empty) or give --missing_fields mask"
        )
    records = [r for r in cohort.records if options.split in (None, r.split)]
    if not records:
        splits = sorted({r.split or "none" for r in cohort.records})
        raise UserError(
            f"{cohort.name}: no film in split {options.split}; splits: {', '.join(splits)}"
        )
    for record in records:
        if UNFIT & set(record.image_id) or record.image_id in ("", ".", ".."):
            raise UserError(
                f"image_id {record.image_id!r} cannot name a file; allowed is anything "
                'without / \\ " and NUL'
            )
    return sorted(records, key=lambda r: r.image_id), cohort.name, cohort.phantom


def _flags(
    records: Sequence[Record], films: Films, model: Model, phantom: bool
) -> dict[str, tuple[str, ...]]:
    """What a reader of the row must know. Decodes every film, so that a bad one stops us here."""
    trained = set(model.meta.get("training_pixels", ()))
    calibrated = set(model.calibration[1])
    flags = {}
    for index, record in tracked(list(enumerate(records)), "reading films"):
        own = list(record.flags)
        if phantom:
            own.append("film: a phantom, simulated")
        if films.pixel_hash(index) in trained:
            own.append(TRAINED_ON)
        if hashed(record.image_id) in calibrated:
            own.append("film: it calibrates the p-value, and is left out of its own")
        if model.uncalibrated:
            own.append(f"p-value: none, {model.uncalibrated}")
        flags[record.image_id] = tuple(own)
    return flags


def _score_all(
    model: Model,
    films: Films,
    options: ScoreOptions,
    folder: Path,
    label: str,
    calibrator: Calibrator,
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """The rows of scores.csv, and what a film cost."""
    rows: list[dict[str, str]] = []
    spent, gflop = 0.0, 0.0
    for start in tracked(range(0, len(films), options.batch_size), "scoring"):
        batch = films.batch(range(start, min(start + options.batch_size, len(films))))
        begin = time.perf_counter()
        with FlopCounterMode(display=False) if not start else nullcontext() as counter:
            scores = model.detector.score(batch, seed=options.seed)
        spent += time.perf_counter() - begin
        if counter is not None:
            gflop = counter.get_total_flops() / 1e9 / len(batch.ids)
        if not scores.score.isfinite().all():
            bad = batch.ids[int((~scores.score.isfinite()).nonzero()[0])]
            raise UserError(f"film {bad!r}: the score is not a finite number; the model is broken")
        p = calibrator(scores.score.double().numpy(), batch.ids)
        for i, image_id in enumerate(batch.ids):
            row = {"image_id": image_id, "score": f"{scores.score[i].item():.9g}"}
            row |= p[i]
            row |= {name: f"{part[i].item():.9g}" for name, part in scores.parts.items()}
            rows.append(row)
        if options.maps:
            film = (batch.image[:, 0].numpy() + 1) / 2
            write_maps(folder, batch.ids, film, scores, model.meta.get("map_threshold"), label)
    return rows, {"gflop": gflop, "seconds_per_film": spent / len(films)}


def write_maps(
    folder: Path,
    ids: Sequence[str],
    film: Float[np.ndarray, "b *d h w"],
    scores: Scores,
    top: float | None,
    label: str,
) -> None:
    """maps/ID.npy and maps/ID.png (the film under the map), normal/ID.npy in [0, 1].

    Of a volume there are .nii.gz files, too, and the picture shows the slice with the largest
    value of the map. The colours span 0 to twice `top`, the value that 99 % of normal pixels stay
    below, so that one colour means one thing in all pictures of a model.
    """
    for name, tensor in (("maps", scores.map), ("normal", scores.normal)):
        if tensor is None:
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, image_id in enumerate(ids):
            array = tensor[i, 0].float().numpy()
            if name == "normal":
                array = (array + 1) / 2
            if array.ndim == 3:
                write_nifti(folder / name / f"{image_id}.nii.gz", array)
            if name == "normal":
                np.save(folder / name / f"{image_id}.npy", array.astype(np.float16))
                continue
            np.save(folder / name / f"{image_id}.npy", array)
            span = 2 * top if top else float(array.max()) or 1.0
            under, heat = film[i], array / span
            if array.ndim == 3:
                at = int(array.reshape(len(array), -1).max(1).argmax())
                under, heat = under[at], heat[at]
            overlay(under, heat, label).save(folder / name / f"{image_id}.png")


def write_nifti(path: Path, volume: Float[np.ndarray, "d h w"]) -> None:
    """The volume on its own grid, a unit a voxel, turned so that right, front and up are told.

    Where the volume lay in the scanner is not kept: what is scored is a cube of other voxels.
    """
    nibabel: Any = import_module("nibabel")  # here: it takes a moment, and films need none of it

    upright = np.ascontiguousarray(volume.transpose(2, 1, 0)[::-1, ::-1], dtype=np.float32)
    image = nibabel.Nifti1Image(upright, np.eye(4))
    image.header.set_xyzt_units("unknown")
    nibabel.save(image, path)


def overlay(
    film: Float[np.ndarray, "h w"], heat: Float[np.ndarray, "h w"], label: str
) -> Image.Image:
    """The film in grey with the map over it: stronger is brighter and more opaque.

    Enlarged by a whole factor to 256 pixels or more, with `label` in its corner.
    """
    strength = np.clip(heat, 0, 1)[..., None]
    colour = mpl.colormaps["inferno"](strength[..., 0])[..., :3]
    mixed = film[..., None] * (1 - 0.7 * strength) + colour * 0.7 * strength
    picture = Image.fromarray((mixed * 255).clip(0, 255).astype(np.uint8))
    factor = -(-256 // picture.width)
    picture = picture.resize((picture.width * factor, picture.height * factor))
    ImageDraw.Draw(picture).text((4, 4), label, fill=(255, 255, 255))
    return picture


def _csv(rows: Sequence[dict[str, str]]) -> bytes:
    names = [*(name for name in rows[0] if name != "flags"), "flags"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["image_id"]))
    return text.getvalue().encode()


def _run(model: Model, films: Films, options: ScoreOptions, source: str) -> dict[str, Any]:
    """What it took to make these scores, for whoever must make them again."""
    detector, meta = model.detector, model.meta
    split: Split | None = options.split
    return {
        "model_sha256": model.sha256,
        "method": detector.name,
        "summary": detector.summary,
        "supervision": str(detector.supervision),
        "uses_ehr": detector.uses_ehr,
        "fields": list(detector.fields_used),
        "preset": meta.get("preset"),
        "config": asdict(detector.config),
        "rule": options.rule or "the model's own",
        "steps": options.steps or "the model's own",
        "model_seed": meta.get("seed"),
        "seed": options.seed,
        "image_size": detector.image_size,
        "aspect": meta["aspect"],
        "source": source,
        "split": split,
        "n": len(films),
        "batch_size": options.batch_size,
        "calibration_n": len(model.calibration[1]),
        "calibration_from": meta["calibration"]["from"],
        "calibration_ids": model.calibration[1],
        "map_threshold": meta.get("map_threshold"),
        "network_calls": detector.network_calls,
        "uncalibrated": model.uncalibrated,
        "precision": options.precision,
        "runtime": options.runtime,
        "threads": torch.get_num_threads(),
        "fit_minutes": meta.get("fit_minutes"),
        "versions": {
            "nofinding": checkpoint.code_version(),
            "model": meta.get("code_version"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def move_into_place(partial: Path, out: Path) -> None:
    """Puts the finished folder in place; what was there goes only once the new one is whole."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
