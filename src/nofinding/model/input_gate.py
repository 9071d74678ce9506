"""The input gate at work: fitted with a model or by itself, and asked before films are scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.split import first_of_patients, normals
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.errors import UserError
from nofinding.evaluation.flags import REFUSED
from nofinding.evaluation.statistics.conformal import hashed
from nofinding.gate import (
    DRIFT_LEAST,
    GATE_LEAST,
    FeatureExtractor,
    Gate,
    compared,
    drawn,
    fit_gate,
    gate_films,
)
from nofinding.methods.base.protocol import dimensions_of
from nofinding.model.bundle import Model
from nofinding.progress import say, tracked
from nofinding.ranges import Range, require_ranges
from nofinding.storage import checkpoint
from nofinding.types import Exam

__all__ = [
    "FitGateOptions",
    "GateMode",
    "Gatekeeper",
    "fit_gate_alone",
    "one_a_patient",
    "reference_of",
    "save_adapted_gate",
    "save_model_gate",
]

STEM = "gate"
FORMAT = 1
REFERENCE = 400  # calibration films whose points are stored, for the drift test
GateMode = Literal["refuse", "flag", "off"]


@dataclass(frozen=True, kw_only=True)
class FitGateOptions:
    """Fits an input gate alone, for models without one: which films may be scored at all."""

    films: list[str]
    """Films, SOURCE:PATH, one or more; from each the normal films of split train are used."""
    out: Path
    """Folder for gate.safetensors and gate.json; it must not hold them yet."""
    seed: int = 0
    """Of the choice of films."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: all."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


def fit_gate_alone(options: FitGateOptions) -> Gate:
    """Writes a gate that knows the normal films of several sources. Raises UserError."""
    if (options.out / f"{STEM}.json").exists():
        raise UserError(f"--out {options.out}: holds a gate already; choose another folder")
    if options.threads:
        torch.set_num_threads(options.threads)
    cohorts = [Cohort([spec], known_fields(None)) for spec in options.films]
    parts = [normals(cohort.exams, "train") for cohort in cohorts]
    for cohort, part in zip(cohorts, parts, strict=True):
        if len(part) < GATE_LEAST:
            raise UserError(
                f"{cohort.name}: {len(part)} normal films in split train; a gate takes {GATE_LEAST}"
            )
    cache = cache_at(options.cache)
    gate = fit_gate([gate_films(part, cache) for part in parts], seed=options.seed)
    _save(options.out, gate, {"source": ", ".join(cohort.name for cohort in cohorts)})
    say(f"{options.out}: gate fitted to {sum(gate.about['films'])} films")
    return gate


def save_model_gate(
    folder: Path,
    train: Sequence[Exam],
    calibration: Sequence[Exam],
    scores: Float[np.ndarray, " n"],
    cache: FilmCache,
    seed: int,
) -> dict[str, Any]:
    """Fits the gate of a model, writes it into its folder, and gives what model.json says of it.

    `scores` are those of the calibration films. Without enough films there is no gate.
    """
    if len(train) < GATE_LEAST:
        say(f"no input gate: {len(train)} normal films to learn from, it takes {GATE_LEAST}")
        return {"fitted": False, "why": f"{len(train)} training normals, {GATE_LEAST} are needed"}
    say("fitting the input gate")
    extractor = FeatureExtractor()
    gate = fit_gate([gate_films(train, cache)], seed=seed, extractor=extractor)
    features = extractor.films(gate_films(calibration, cache), lambda r: list(tracked(r, "gate")))
    refused = sum(bool(verdict.reason) for verdict in gate.judge(features))
    facts: dict[str, Any] = {"calibration_refused": refused, "calibration_n": len(calibration)}
    rows = one_a_patient(calibration)[:REFERENCE]
    reference = {
        "reference.points": torch.from_numpy(gate.coordinates(features.of(rows))).float(),
        "reference.scores": torch.from_numpy(scores[rows]),
    }
    sha256 = _save(folder, gate, facts, reference)
    return {"fitted": True, "sha256": sha256, **facts}


def save_adapted_gate(
    folder: Path,
    gate: Gate,
    points: Float[np.ndarray, "n k"],
    scores: Float[np.ndarray, " n"],
) -> dict[str, Any]:
    """Writes a model's gate as it is, with local films as what others are compared with for drift;
    gives what model.json says of it."""
    rows = slice(0, REFERENCE)
    reference = {
        "reference.points": torch.from_numpy(points[rows]).float(),
        "reference.scores": torch.from_numpy(scores[rows]),
    }
    metadata = {"calibration_refused": 0, "calibration_n": len(points)}
    return {"fitted": True, "sha256": _save(folder, gate, metadata, reference), **metadata}


def one_a_patient(exams: Sequence[Exam]) -> list[int]:
    """One film of each patient: films of one patient are alike, and would count as many."""
    numbers = [[int(hashed(name), 16) for name in (r.image_id, r.patient_id)] for r in exams]
    images, patients = np.array(numbers, dtype=np.uint64).reshape(-1, 2).T
    return [int(row) for row in first_of_patients(images, patients)]


def _save(
    folder: Path, gate: Gate, facts: dict[str, Any], more: dict[str, torch.Tensor] | None = None
) -> str:
    meta = {**gate.to_meta(), **facts, "format": FORMAT, "code_version": checkpoint.code_version()}
    checkpoint.save(folder / STEM, {**gate.tensors, **(more or {})}, meta)
    return str(checkpoint.load(folder / STEM)[1]["sha256"])


def _load(folder: Path, what: str) -> tuple[Gate, str]:
    tensors, meta = checkpoint.load(folder / STEM)
    if meta.get("format") != FORMAT:
        raise UserError(f"{what} {folder}: gate of format {meta.get('format')!r}; this reads 1")
    try:
        return Gate.from_stored(tensors, meta), str(meta["sha256"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(
            f"{what} {folder}: {STEM}.json is not one that this program wrote"
        ) from None


def reference_of(folder: Path) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"]] | None:
    """Points and scores of the calibration films that a model's gate keeps; None where it keeps
    none. The model itself is not loaded. Raises UserError where the gate is damaged."""
    gate, _ = _load(folder, "--model")
    if "reference.points" not in gate.tensors:
        return None
    return (
        gate.tensors["reference.points"].double().numpy(),
        gate.tensors["reference.scores"].double().numpy(),
    )


class Gatekeeper:
    """Says of each film whether it may be scored, and of all whether they have drifted.

    Holds nothing of the films.
    """

    def __init__(self, model: Model, folder: Path, mode: GateMode, other: Path | None) -> None:
        """Loads the model's own gate, and `other` in its place for the verdicts if given."""
        self.mode = mode
        self.own, self.gate, self.sha256 = None, None, None
        self.drifted: dict[str, Any] = {"tested": False, "why": "the model has no gate"}
        self.why_none = "the model has no input gate: whatever is given is scored"
        if mode == "off":
            self.drifted["why"] = "--gate off"
            return
        if dimensions_of(model.detector) != 2:
            self.why_none = "no input gate: it looks at films, and these are volumes"
            if other is not None:
                raise UserError(f"--gate-from {other}: the model scores volumes, gates judge films")
            say(self.why_none)
            return
        metadata = model.meta.get("gate") or {}
        if metadata.get("fitted"):
            self.own, self.sha256 = _load(folder, "--model")
            self.gate = self.own
            if self.sha256 != metadata["sha256"]:
                raise UserError(f"--model {folder}: gate.json is not the gate of this model")
        if other is not None:
            self.gate, self.sha256 = _load(other, "--gate-from")

    @property
    def looks(self) -> bool:
        """Whether films are judged at all."""
        return self.gate is not None

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The network that looks."""
        return FeatureExtractor()

    def judge(self, films: Films) -> list[dict[str, Any]]:
        """Of each film, prepared by `gate_films`: "reason", where there is one, and "point"."""
        assert self.gate is not None
        features = self.extractor.films(films)
        rows: list[dict[str, Any]] = [
            {"reason": verdict.reason} if verdict.reason else {}
            for verdict in self.gate.judge(features)
        ]
        if self.own is not None:
            for film, point in zip(rows, self.own.coordinates(features).tolist(), strict=True):
                film["point"] = point
        return rows

    def flags(self, reason: str | None) -> tuple[str, ...]:
        """The flag of a film that the gate objects to."""
        if not reason:
            return ()
        return (f"{REFUSED}: it {reason}" if self.mode == "refuse" else f"gate: it {reason}",)

    def test_drift(
        self,
        patients: int,
        read: Callable[[Int[np.ndarray, " q"]], tuple[list[list[float]], list[float]]],
        seed: int,
    ) -> None:
        """Compares the scored films with the calibration films; a line where they differ.

        `read` gives points and scores of some of the films, of which there is one a patient.
        """
        if self.own is None:
            return
        reference = self.own.tensors["reference.points"]
        for n, which in ((len(reference), "calibration"), (patients, "scored")):
            if n < DRIFT_LEAST:
                why = f"{n} patients among the {which} films, {DRIFT_LEAST} are needed"
                self.drifted = {"tested": False, "why": why}
                return
        rng = np.random.default_rng(seed)
        first, second = drawn(rng, len(reference)), drawn(rng, patients)
        points, scores = read(second)
        drift = compared(
            reference.double().numpy()[first],
            self.own.tensors["reference.scores"].numpy()[first],
            np.array(points),
            np.array(scores),
            rng,
        )
        line = drift.line()
        if line:
            say(line)
        self.drifted = {"tested": True, **drift._asdict(), "alarming": drift.alarming, "line": line}

    def about(self, objected: Mapping[str, int]) -> dict[str, Any]:
        """What run.json says; `objected` counts the films by the reason against them."""
        note = None
        if self.gate is None and self.mode != "off":
            note = self.why_none
        refused = sum(objected.values()) if self.mode == "refuse" else 0
        return {
            "gate": {
                "mode": self.mode,
                "sha256": self.sha256,
                "note": note,
                "refused": refused,
                "objected": dict(sorted(objected.items())),
            },
            "drift": self.drifted,
        }
