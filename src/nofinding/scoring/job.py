"""What is to be scored, by what and how: put together alike by every process that takes part."""

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrField
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.datasets.local.single_files import file_exams
from nofinding.errors import UserError
from nofinding.methods.base.protocol import dimensions_of
from nofinding.model.bundle import Model, load_model, with_rule
from nofinding.model.calibration import Calibration
from nofinding.model.input_gate import Gatekeeper
from nofinding.model.known_films import KnownFilms, load_known_films
from nofinding.model.pretrained import AUTO, SHIPPED, calibration_of, model_folder, shipped_for
from nofinding.model.runtime_parity import FILMS, Parity, parity_of, use_runtime
from nofinding.runtime import Runtime, to_device
from nofinding.scoring.batch_scorer import Scorer
from nofinding.scoring.ehr_lookup import known_of, require_fits
from nofinding.scoring.options import ScoreOptions
from nofinding.scoring.selection import Selection
from nofinding.storage import checkpoint
from nofinding.storage.atomic import write_atomic
from nofinding.storage.file_names import printed
from nofinding.types import Exam

__all__ = ["ScoringJob", "about_run", "prepare", "shown"]


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """Films and a model that can score them."""

    model: Model
    name: str
    """Of the model, as it was given, or of the shipped one that was found."""
    films: Selection
    source: str
    phantom: bool
    fields: dict[str, EhrField]
    gatekeeper: Gatekeeper
    known: KnownFilms | None
    runtime: Runtime
    options: ScoreOptions

    @property
    def calibration(self) -> Calibration:
        """The kind of p-value."""
        return self.options.calibration or calibration_of(self.name)

    def identity(self) -> dict[str, Any]:
        """All that the result depends on, but the bytes of the films; not who computes it, where.

        An unfinished job goes on only where all of this is the same.
        """
        options = self.options
        return {
            "model": self.model.sha256,
            "name": shown(self.name),
            "films": self.films.fingerprint,
            "source": self.source,
            "split": options.split,
            "seed": options.seed,
            "batch_size": options.batch_size,
            "maps": options.maps,
            "calibration": self.calibration,
            "gate": options.gate,
            "gate_sha256": self.gatekeeper.sha256,
            "rule": options.rule,
            "steps": options.steps,
            "precision": options.precision,
            "runtime": options.runtime,
            "accelerator": options.accelerator,
            "nofinding": checkpoint.code_version(),
            "torch": torch.__version__,
        }

    def scorer(self, folder: Path, single: bool) -> tuple[Scorer, Parity | None]:
        """What scores a batch, with `folder` for its maps, and how it compares with the reference.

        That comparison is made once, on the first films, and is read by whoever comes later.
        """
        scorer = Scorer(
            model=self.model,
            name=self.name,
            films=self.films,
            batch_size=self.options.batch_size,
            gatekeeper=self.gatekeeper,
            cache=cache_at(self.options.cache),
            fields=self.fields,
            seed=self.options.seed,
            phantom=self.phantom,
            single=single,
            unreadable=self.options.unreadable,
            count_work=self.runtime.is_reference,
            maps=folder if self.options.maps else None,
            known=self.known,
        )
        if self.runtime.is_reference:
            return scorer, None
        stored = folder.parent / "parity.json"
        if stored.exists():
            parity = Parity(**json.loads(stored.read_bytes()))
        else:
            parity = self._parity(scorer)
            write_atomic(stored, json.dumps(asdict(parity)).encode())
        why = self.model.uncalibrated or parity.why_not
        return replace(scorer, model=replace(self.model, uncalibrated=why)), parity

    def _parity(self, scorer: Scorer) -> Parity:
        first: list[Exam] = []
        for number in range(len(scorer)):
            exams = scorer.exams(number)
            first += [exams[row] for row in scorer.prepared(exams)[2]]
            if len(first) >= FILMS:
                break
        detector = self.model.detector
        films = Films(
            first[:FILMS],
            detector.stats,
            detector.image_size,
            self.model.meta["aspect"],
            scorer.cache,
            dimensions_of(detector),
        )
        return parity_of(detector, films, self.runtime, self.options.seed)


def prepare(files: Sequence[str], options: ScoreOptions) -> ScoringJob:
    """Loads the model and looks at every record. Raises UserError for any fault in the input."""
    if bool(files) == bool(options.films):
        raise UserError("name either films with --films SOURCE:PATH or single FILEs")
    require_fits(files, options)
    _require_together(files, options)
    given: Given | None = None
    if options.model == AUTO:
        given = _read(files, options, known_fields(options.fields_file))
        name = shipped_for(given.exams(options.split))
    else:
        name = options.model
    folder = model_folder(name)
    model = with_rule(load_model(folder), options.rule, options.steps)
    runtime = _runtime(options, model)
    fields = _fields(options, model)
    if given is None or given.fields != fields:  # a model's own fields are known with the model
        given = _read(files, options, fields)
    films, source, phantom = _films(options, model, given)
    gatekeeper = Gatekeeper(model, folder, options.gate, options.gate_from)
    to_device(model.detector, "cpu" if options.runtime == "openvino" else options.accelerator)
    return ScoringJob(
        model=model,
        name=name,
        films=films,
        source=source,
        phantom=phantom,
        fields=fields,
        gatekeeper=gatekeeper,
        known=load_known_films(folder, model.meta),
        runtime=runtime,
        options=options,
    )


def _runtime(options: ScoreOptions, model: Model) -> Runtime:
    """How the networks are to be run. Raises UserError where the method or the device cannot."""
    runtime = Runtime(precision=options.precision, engine=options.runtime)
    if options.runtime == "openvino" and options.accelerator not in ("auto", "cpu"):
        raise UserError(f"--runtime openvino: runs on the CPU, not on {options.accelerator}")
    use_runtime(model.detector, runtime)
    return runtime


def shown(model: str) -> str:
    """A shipped model by its name; of a folder only the last part of its path."""
    return model if model in SHIPPED else printed(Path(model).name)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the user gave, read once: the records of single FILEs, or a cohort."""

    fields: dict[str, EhrField]
    files: Sequence[Exam] | None = None
    cohort: Cohort | None = None

    def exams(self, split: str | None) -> Iterator[Exam]:
        """Those of `split`, or all."""
        every = self.cohort.exams if self.cohort is not None else self.files or ()
        return (exam for exam in every if split in (None, exam.split))


def _read(files: Sequence[str], options: ScoreOptions, fields: dict[str, EhrField]) -> Given:
    """Reads the records and, of a cohort, finds every film. Raises UserError."""
    if files:
        known = known_of(files, options, fields)
        return Given(fields=fields, files=file_exams(files, options.ehr, fields, known))
    look = options.unreadable == "stop"
    return Given(fields=fields, cohort=Cohort(options.films, fields, look=look))


def _require_together(files: Sequence[str], options: ScoreOptions) -> None:
    """Raises UserError for options that single FILEs, or a source, do not go with."""
    if files and options.split is not None:
        raise UserError("--split goes with --films; single FILEs have none")
    if not files and options.ehr:
        raise UserError("--ehr goes with single FILEs; a source has records of its own")


def _fields(options: ScoreOptions, model: Model) -> dict[str, EhrField]:
    """The record fields known here, and the model's own."""
    fields = known_fields(options.fields_file)
    for own in model.detector.stats.fields:
        given = fields.setdefault(own.name, own)
        if (given.kind, given.unit, given.categories) != (own.kind, own.unit, own.categories):
            raise UserError(
                f"field {own.name}: the model was fitted with {own.unit or own.categories}, "
                f"--fields-file says {given.unit or given.categories}"
            )
    return fields


def _films(options: ScoreOptions, model: Model, given: Given) -> tuple[Selection, str, bool]:
    """The films to score, what their source is called, and whether phantoms are among them."""
    cohort = given.cohort
    if cohort is None:
        return Selection(given.files or ()), "files", False
    absent = [name for name in model.detector.fields_used if name not in cohort.offers]
    if absent and options.missing_fields == "refuse":
        raise UserError(
            f"{cohort.name}: has no column {', '.join(absent)}, with which the model was fitted; "
            "add it (cells may be empty) or give --missing-fields mask"
        )
    window = cohort.ehr_window
    if model.has_window and window not in (None, model.ehr_window):
        raise UserError(
            f"{cohort.name}: a value of the EHR counts {window}, for the model {model.ehr_window}; "
            "build the cohort with the model's --window and --direction"
        )
    films = Selection(cohort.exams, options.split)
    if not len(films):
        splits = sorted({r.split or "none" for r in cohort.exams})
        raise UserError(
            f"{cohort.name}: no film in split {options.split}; splits: {', '.join(splits)}"
        )
    return films, cohort.name, cohort.phantom


def about_run(model: Model, n: int, options: ScoreOptions, source: str) -> dict[str, Any]:
    """What it took to make these scores, for whoever must make them again."""
    detector, meta = model.detector, model.meta
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
        "record": None
        if options.record is None
        else {"window": model.ehr_window.to_json(), "zone": options.zone},
        "split": options.split,
        "n": n,
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
