"""Whether films, scores and records are still like those that the p-values are calibrated on.

Of the models only the gate's points are loaded, not the models. Films are counted one a patient
where the patient is known: films of one patient are alike, and would count as many.
"""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from nofinding.data.ehr import EhrField
from nofinding.gate.drift import DRIFT_LEAST, drift
from nofinding.model.input_gate import reference_of
from nofinding.model.pretrained import AUTO, SHIPPED, model_folder
from nofinding.scoring.job import shown
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import QueuedJob
from nofinding.storage import checkpoint

__all__ = ["Drifting"]

MOST_FILMS = 2000  # of the latest that are looked at
MOST_DAYS = 60
FRESH = 60.0  # seconds that an answer is good for


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a model's films are compared with."""

    sha256: str
    points: np.ndarray | None
    scores: np.ndarray | None
    record: Mapping[str, Any]
    normals: int
    median: float | None


def _reference(name: str) -> Reference:
    """Of the model of that name. Raises UserError where its folder is damaged."""
    folder = model_folder(name)
    meta = checkpoint.load_meta(folder / "model")
    reference = reference_of(folder) if (meta.get("gate") or {}).get("fitted") else None
    calibration = (meta.get("calibration") or {}).get("scores") or []
    counts = meta.get("counts") or {}
    return Reference(
        sha256=str(meta.get("sha256", "")),
        points=None if reference is None else reference[0],
        scores=None if reference is None else reference[1],
        record=meta.get("record") or {},
        normals=int(counts.get("train normals", 0)),
        median=float(np.median(calibration)) if calibration else None,
    )


class Drifting:
    """Answers /v1/drift. Safe for several threads; works out one answer a minute."""

    def __init__(self, home: Home, model: str, fields: Mapping[str, EhrField]) -> None:
        self.home, self.fields = home, fields
        self.names = {name: name for name in SHIPPED} if model == AUTO else {shown(model): model}
        self._references: dict[str, Reference] = {}
        self._lock = threading.Lock()
        self._statement: tuple[float, dict[str, Any]] | None = None

    def __call__(self) -> dict[str, Any]:
        """By model: the test, what happened day by day, and the record against the training's.

        Raises UserError where a model's folder is damaged.
        """
        with self._lock:
            now = time.monotonic()
            if self._statement is None or now - self._statement[0] > FRESH:
                self._statement = (now, self._make())
            return self._statement[1]

    def _make(self) -> dict[str, Any]:
        jobs = self.home.queue.listed(
            order="created", descending=True, state="done", most=MOST_FILMS
        )
        by_model: dict[tuple[str, str], list[QueuedJob]] = defaultdict(list)
        refused: list[QueuedJob] = []
        for job in jobs:
            said = job.result or {}
            if said.get("model"):
                by_model[str(said["model"]), str(said.get("sha256"))].append(job)
            else:
                refused.append(job)
        models = {}
        for (name, sha256), own in by_model.items():
            reference = self._of(name, sha256)
            title = name if reference is not None else f"{name} {sha256[:8]}"
            # Of a refused film nobody says which model would have scored it, unless there is one.
            also = refused if reference is not None and len(self.names) == 1 else []
            models[title] = self._about(own, also, reference)
        return {"models": models, "refused": _by_day(refused), "films": len(jobs)}

    def _of(self, name: str, sha256: str) -> Reference | None:
        """What the results of this model are compared with: None of one that is not ours now."""
        if name not in self.names:
            return None
        if name not in self._references:
            self._references[name] = _reference(self.names[name])
        reference = self._references[name]
        return reference if reference.sha256 == sha256 else None

    def _about(
        self, jobs: Sequence[QueuedJob], refused: Sequence[QueuedJob], reference: Reference | None
    ) -> dict[str, Any]:
        return {
            "n": len(jobs),
            **_tested(jobs, reference),
            "median_calibration_score": None if reference is None else reference.median,
            "days": _by_day([*jobs, *refused]),
            "record": self._record(jobs, reference),
        }

    def _record(
        self, jobs: Sequence[QueuedJob], reference: Reference | None
    ) -> list[dict[str, Any]]:
        """How much of the record is known, and its medians, beside those of the training films."""
        known: dict[str, list[float]] = defaultdict(list)
        for job in jobs[:500]:
            payload = self.home.results.payload(job.id)
            for entry in (payload or {}).get("record", ()):
                if entry.get("value") is not None:
                    known[entry["field"]].append(float(entry["value"]))
        n = min(len(jobs), 500)
        trained = {} if reference is None else _trained(reference)
        rows = []
        for name, field in self.fields.items():
            if name not in known and name not in trained:
                continue
            values = known.get(name, [])
            row: dict[str, Any] = {"field": name, "unit": field.unit, "n": n}
            row["known_share"] = len(values) / n if n else 0.0
            numeric = field.kind == "numeric"
            row["median"] = statistics.median(values) if values and numeric else None
            row["shares"] = _shares(values, field.categories)
            rows.append(row | trained.get(name, {}))
        return rows


def _shares(values: Sequence[float], categories: Sequence[str]) -> dict[str, float]:
    return {
        text: sum(value == index for value in values) / len(values)
        for index, text in enumerate(categories)
        if values
    }


def _trained(reference: Reference) -> dict[str, dict[str, Any]]:
    """By field: share known, mean and spread among the training normals."""
    stored, fields = reference.record, {}
    columns = [stored.get(name, []) for name in ("fields", "mean", "std", "known")]
    for field, mean, std, known in zip(*columns, strict=True):
        numeric = field["kind"] == "numeric" and known > 0
        fields[field["name"]] = {
            "training_known_share": known / reference.normals if reference.normals else None,
            "training_mean": mean if numeric else None,
            "training_sd": std if numeric else None,
        }
    return fields


def _tested(jobs: Sequence[QueuedJob], reference: Reference | None) -> dict[str, Any]:
    """The permutation test on the latest film of each patient, or why there is none."""
    none = {"tested": False, "p": None, "effect": None, "alarming": None, "line": None}
    if reference is None:
        return {**none, "why": "the model is not the one that scores now"}
    if reference.points is None or reference.scores is None:
        return {**none, "why": "the model has no input gate"}
    latest: dict[str, QueuedJob] = {}
    for job in jobs:
        if len((job.result or {}).get("point") or ()) == reference.points.shape[1]:
            patient = job.payload.get("patient") or (job.result or {}).get("patient")
            latest.setdefault(str(patient or job.film), job)
    for n, which in ((len(reference.points), "calibration"), (len(latest), "scored")):
        if n < DRIFT_LEAST:
            return {
                **none,
                "why": f"{n} patients among the {which} films, {DRIFT_LEAST} are needed",
            }
    results = [job.result or {} for job in latest.values()]
    points = np.array([result["point"] for result in results], dtype=np.float64)
    scores = np.array([result["score"] for result in results], dtype=np.float64)
    drift_result = drift(reference.points, reference.scores, points, scores)
    return {
        "tested": True,
        "patients": len(latest),
        "p": drift_result.p,
        "effect": drift_result.effect,
        "alarming": drift_result.alarming,
        "line": drift_result.line(),
        "why": None,
    }


def _by_day(jobs: Sequence[QueuedJob]) -> list[dict[str, Any]]:
    """What came each day (UTC), the first day first."""
    days: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for job in jobs:
        days[datetime.fromtimestamp(job.created, UTC).date().isoformat()].append(job.result or {})
    rows = []
    for day in sorted(days)[-MOST_DAYS:]:
        scores = [r["score"] for r in days[day] if r.get("score") is not None]
        ps = [r["p_value"] for r in days[day] if r.get("p_value") is not None]
        rows.append(
            {
                "day": day,
                "n": len(days[day]),
                "median_score": statistics.median(scores) if scores else None,
                "median_p": statistics.median(ps) if ps else None,
                "share_p05": sum(p <= 0.05 for p in ps) / len(ps) if ps else None,
                "refused": sum(bool(r.get("refused")) for r in days[day]),
            }
        )
    return rows
