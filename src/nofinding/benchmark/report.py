"""From the cells of a bench to its report: the one place where their scores meet the labels."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from nofinding.benchmark.cell import Cell, Result, Share
from nofinding.benchmark.options import BenchOptions
from nofinding.benchmark.page import FilmViews, View, write
from nofinding.benchmark.tables import Bench, Cohort, Entry, Failure, Table, ranked, tabulate
from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.evaluation.baselines import BASELINES, METADATA, metadata_baseline
from nofinding.evaluation.statistics.comparison import disagreed_most, mean_rank
from nofinding.evaluation.statistics.intervals import patient_index
from nofinding.evaluation.statistics.matching import covariates, matched_pairs
from nofinding.model.bundle import load_model
from nofinding.progress import say, tracked
from nofinding.recipes import Published
from nofinding.scoring.maps import overlay
from nofinding.types import Exam, Supervision

__all__ = ["CohortResults", "write_report"]

COSTS = ("fit_minutes", "films_per_second", "network_calls", "gflop", "peak_memory_mib")
MATCHED_AT = 64  # pixels, enough for brightness and black area
SHOWN, BESIDE = 6, 8  # films that methods disagree on, and maps beside each

CHOSEN = {
    "test": "none was chosen on the judged films.",
    "val": "this bench chooses none. But these are validation films, and whoever made a method may "
    "have looked at them before: a lead is then too large.",
}  # by the split that is judged


@dataclass(frozen=True, kw_only=True)
class CohortResults:
    """A cohort and what became of its cells."""

    share: Share
    phantom: bool
    cells: tuple[tuple[Cell, Result], ...]
    metadata: bool
    """Whether the classifier on the record was asked for."""
    published: tuple[Published, ...] = ()
    deviations: tuple[str, ...] = ()
    """Where the films are not those of the published protocol."""


def write_report(results: Sequence[CohortResults], options: BenchOptions) -> Path:
    """Writes report.html, results.json, results.csv and table.tex; gives the report's path.

    Raises UserError where no method has a score on some cohort.
    """
    tables = []
    for result in tracked(list(results), "measuring"):
        cohort = _cohort(result, options)
        if not cohort.entries:
            whys = sorted({failure.why for failure in cohort.failures})
            raise UserError(f"{cohort.name}: no cell came to its end ({'; '.join(whys)[:300]})")
        tables.append(tabulate(cohort, draws=options.bootstrap))
    bench = Bench(
        tables=tuple(tables),
        ranks=ranked(tables),
        draws=options.bootstrap,
        seeds=options.seeds,
        preset=options.preset,
        split=options.split,
        recipe=options.recipe,
        notes=_notes(options),
    )
    pictures = {}
    if options.pictures:
        for table, result in zip(tables, results, strict=True):
            pictures[table.cohort.name] = _disagreements(table, result)
    return write(bench, pictures, options.out)


def _notes(options: BenchOptions) -> tuple[str, ...]:
    most = f", at most {options.most} a cohort" if options.most else ""
    return (
        "Methods get batches of films and records, which hold no label. Labels meet the scores "
        "once all cells have ended.",
        f"They learn from the normal films of split train{most}. Options, epochs and scoring rules "
        f"are those of the preset: {CHOSEN[options.split]}",
        "What a method was told about disease stands beside it; rows of different tiers do not "
        "compete.",
        "The baselines are always there. metadata-only is told the labels of other judged "
        "patients: a check of the data, not a detector.",
    )


def _cohort(result: CohortResults, options: BenchOptions) -> Cohort:
    share = result.share
    ids = [exam.image_id for exam in share.judged]
    entries = []
    for label in dict.fromkeys(_label(cell, options) for cell, _ in result.cells):
        own = [(c, r) for c, r in result.cells if _label(c, options) == label]
        done = [(c, r) for c, r in own if r.status == "done"]
        if done:
            entries.append(_entry(label, done, ids))
    failures = [
        Failure(_label(c, options), c.seed, r.why) for c, r in result.cells if r.status != "done"
    ]
    if result.metadata:
        metadata_rows = _metadata(share, options.seeds)
        if isinstance(metadata_rows, Entry):
            entries.append(metadata_rows)
        else:
            failures.append(metadata_rows)
    return Cohort(
        name=share.name,
        phantom=result.phantom,
        exams=share.judged,
        train=len(share.train),
        pool=len(share.pool),
        entries=tuple(entries),
        failures=tuple(failures),
        published=result.published,
        deviations=result.deviations,
        matched=_matched(share, result.cells[0][0]) if options.matched else None,
    )


def _label(cell: Cell, options: BenchOptions) -> str:
    own = cell.preset != options.preset
    return f"{cell.method}:{cell.preset}" if own else cell.method


def _entry(label: str, done: Sequence[tuple[Cell, Result]], ids: Sequence[str]) -> Entry:
    cell, first = done[0]
    costs = {name: _median([r.cost.get(name) for _, r in done]) for name in COSTS}
    return Entry(
        label=label,
        method=cell.method,
        preset=cell.preset,
        summary=first.about["summary"],
        paper=first.about["paper"],
        supervision=first.about["supervision"],
        uses_ehr=bool(first.about.get("uses_ehr")),
        baseline=cell.method in BASELINES,
        seeds=tuple(c.seed for c, _ in done),
        scores=np.stack([_scores(c.folder / "scores.csv", ids) for c, _ in done]),
        cost=costs,
        pixels=first.pixels,
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _scores(file: Path, ids: Sequence[str]) -> Float[np.ndarray, " n"]:
    """The scores of these films, in this order. Raises UserError where one is missing."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            by_id = {row["image_id"]: float(row["score"]) for row in csv.DictReader(lines)}
        return np.array([by_id[image_id] for image_id in ids])
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{file}: is not what the cell wrote; delete its folder and run the bench again"
        ) from error


def _metadata(share: Share, seeds: int) -> Entry | Failure:
    """The classifier on the record alone; a seed is that of its folds."""
    abnormal = np.array([bool(r.findings) for r in share.judged])
    patient = patient_index([r.patient_id for r in share.judged])
    baselines = [
        metadata_baseline(share.judged, abnormal, patient, share.fields, seed=seed)
        for seed in range(seeds)
    ]
    scores = [b.score for b in baselines if b.score is not None]
    if len(scores) < len(baselines):
        return Failure(METADATA, 0, baselines[0].skipped)
    return Entry(
        label=METADATA,
        method=METADATA,
        preset="",
        summary="A classifier on the record alone, told the labels of other judged patients",
        paper="none (a baseline)",
        supervision=str(Supervision.EVALUATED_LABELS),
        uses_ehr=True,
        baseline=True,
        seeds=tuple(range(seeds)),
        scores=np.stack(scores),
        cost=dict.fromkeys(COSTS) | {"network_calls": 0.0, "gflop": 0.0},
    )


def _matched(share: Share, cell: Cell) -> Int[np.ndarray, " m"]:
    stats = EhrStats.of(share.train, share.fields)
    films = Films(share.judged, stats, MATCHED_AT, cell.aspect, FilmCache(cell.cache))
    abnormal = np.array([bool(r.findings) for r in share.judged])
    return matched_pairs(share.judged, abnormal, covariates(films))


def _disagreements(table: Table, result: CohortResults) -> list[FilmViews]:
    """The films that the best methods disagree on, with the map of each; of the first seed.

    Baselines, and those told the labels of the judged films, do not vote.
    """
    rows = [row for row in table.rows if not row.entry.baseline][:BESIDE]
    if len(rows) < 2:
        return []
    scores = {row.entry.label: row.entry.scores[:1] for row in rows}
    ranks = {label: mean_rank(own) for label, own in scores.items()}
    films = disagreed_most(scores, SHOWN)
    say(f"{result.share.name}: maps of the films on which methods disagree most")
    shown: dict[int, list[View]] = {i: [] for i in films}
    pictured: dict[int, str] = {}
    for row in rows:
        cell = next(
            c
            for c, r in result.cells
            if r.status == "done" and (c.method, c.preset) == (row.entry.method, row.entry.preset)
        )
        maps, greys = _maps(cell, [result.share.judged[i] for i in films])
        for place, i in enumerate(films):
            picture = None if maps is None else _picture(greys[place], maps[place])
            shown[i].append(View(row.entry.label, float(ranks[row.entry.label][i]), picture))
            pictured[i] = max(pictured.get(i, ""), _picture(greys[place], None), key=len)
    return [_film(result.share.judged[i], pictured[i], shown[i]) for i in films]


def _maps(cell: Cell, exams: Sequence[Exam]) -> tuple[Any, Any]:
    """The maps of these films by the cell's model (None if it makes none), and the films."""
    model = load_model(cell.folder)
    detector = model.detector
    films = Films(exams, detector.stats, detector.image_size, cell.aspect, FilmCache(cell.cache))
    batch = films.batch(range(len(films)))
    scores = detector.score(batch, seed=cell.seed)
    greys = (batch.image[:, 0].numpy() + 1) / 2
    return None if scores.anomaly_map is None else scores.anomaly_map[:, 0].numpy(), greys


def _film(exam: Exam, film: str, views: Sequence[View]) -> FilmViews:
    label = ", ".join(sorted(exam.findings or ())) or "No finding"
    return FilmViews(exam.image_id, label, film, tuple(views))


def _picture(film: Float[np.ndarray, "h w"], heat: Float[np.ndarray, "h w"] | None) -> str:
    """The film, under the map if there is one, as a data URI."""
    if heat is None:
        picture = Image.fromarray((film * 255).round().astype(np.uint8))
    else:
        picture = overlay(film, heat / max(float(heat.max()), 1e-12), "")
    picture = picture.resize((160, 160), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
