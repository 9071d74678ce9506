"""adapt: a fitted model and films of one hospital in; a model whose p-values are kept there out."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.decoding.decode import VolumeFile
from nofinding.data.signatures import Signatures
from nofinding.data.sketches import Sketches
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.errors import UserError
from nofinding.evaluation.statistics.conformal import hashed
from nofinding.gate import DRIFT_LEAST, drift, gate_films
from nofinding.methods.base.protocol import Adaptable, Detector, dimensions_of
from nofinding.methods.frozen_features.adapting import Adapted, adapted, adapted_scores
from nofinding.model.bundle import Model, load_model, save_model
from nofinding.model.calibration import stored_calibration
from nofinding.model.input_gate import Gatekeeper, one_a_patient, save_adapted_gate
from nofinding.model.known_films import load_known_films, save_known_films
from nofinding.model.pretrained import SHIPPED, model_folder
from nofinding.progress import say, tracked
from nofinding.runtime import to_device, use_threads
from nofinding.storage.atomic import whole_or_not
from nofinding.storage.file_names import printed
from nofinding.types import Exam
from nofinding.workflows.fit import BATCH

__all__ = ["NORMAL_LEAST", "UNLABELLED_LEAST", "AdaptOptions", "adapt", "adapt_to"]

NORMAL_LEAST = 20
"""Patients with a normal film that adapting takes: with 19, p <= 0.05 is just in reach."""
UNLABELLED_LEAST = 50
"""Patients that adapting takes where nothing is known of their films: 20 of them are normal where
60 % are not."""
OF_ONE_FIT = ("sha256", "meta_sha256", "format", "code_version", "torch_version")
UNKNOWN = (
    "Films that are abnormal in ways that do not raise their score count as normal here, and the "
    "share of normal films is not measured but inferred: check p-values on films that a reader "
    "has called normal before relying on them."
)


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """Moves a model's statistics and p-values to the films of one hospital."""

    out: Path
    """Folder for the adapted model; it must not hold one yet."""
    model: str = "adult"
    """Folder of a fitted model, or one inside the package: adult or paediatric."""
    films: list[str] = field(default_factory=list)
    """Films of this hospital, SOURCE:PATH; one film of each patient is used."""
    feedback: Path | None = None
    """In place of --films: the home of serve or listen, whose films readers have marked normal."""
    split: Literal["train", "val", "test"] | None = None
    """Only this part of the source; leave some films out, to judge the result on."""
    normal_only: bool = False
    """You vouch that the films are normal; those with a finding in the source are left out."""
    unlabelled: bool = False
    """Nothing is known of the films; what the source says of findings is not looked at."""
    abnormal_at_most: float = 0.6
    """With --unlabelled, the largest share of abnormal films that there may be."""
    seed: int = 0
    """Of the noise, and of the parts that the films are adapted and scored in."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    threads: int = 0
    """CPU threads; 0: all."""
    fields_file: Path | None = None
    """YAML file with further record fields, as in fit."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""


def adapt(options: AdaptOptions) -> Model:
    """Adapts to films of a source and writes the model. Raises UserError."""
    _require(options)
    cohort = Cohort(options.films, known_fields(options.fields_file))
    exams = [r for r in cohort.exams if options.split in (None, r.split)]
    return adapt_to(exams, cohort.name, options)


def adapt_to(exams: Sequence[Exam], source: str, options: AdaptOptions) -> Model:
    """Adapts to these films and writes the model. Raises UserError."""
    _require(options)
    use_threads(options.threads)
    folder = model_folder(options.model)
    model = load_model(folder)
    if len(model.calibration[0]) < NORMAL_LEAST:
        raise UserError(
            f"--model {options.model}: has {len(model.calibration[0])} calibration films, and "
            f"adapting takes {NORMAL_LEAST}; fit it with --calibrate auto"
        )
    to_device(model.detector, options.accelerator)
    gatekeeper = Gatekeeper(model, folder, "refuse", None)
    local, points = _local(exams, model, gatekeeper, options)
    result = _adapted(model, _films(local, model, cache_at(options.cache)), options)
    scores = result.scores.double().numpy()
    tests = _drift_tests(gatekeeper, points, scores, options.seed)
    with whole_or_not(options.out) as place:
        gate: dict[str, Any] = {"fitted": False, "why": "the model it was adapted from has none"}
        if gatekeeper.own is not None:
            gate = save_adapted_gate(place, gatekeeper.own, points, scores)
        meta = _meta(model, local, result, source, options, gate, tests)
        known = load_known_films(folder, model.meta)
        if known is not None:  # the local films calibrate it now, and have no sketches
            known = replace(known, calibration=Sketches.of(Signatures.room(0)))
            meta["twins"] = {**model.meta["twins"], **save_known_films(place, known)}
        save_model(place, result.detector, meta)
    how = "features, scales and p-values" if result.features else "p-values alone"
    say(f"{options.out}: {how} follow {len(local)} films")
    if options.unlabelled:
        say(f"taken for normal: {100 * result.normal.share:.0f} % of them. {UNKNOWN}")
    return load_model(options.out)


def _require(options: AdaptOptions) -> None:
    if options.normal_only == options.unlabelled and options.feedback is None:
        raise UserError(
            "adapt: say what is known of the films, --normal-only (all are normal) or --unlabelled"
        )
    if options.feedback is not None and (options.films or options.unlabelled or options.split):
        raise UserError("--feedback: goes without --films, --split and --unlabelled")
    if not 0 < options.abnormal_at_most <= 0.6:
        raise UserError(
            f"--abnormal-at-most {options.abnormal_at_most:g}: give more than 0 and at most 0.6; "
            "where most films are abnormal, normal ones cannot be told from them"
        )
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UserError(f"--out {options.out}: is not an empty folder; choose another")


def _local(
    exams: Sequence[Exam], model: Model, gatekeeper: Gatekeeper, options: AdaptOptions
) -> tuple[list[Exam], np.ndarray]:
    """One film of each patient, and its point for the drift test; said of each reason how many
    films were left out for it. Raises UserError where too few are left."""
    if any(isinstance(exam.pixels, VolumeFile) for exam in exams):
        raise UserError("--films: holds volumes; adapt takes films")
    local, left_out = list(exams), list[str]()
    if not options.unlabelled:
        local = [exam for exam in local if not exam.findings]
        _count(left_out, len(exams) - len(local), "with a finding")
    before, own = len(local), set(model.calibration[1])
    local = [exam for exam in local if hashed(exam.image_id) not in own]
    _count(left_out, before - len(local), "that calibrate the model already")
    before, local = len(local), [local[row] for row in one_a_patient(local)] if local else []
    _count(left_out, before - len(local), "further films of the same patients")
    points = np.empty((len(local), 0))
    if gatekeeper.looks and local:
        judged = gatekeeper.judge(gate_films(local, cache_at(options.cache)))
        admitted = [row for row, film in enumerate(judged) if "reason" not in film]
        _count(left_out, len(local) - len(admitted), "that the input gate refuses")
        local = [local[row] for row in admitted]
        points = np.array([judged[row]["point"] for row in admitted], dtype=np.float64)
    if left_out:
        say(f"left out: {', '.join(left_out)}")
    least = UNLABELLED_LEAST if options.unlabelled else NORMAL_LEAST
    if len(local) < least:
        kind = "unlabelled films" if options.unlabelled else "normal films"
        raise UserError(
            f"adapt: {kind} of {len(local)} patients, {least} are needed"
            + (f" (left out: {', '.join(left_out)})" if left_out else "")
        )
    return local, points


def _count(left_out: list[str], n: int, why: str) -> None:
    if n:
        left_out.append(f"{n} {why}")


def _films(exams: Sequence[Exam], model: Model, cache: FilmCache) -> Films:
    detector = model.detector
    return Films(
        exams,
        detector.stats,
        detector.image_size,
        model.meta["aspect"],
        cache,
        dimensions_of(detector),
    )


def _adapted(model: Model, films: Films, options: AdaptOptions) -> Adapted:
    """The detector at this place. Each film goes through the networks once."""
    trained = set(model.meta.get("training_pixels", ()))
    twice = [films.ids[i] for i in range(len(films)) if films.pixel_hash(i) in trained]
    if twice:
        raise UserError(
            f"{len(twice)} of {len(films)} films have the pixels of a training film, for example "
            f"image_id {twice[0]!r}; give films that the model was not fitted on"
        )
    elsewhere = torch.from_numpy(model.calibration[0])
    most = options.abnormal_at_most if options.unlabelled else 0.0
    detector = model.detector
    if not isinstance(detector, Adaptable):
        scores = _scores(detector, films, options.seed)
        return adapted_scores(detector, scores, elsewhere, abnormal_at_most=most)
    parts: list[dict[str, Tensor]] = []
    for start in tracked(range(0, len(films), BATCH), "looking at films"):
        batch = films.batch(range(start, min(start + BATCH, len(films))))
        parts.append(detector.features_of(batch, seed=options.seed))
    features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return adapted(detector, features, elsewhere, abnormal_at_most=most, seed=options.seed)


def _scores(detector: Detector, films: Films, seed: int) -> Tensor:
    collected = []
    for start in tracked(range(0, len(films), BATCH), "scoring"):
        batch = films.batch(range(start, min(start + BATCH, len(films))))
        collected.append(detector.score(batch, seed=seed).score)
    scores = torch.cat(collected)
    if not scores.isfinite().all():
        raise UserError("a film's score is not a finite number; the model is broken")
    return scores


def _drift_tests(
    gatekeeper: Gatekeeper, points: np.ndarray, scores: np.ndarray, seed: int
) -> dict[str, Any]:
    """Are these films like those before, and is one half of them like the other?"""
    if gatekeeper.own is None or "reference.points" not in gatekeeper.own.tensors:
        return {"before": None, "after": None}
    tensors = gatekeeper.own.tensors
    old = tensors["reference.points"].double().numpy()
    tests: dict[str, Any] = {"before": None, "after": None}
    if min(len(old), len(points)) >= DRIFT_LEAST:
        before = drift(old, tensors["reference.scores"].double().numpy(), points, scores, seed=seed)
        tests["before"] = before._asdict()
    order = np.random.default_rng(seed).permutation(len(points))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    if len(first) >= DRIFT_LEAST:
        after = drift(points[first], scores[first], points[second], scores[second], seed=seed)
        tests["after"] = after._asdict()
    for when, against in (("before", "those it was calibrated on"), ("after", "each other")):
        if tests[when] is None:
            say(f"drift {when} adapting: not tested, {DRIFT_LEAST} films are needed on either side")
        else:
            p, effect = tests[when]["p"], tests[when]["effect"]
            say(f"drift {when} adapting, against {against}: p = {p:.3g}, effect {effect:.2f}")
    return tests


def _meta(
    model: Model,
    local: Sequence[Exam],
    result: Adapted,
    source: str,
    options: AdaptOptions,
    gate: dict[str, Any],
    tests: dict[str, Any],
) -> dict[str, Any]:
    mode = "unlabelled" if options.unlabelled else "normal"
    calibration = _calibration(model, local, result, options)
    about = {
        "base_sha256": model.sha256,
        "base": options.model if options.model in SHIPPED else printed(Path(options.model).name),
        "source": source,
        "films": len(local),
        "mode": mode,
        "moved": "features, scales, p-values" if result.features else "p-values",
        "abnormal_at_most": options.abnormal_at_most if options.unlabelled else 0.0,
        "normal_share": result.normal.share,
        "drift": tests,
        "not_known": UNKNOWN if options.unlabelled else "",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    rest = {k: v for k, v in model.meta.items() if k not in OF_ONE_FIT}
    return {**rest, "calibration": calibration, "gate": gate, "adapted": about}


def _calibration(
    model: Model, local: Sequence[Exam], result: Adapted, options: AdaptOptions
) -> dict[str, Any]:
    """What the p-value is from.

    Normal films calibrate by their own scores. Where the smooth distribution of the next normal
    film lies higher at the same rank, its value counts, so that p is the larger of the two: that
    of the ranks, which keeps the promise whatever the distribution, and the smooth one, which
    chance moves less. Of unlabelled films there are no ranks; the smooth one is all there is, and
    no single film of them calibrates anything.
    """
    fields = known_fields(options.fields_file)
    smooth = result.normal.quantiles.numpy()
    if options.unlabelled:
        nobody = [
            replace(record, image_id=f"{model.sha256} {i}", ehr={})
            for i, record in enumerate(local)
        ]
        origin = f"{len(local)} unlabelled local films, of which the normal ones are inferred"
        return stored_calibration(smooth, nobody, fields, origin)
    scores = result.scores.double().numpy()
    order = np.argsort(scores, kind="stable")
    lifted = np.empty_like(scores)
    lifted[order] = np.maximum(scores[order], smooth)
    origin = f"{len(local)} local normal films, each scored by a model adapted without it"
    return stored_calibration(lifted, local, fields, origin)
