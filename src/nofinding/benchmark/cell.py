"""One cell of a bench: a method fitted and its scores of the evaluated films, in a process of its
own, so that nothing that goes wrong in it touches another."""

import csv
import hashlib
import io
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import EhrField, EhrStats
from nofinding.data.image import Aspect, fit_square_mask
from nofinding.errors import UserError
from nofinding.evaluation.statistics.intervals import DRAWS, patient_index
from nofinding.evaluation.statistics.pixels import MappedFilm, measure_pixels, normal_threshold
from nofinding.methods import METHODS
from nofinding.methods.base.protocol import Detector, LearnsFromOthers, dimensions_of
from nofinding.model.bundle import save_model
from nofinding.runtime import FlopCounter, before_fit, to_device, use_threads
from nofinding.storage import checkpoint
from nofinding.storage.atomic import write_atomic
from nofinding.training import TrainingRun
from nofinding.types import Batch, Exam, Scores
from nofinding.workflows.fit import apart, others_of, set_auxiliary

__all__ = ["Cell", "Result", "Share", "read_result", "run_cell"]

BATCH = 16  # films scored at once; no score depends on it
RESULT = "cell.json"
IDENTITY = "identity.json"
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Share:
    """The films of a cohort, as every method of a bench gets them."""

    name: str
    fingerprint: str
    train: tuple[Exam, ...]
    """Normal films to learn from."""
    pool: tuple[Exam, ...]
    """Films for those that learn from unlabelled or diseased ones, too; judged by nobody."""
    pool_is_given: bool
    """Whether the pool was set aside for that, or is what else is in split train."""
    judged: tuple[Exam, ...]
    """Labelled films, by id; a method sees them without their labels, after fitting."""
    fields: tuple[EhrField, ...]

    def digest(self) -> str:
        """Changes with any film of any part, and with anything that is known of it."""
        identity = [
            [f"{r.image_id}|{r.patient_id}|{sorted(r.findings or ['?'])}|{sorted(r.ehr.items())}"
             for r in part]
            for part in (self.train, self.pool, self.judged)
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method, one cohort, one seed."""

    method: str
    preset: str
    seed: int
    share: Share
    folder: Path
    shared: Path
    """Networks that several methods train alike."""
    cache: Path
    aspect: Aspect
    accelerator: str
    threads: int

    @property
    def label(self) -> str:
        """What a reader calls it."""
        return f"{self.method}:{self.preset} on {self.share.name}, seed {self.seed}"

    def identity(self) -> dict[str, Any]:
        """What a result must have in common with this cell to count as its."""
        identity = {
            "method": self.method,
            "preset": self.preset,
            "config": asdict(METHODS[self.method].PRESETS[self.preset]),
            "seed": self.seed,
            "cohort": self.share.name,
            "films": self.share.digest(),
            "aspect": self.aspect,
        }
        plain: dict[str, Any] = json.loads(json.dumps(identity))
        return plain


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a cell."""

    identity: dict[str, Any]
    status: str
    """done, or failed."""
    why: str = ""
    """Of a failed one: one line."""
    cost: dict[str, float | None]
    about: dict[str, Any]
    """Summary, paper, supervision, versions."""
    pixels: dict[str, Any] | None = None
    """Pixel metrics with their intervals, where lesions are drawn."""


def read_result(cell: Cell) -> Result | None:
    """The result in the cell's folder; None where there is none, or it is of another cell."""
    file = cell.folder / RESULT
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        result = Result(**content)
    except (OSError, ValueError, TypeError):
        return None
    return result if result.identity == cell.identity() else None


def write_result(cell: Cell, result: Result) -> None:
    """Puts it into the cell's folder, whole or not at all."""
    text = json.dumps(asdict(result), indent=1, allow_nan=False)
    write_atomic(cell.folder / RESULT, text.encode())


def failed(cell: Cell, why: str) -> Result:
    """A result that says why there is none."""
    return Result(identity=cell.identity(), status="failed", why=why, cost={}, about=_about(cell))


def run_cell(cell: Cell) -> None:
    """Fits, scores, and writes model, scores.csv and cell.json. Whatever goes wrong ends up there.

    Run in a process of its own: the peak memory is that of the process.
    """
    _quiet()
    use_threads(cell.threads)
    _clear_another(cell)
    try:
        write_result(cell, _run(cell))
    except UserError as error:
        write_result(cell, failed(cell, str(error)))
    except Exception as error:
        write_atomic(cell.folder / "error.txt", traceback.format_exc().encode())
        line = (str(error).splitlines() or [""])[0]
        write_result(cell, failed(cell, f"{type(error).__name__}: {line} (see error.txt)"))


def _clear_another(cell: Cell) -> None:
    """Drops what an earlier cell of other films or settings left in the folder; what this one left
    when it was interrupted stays, and is gone on from."""
    file = cell.folder / IDENTITY
    identity = json.dumps(cell.identity(), sort_keys=True, indent=1).encode()
    if cell.folder.exists() and (not file.is_file() or file.read_bytes() != identity):
        shutil.rmtree(cell.folder)
    write_atomic(file, identity)


def _quiet() -> None:
    """A cell's own messages would interleave with its neighbours'."""
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stderr.fileno())


def _about(cell: Cell) -> dict[str, Any]:
    kind = METHODS[cell.method]
    return {
        "summary": kind.summary,
        "paper": kind.paper,
        "supervision": str(kind.supervision),
        "version": checkpoint.code_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _run(cell: Cell) -> Result:
    share = cell.share
    stats = EhrStats.of(share.train, share.fields)
    config = METHODS[cell.method].PRESETS[cell.preset]
    detector = METHODS[cell.method](config, stats)

    def films(exams: Sequence[Exam]) -> Films:
        cache = FilmCache(cell.cache)
        return Films(exams, stats, detector.image_size, cell.aspect, cache, dimensions_of(detector))

    training, judged = films(share.train), films(share.judged)
    apart(training, judged, "evaluated")
    _meet(cell, detector, films, judged)
    job = TrainingRun(
        folder=cell.folder / "training",
        resume=True,
        progress=False,
        accelerator=cell.accelerator,
        shared=cell.shared,
        about=cell.identity(),
    )
    before_fit(detector, cell.accelerator)
    start = time.perf_counter()
    detector.fit(training, seed=cell.seed, job=job)
    # A network that a sibling has trained costs this method what it cost the sibling.
    seconds = time.perf_counter() - start + getattr(detector, "borrowed_seconds", 0.0)
    to_device(detector, cell.accelerator)
    scores, maps, cost = _score(detector, judged, cell.seed, keep_maps=_drawn(share))
    save_model(cell.folder, detector, _meta(cell, detector, share, seconds / 60))
    write_atomic(cell.folder / "scores.csv", _csv(judged.ids, scores))
    shutil.rmtree(cell.folder / "training", ignore_errors=True)  # the model has what is needed
    return Result(
        identity=cell.identity(),
        status="done",
        cost={"fit_minutes": seconds / 60, "peak_memory_mib": _peak_memory(), **cost},
        about=_about(cell) | {"uses_ehr": detector.uses_ehr, "fields": list(detector.fields_used)},
        pixels=_pixels(cell, maps, detector.image_size) if maps else None,
    )


def _meet(cell: Cell, detector: Detector, films: Any, judged: Films) -> None:
    """Shows a method that learns from them the films of the pool."""
    if not isinstance(detector, LearnsFromOthers):
        return
    others = others_of(detector, cell.share.pool, given=cell.share.pool_is_given)
    if not others:
        raise UserError(
            f"{cell.method} learns from {detector.OTHERS} films, too, and the cohort has none: "
            "neither in split train nor, by --pool, set aside"
        )
    beside = films(others)
    apart(beside, judged, "evaluated")
    set_auxiliary(detector, beside)


def _score(
    detector: Detector, films: Films, seed: int, *, keep_maps: bool
) -> tuple[list[dict[str, float]], list[Tensor], dict[str, float | None]]:
    """Score and parts of every film, the maps if asked for, and what a film costs."""
    rows: list[dict[str, float]] = []
    maps: list[Tensor] = []
    spent, timed, gflop = 0.0, 0, 0.0
    for start in range(0, len(films), BATCH):
        batch = films.batch(range(start, min(start + BATCH, len(films))))
        if not start:  # once to count and to warm up, not timed
            gflop = _gflop(detector, batch, seed)
        begin = time.perf_counter()
        scores = detector.score(batch, seed=seed)
        spent, timed = spent + time.perf_counter() - begin, timed + len(batch.ids)
        if not scores.score.isfinite().all():
            raise UserError("a score is not a finite number: the fitted model is broken")
        rows += _rows(scores)
        if keep_maps and scores.anomaly_map is not None:
            maps += list(scores.anomaly_map[:, 0])
    cost: dict[str, float | None] = {
        "films_per_second": timed / spent,
        "network_calls": float(detector.network_calls),
        "gflop": gflop,
    }
    return rows, maps, cost


def _gflop(detector: Detector, batch: Batch, seed: int) -> float:
    """Operations a film, in units of 10^9, as torch counts them (products, convolutions)."""
    with FlopCounter() as counter:
        detector.score(batch, seed=seed)
    return float(counter.get_total_flops()) / 1e9 / len(batch.ids)


def _rows(scores: Scores) -> list[dict[str, float]]:
    return [
        {"score": float(scores.score[i]), **{k: float(v[i]) for k, v in scores.components.items()}}
        for i in range(len(scores.score))
    ]


def _csv(ids: Sequence[str], rows: Sequence[dict[str, float]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", *rows[0]])
    for image_id, row in zip(ids, rows, strict=True):
        writer.writerow([image_id, *(f"{value:.9g}" for value in row.values())])
    return text.getvalue().encode()


def _peak_memory() -> float:
    """Of this process, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def _meta(cell: Cell, detector: Detector, share: Share, minutes: float) -> dict[str, Any]:
    """What `nofinding score --model` wants to know; without a calibration, so without p-values."""
    return {
        "preset": cell.preset,
        "seed": cell.seed,
        "source": share.name,
        "image_size": detector.image_size,
        "aspect": cell.aspect,
        "data_fingerprint": share.fingerprint,
        "counts": {"train normals": len(share.train), "calibration normals": 0},
        "training_pixels": [],
        "calibration": {"from": "none", "scores": [], "ids": []},
        "gate": {"fitted": False, "why": "made by bench"},
        "map_threshold": None,
        "fit_minutes": minutes,
        "machine": f"{torch.get_num_threads()} threads",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }


def _drawn(share: Share) -> bool:
    return any(exam.lesion is not None for exam in share.judged)


def _pixels(cell: Cell, maps: Sequence[Tensor], size: int) -> dict[str, Any] | None:
    """How well the maps point at what was drawn; the threshold of Dice is set on the judged
    normal films."""
    films, patients = [], []
    for exam, heat in zip(cell.share.judged, maps, strict=True):
        lesion = None
        if exam.findings:
            if exam.lesion is None:
                continue  # its abnormal pixels are not known
            lesion = fit_square_mask(exam.lesion(), size, cell.aspect)
            if not lesion.any():
                continue
        films.append(MappedFilm(partial(np.asarray, heat.numpy()), lesion))
        patients.append(exam.patient_id)
    normal = [film.anomaly_map for film in films if film.lesion is None]
    if not normal or len(normal) == len(films):
        return None
    measured = measure_pixels(
        films, patient_index(patients), normal_threshold(normal), draws=DRAWS // 4
    )
    estimates = {name: estimate._asdict() for name, estimate in measured.estimates.items()}
    return {"lesion_films": measured.lesion_films, **estimates}
