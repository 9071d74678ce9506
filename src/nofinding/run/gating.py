"""The input gate at work: fitted with a model or by itself, and asked before films are scored."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from nofinding import checkpoint
from nofinding.data.cache import FilmCache
from nofinding.data.split import normals
from nofinding.errors import UserError
from nofinding.evaluate.calibration import hashed
from nofinding.evaluate.table import REFUSED
from nofinding.gate import DRIFT_LEAST, GATE_LEAST, Eye, Gate, drift, fit_gate, gate_films
from nofinding.methods.protocol import dimensions_of
from nofinding.run.cohort import Cohort, cache_at, known_fields
from nofinding.run.model import Model
from nofinding.run.progress import say, tracked
from nofinding.types import Record

__all__ = ["FitGateOptions", "GateMode", "Gatekeeper", "fit_gate_alone", "save_model_gate"]

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
    threads: int = 0
    """CPU threads; 0: all."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""


def fit_gate_alone(options: FitGateOptions) -> Gate:
    """Writes a gate that knows the normal films of several sources. Raises UserError."""
    if (options.out / f"{STEM}.json").exists():
        raise UserError(f"--out {options.out}: holds a gate already; choose another folder")
    if options.threads:
        torch.set_num_threads(options.threads)
    cohorts = [Cohort([spec], known_fields(None)) for spec in options.films]
    parts = [normals(cohort.records, "train") for cohort in cohorts]
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
    train: Sequence[Record],
    calibration: Sequence[Record],
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
    eye = Eye()
    gate = fit_gate([gate_films(train, cache)], seed=seed, eye=eye)
    seen = eye.films(gate_films(calibration, cache), lambda r: list(tracked(r, "gate")))
    refused = sum(bool(verdict.reason) for verdict in gate.judge(seen))
    told: dict[str, Any] = {"calibration_refused": refused, "calibration_n": len(calibration)}
    rows = one_a_patient(calibration)[:REFERENCE]
    reference = {
        "reference.points": torch.from_numpy(gate.coordinates(seen.of(rows))).float(),
        "reference.scores": torch.from_numpy(scores[rows]),
    }
    sha256 = _save(folder, gate, told, reference)
    return {"fitted": True, "sha256": sha256, **told}


def one_a_patient(records: Sequence[Record]) -> list[int]:
    """One film of each patient: films of one patient are alike, and would count as many."""
    order = sorted(range(len(records)), key=lambda i: hashed(records[i].image_id))
    first = {records[i].patient_id: i for i in reversed(order)}
    return [i for i in order if first[records[i].patient_id] == i]


def _save(
    folder: Path, gate: Gate, told: dict[str, Any], more: dict[str, torch.Tensor] | None = None
) -> str:
    meta = {**gate.to_meta(), **told, "format": FORMAT, "code_version": checkpoint.code_version()}
    checkpoint.save(folder / STEM, {**gate.tensors, **(more or {})}, meta)
    return str(checkpoint.load(folder / STEM)[1]["sha256"])


def _load(folder: Path, what: str) -> tuple[Gate, str]:
    tensors, meta = checkpoint.load(folder / STEM)
    if meta.get("format") != FORMAT:
        raise UserError(f"{what} {folder}: gate of format {meta.get('format')!r}; this reads 1")
    return Gate.from_stored(tensors, meta), str(meta["sha256"])


class Gatekeeper:
    """Says of each film whether it may be scored, and of all whether they have drifted."""

    def __init__(self, model: Model, folder: Path, mode: GateMode, other: Path | None) -> None:
        """Loads the model's own gate, and `other` in its place for the verdicts if given."""
        self.mode = mode
        self.own, self.gate, self.sha256 = None, None, None
        self.reasons: dict[str, str] = {}
        self.drifted: dict[str, Any] = {"tested": False, "why": "the model has no gate"}
        self.points: dict[str, Float[np.ndarray, " k"]] = {}
        self.why_none = "the model has no input gate: whatever is given is scored"
        if mode == "off":
            self.drifted["why"] = "--gate off"
            return
        if dimensions_of(model.detector) != 2:
            self.why_none = "no input gate: it looks at films, and these are volumes"
            if other is not None:
                raise UserError(f"--gate_from {other}: the model scores volumes, gates judge films")
            say(self.why_none)
            return
        told = model.meta.get("gate") or {}
        if told.get("fitted"):
            self.own, self.sha256 = _load(folder, "--model")
            self.gate = self.own
            if self.sha256 != told["sha256"]:
                raise UserError(f"--model {folder}: gate.json is not the gate of this model")
        if other is not None:
            self.gate, self.sha256 = _load(other, "--gate_from")

    def look(self, records: Sequence[Record], cache: FilmCache) -> None:
        """Judges every film."""
        if self.gate is None:
            return
        seen = Eye().films(gate_films(records, cache), lambda r: list(tracked(r, "input gate")))
        verdicts = self.gate.judge(seen)
        ids = [record.image_id for record in records]
        self.reasons = {i: v.reason for i, v in zip(ids, verdicts, strict=True) if v.reason}
        if self.own is not None:
            self.points = dict(zip(ids, self.own.coordinates(seen), strict=True))

    def admitted(self, records: Sequence[Record], single: bool) -> list[Record]:
        """The films to score. Raises UserError for a refused single film, or where none is left."""
        if self.mode != "refuse" or not self.reasons:
            return list(records)
        first = next(r.image_id for r in records if r.image_id in self.reasons)
        if single:
            raise UserError(
                f"film {first!r} {self.reasons[first]}; not scored; --gate flag does so anyway"
            )
        left = [record for record in records if record.image_id not in self.reasons]
        if not left:
            raise UserError(
                f"all {len(records)} films are refused, for example {first!r}, which "
                f"{self.reasons[first]}; --gate flag scores them anyway"
            )
        return left

    def flags(self, image_id: str) -> tuple[str, ...]:
        """The flag of a film that the gate objects to."""
        reason = self.reasons.get(image_id)
        if reason is None:
            return ()
        return (f"{REFUSED}: it {reason}" if self.mode == "refuse" else f"gate: it {reason}",)

    def test_drift(self, records: Sequence[Record], scores: dict[str, float], seed: int) -> None:
        """Compares the scored films with the calibration films; a line where they differ."""
        if self.own is None:
            return
        rows = one_a_patient(records)
        reference = self.own.tensors["reference.points"]
        for n, which in ((len(reference), "calibration"), (len(rows), "scored")):
            if n < DRIFT_LEAST:
                why = f"{n} patients among the {which} films, {DRIFT_LEAST} are needed"
                self.drifted = {"tested": False, "why": why}
                return
        ids = [records[i].image_id for i in rows]
        found = drift(
            reference.double().numpy(),
            self.own.tensors["reference.scores"].numpy(),
            np.stack([self.points[i] for i in ids]),
            np.array([scores[i] for i in ids]),
            seed=seed,
        )
        line = found.line()
        if line:
            say(line)
        self.drifted = {"tested": True, **found._asdict(), "alarming": found.alarming, "line": line}

    def about(self) -> dict[str, Any]:
        """What run.json says."""
        note = None
        if self.gate is None and self.mode != "off":
            note = self.why_none
        why = Counter(self.reasons.values())
        refused = len(self.reasons) if self.mode == "refuse" else 0
        return {
            "gate": {
                "mode": self.mode,
                "sha256": self.sha256,
                "note": note,
                "refused": refused,
                "objected": dict(sorted(why.items())),
            },
            "drift": self.drifted,
        }
