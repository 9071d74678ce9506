"""The numbers of a bench: one table a cohort, every method judged on the same films."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from nofinding.evaluation.statistics.comparison import (
    Contrast,
    Ranks,
    Subset,
    agreement,
    contrast,
    holm,
    mean_auroc,
    mean_metrics,
    ranks_over,
    subsets,
)
from nofinding.evaluation.statistics.intervals import DRAWS, Estimate, difference, patient_index
from nofinding.evaluation.statistics.metrics import area_under_roc, count
from nofinding.recipes import Published
from nofinding.types import Exam

__all__ = ["Bench", "Cohort", "Entry", "Failure", "Row", "Table", "tabulate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A method on a cohort: a score of every film by every seed that came to its end."""

    label: str
    """Its name, and its preset where that is not the bench's."""
    method: str
    preset: str
    summary: str
    paper: str
    supervision: str
    uses_ehr: bool
    baseline: bool
    seeds: tuple[int, ...]
    scores: Float[np.ndarray, "s n"]
    cost: Mapping[str, float | None]
    """fit_minutes, films_per_second, network_calls, gflop, peak_memory_mib: medians over seeds."""
    pixels: Mapping[str, float] | None = None
    """pixel_auroc, aupro, dice, best_dice with the ends of their intervals, of the first seed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell without a result."""

    label: str
    seed: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The judged films of one cohort and what every method said of them."""

    name: str
    phantom: bool
    exams: tuple[Exam, ...]
    train: int
    pool: int
    entries: tuple[Entry, ...]
    failures: tuple[Failure, ...] = ()
    matched: Int[np.ndarray, " m"] | None = None
    """Films in matched pairs, where they were asked for."""
    published: tuple[Published, ...] = ()
    """What papers report under the protocol that was asked for."""
    deviations: tuple[str, ...] = ()
    """Where the films are not those of the published protocol."""

    @property
    def abnormal(self) -> Bool[np.ndarray, " n"]:
        return np.array([bool(exam.findings) for exam in self.exams])

    @property
    def patient(self) -> Int[np.ndarray, " n"]:
        return patient_index([exam.patient_id for exam in self.exams])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table."""

    entry: Entry
    metrics: Mapping[str, Estimate]
    by_seed: tuple[float, ...]  # AUROC
    matched: Estimate | None
    to_first: Contrast | None  # first row - this one; None for the first row
    p_holm: float | None  # of that, corrected for the number of rows
    not_beaten: tuple[str, ...]  # baselines that it does not beat; () for one that is trivial
    published: tuple[Published, ...] = ()

    @property
    def spread(self) -> float | None:
        """Standard deviation of the AUROC over seeds; None for one seed."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One cohort, the best AUROC first."""

    cohort: Cohort
    rows: tuple[Row, ...]
    subsets: tuple[Subset, ...]
    by_subset: Mapping[str, tuple[Estimate | None, ...]]
    """AUROC by label, in the order of `subsets`."""
    agreement: Float[np.ndarray, "k k"]
    """Spearman, in the order of `rows`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything that the report says."""

    tables: tuple[Table, ...]
    ranks: Ranks | None
    draws: int
    seeds: int
    preset: str
    split: str
    recipe: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)


def tabulate(cohort: Cohort, *, draws: int = DRAWS) -> Table:
    """Gives the table of a cohort. Labels and scores meet here, and nowhere before."""
    abnormal, patient = cohort.abnormal, cohort.patient
    measured = [(e, mean_metrics(e.scores, abnormal, patient, draws=draws)) for e in cohort.entries]
    measured.sort(key=lambda pair: -pair[1]["auroc"].value)
    entries = [entry for entry, _ in measured]
    rows = []
    gaps = [contrast(entries[0].scores, e.scores, abnormal, patient) for e in entries[1:]]
    corrected = holm([gap.p_value for gap in gaps])
    to_beat = [_turned(e, abnormal, patient, draws) for e in entries if e.baseline]
    for place, (entry, metrics) in enumerate(measured):
        rows.append(
            Row(
                entry=entry,
                metrics=metrics,
                by_seed=tuple(float(area_under_roc(count(s, abnormal))) for s in entry.scores),
                matched=_matched(entry, cohort, draws),
                to_first=gaps[place - 1] if place else None,
                p_holm=corrected[place - 1] if place else None,
                not_beaten=_not_beaten(entry, to_beat, abnormal, patient, draws),
                published=tuple(p for p in cohort.published if p.ours == entry.method),
            )
        )
    groups = subsets(cohort.exams, abnormal)
    return Table(
        cohort=cohort,
        rows=tuple(rows),
        subsets=tuple(groups),
        by_subset={
            e.label: tuple(g.auroc(e.scores, abnormal, patient, draws=draws) for g in groups)
            for e in entries
        },
        agreement=agreement({e.label: e.scores for e in entries}),
    )


def ranked(tables: Sequence[Table]) -> Ranks | None:
    """Gives the mean ranks over the cohorts of the methods that have a number on each."""
    return ranks_over(
        {
            t.cohort.name: {row.entry.label: row.metrics["auroc"].value for row in t.rows}
            for t in tables
        }
    )


def _matched(entry: Entry, cohort: Cohort, draws: int) -> Estimate | None:
    films = cohort.matched
    if films is None or not len(films):
        return None
    patients = [cohort.exams[i].patient_id for i in films]
    return mean_auroc(
        entry.scores[:, films], cohort.abnormal[films], patient_index(patients), draws=draws
    )


def _turned(
    entry: Entry,
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
    draws: int,
) -> tuple[str, Float[np.ndarray, " n"]]:
    """A baseline's label and score (first seed); turned round if right the wrong way round."""
    score = entry.scores[0]
    if mean_auroc(score[None], abnormal, patient, draws=draws).high < 0.5:
        return f"{entry.label} (turned round)", -score
    return entry.label, score


def _not_beaten(
    entry: Entry,
    to_beat: Sequence[tuple[str, Float[np.ndarray, " n"]]],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
    draws: int,
) -> tuple[str, ...]:
    """The baselines over which the paired interval of the AUROC's difference (first seed) does
    not lie above 0."""
    if entry.baseline:
        return ()
    score = entry.scores[0]
    return tuple(
        label
        for label, baseline in to_beat
        if not difference(score, baseline, abnormal, patient, draws=draws).low > 0
    )
