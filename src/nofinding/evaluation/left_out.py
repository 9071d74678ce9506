"""Leave one site out: what is fitted on the normals of other hospitals, on the films of this one.

False positives are counted on normal films alone, and lesions are put into these. The site's
abnormal films are opened only where the caller hands them over: they are for one last look.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from nofinding.datasets.insertion.trial import Trial
from nofinding.evaluation.known_answers import Scorer, Verdict, judge
from nofinding.evaluation.statistics.area_interval import auroc_interval
from nofinding.evaluation.statistics.conformal import p_values, share
from nofinding.evaluation.statistics.intervals import Estimate, patient_index, share_intervals
from nofinding.types import Exam

__all__ = [
    "LEVEL",
    "Adapt",
    "Fit",
    "Fitted",
    "Opened",
    "Row",
    "Site",
    "judge_site",
    "leave_one_out",
    "mixture",
    "recalibrated",
    "scores_of",
    "site_table",
]

LEVEL = 0.05
BATCH = 16


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted, and the scores of normal films that it was not fitted on."""

    scorer: Scorer
    calibration: Float[np.ndarray, " n"]


Fit = Callable[[str, Sequence[Exam]], Fitted]
"""Fits on normal films, of which it keeps some back to calibrate on; first, what is left out."""
Adapt = Callable[[Fitted, Sequence[Exam], bool], Fitted]
"""Adapts to films of a site; True: all are known to be normal, False: nothing is known of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A hospital's films, or those of them that come from one pipeline."""

    name: str
    """A row; several may share a group."""
    group: str
    """What is left out together: both resolutions of one set of films, for example."""
    train: Sequence[Exam]
    """Normal films; others may be fitted on them, and this site may be adapted to with them."""
    normal: Sequence[Exam]
    """Normal val films: false positives."""
    trial: Trial | None = None
    """Lesions of known place in val films."""
    opened: "Opened | None" = None
    """Abnormal val films, on the one last look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The labelled val films of a site, and which of them make matched pairs."""

    exams: Sequence[Exam]
    paired: Int[np.ndarray, " m"] | None = None
    """Indices; None: no pairs are needed here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A site before or after adapting."""

    site: str
    adapted: str
    """"no", "100 normal", "100 unlabelled"."""
    normal: int
    called: Estimate
    """Share of normal val films at p <= LEVEL."""
    shift: float
    """How far the median normal lies from the calibration's, in the calibration's spreads."""
    verdict: Verdict | None = None
    auroc: Mapping[str, Estimate] = field(default_factory=dict)
    """Of opened abnormal films: all, and in matched pairs."""


def leave_one_out(
    sites: Sequence[Site],
    fit: Fit,
    adapt: Adapt | None = None,
    *,
    local: int = 100,
    unlabelled: Mapping[str, Sequence[Exam]] | None = None,
    only: Sequence[str] = (),
    draws: int = 2000,
    seed: int = 0,
) -> list[Row]:
    """Fits without each group of sites in turn, and judges on its sites.

    `fit` takes the group's name and the normal training films of all other groups. `adapt` is
    tried on `local` normal training films of the site and, where `unlabelled` has films by site,
    on those. Sites without enough training films are adapted to with what there is.
    """
    rows = []
    for group in dict.fromkeys(site.group for site in sites):
        here = [s for s in sites if s.group == group and (not only or s.name in only)]
        if not here:
            continue
        others = [r for site in sites if site.group != group for r in site.train]
        _check_apart(others, here)
        fitted = fit(group, others)
        for site in here:
            rows.append(judge_site(site, fitted, "no", draws=draws, seed=seed))
            if adapt is None:
                continue
            films = _some(site.train, local)
            fit_to = adapt(fitted, films, True)
            rows.append(judge_site(site, fit_to, f"{len(films)} normal", draws=draws, seed=seed))
            mixed = (unlabelled or {}).get(site.name, ())
            if mixed:
                fit_to = adapt(fitted, mixed, False)
                named = f"{len(mixed)} unlabelled"
                rows.append(judge_site(site, fit_to, named, draws=draws, seed=seed))
    return rows


def _check_apart(others: Sequence[Exam], here: Sequence[Site]) -> None:
    """Raises ValueError where a patient that is judged is among those that are fitted on."""
    judged = {r.patient_id for site in here for r in site.normal}
    both = judged & {r.patient_id for r in others}
    if both:
        raise ValueError(f"{len(both)} patients of the site left out are among the others'")


def _some(exams: Sequence[Exam], most: int) -> list[Exam]:
    """So many, at even distances in the order of their ids."""
    ordered = sorted(exams, key=lambda r: r.image_id)
    n = min(most, len(ordered))
    return [ordered[i * len(ordered) // n] for i in range(n)]


def mixture(normal: Sequence[Exam], trial: Trial, sick: float) -> list[Exam]:
    """Films as a hospital has them, unlabelled: a share of them has a lesion put into it.

    `trial` is of the same normal films. A film is in it once, with the lesion or without.
    """
    by_twin: dict[str, list[Exam]] = {}
    for case in trial.cases:
        by_twin.setdefault(case.twin.image_id, []).append(case.record)
    remaining = round(sick * len(normal))
    films = []
    for i, exam in enumerate(normal):
        lesions = by_twin.get(exam.image_id, [])
        if lesions and remaining > 0:
            exam, remaining = lesions[i % len(lesions)], remaining - 1
        films.append(replace(exam, findings=None))
    return films


def scores_of(scorer: Scorer, exams: Sequence[Exam]) -> Float[np.ndarray, " n"]:
    """The scores of films, a few at a time."""
    parts = [scorer(exams[i : i + BATCH])[0] for i in range(0, len(exams), BATCH)]
    return np.concatenate([np.empty(0), *parts]).astype(np.float64)


def recalibrated(fitted: Fitted, local: Sequence[Exam], normal: bool) -> Fitted:
    """The plainest adaptation, and what every other must beat: the score stays, p-values move.

    Normal films become the calibration. Of unlabelled ones the lower half is believed: the old
    calibration is moved to their median and stretched to their lower spread. A share of diseased
    films still lifts that median a little.
    """
    scores = scores_of(fitted.scorer, local)
    if normal:
        return Fitted(fitted.scorer, scores)
    low, middle = np.quantile(scores, [0.159, 0.5])
    old_low, old_middle = np.quantile(fitted.calibration, [0.159, 0.5])
    stretch = (middle - low) / max(old_middle - old_low, 1e-12)
    return Fitted(fitted.scorer, middle + stretch * (fitted.calibration - old_middle))


def judge_site(
    site: Site, fitted: Fitted, adapted: str, *, draws: int = 2000, seed: int = 0
) -> Row:
    """False positives of the site's normals, lesions, and abnormal films if they were opened."""
    scores = scores_of(fitted.scorer, site.normal)
    called = p_values(scores, fitted.calibration) <= LEVEL + 1e-9
    low, middle, high = np.quantile(fitted.calibration, [0.159, 0.5, 0.841])
    shift = float((np.median(scores) - middle) / max((high - low) / 2, 1e-12))
    return Row(
        site=site.name,
        adapted=adapted,
        normal=len(scores),
        called=_share(called, site.normal, draws, seed),
        shift=shift,
        verdict=None if site.trial is None else judge(site.trial, fitted.scorer, seed=seed),
        auroc={} if site.opened is None else _opened(site.opened, fitted.scorer),
    )


def _share(
    called: Bool[np.ndarray, " n"], exams: Sequence[Exam], draws: int, seed: int
) -> Estimate:
    """Share of films called: exact binomial bounds, or by patient where some have several films."""
    patient = patient_index([r.patient_id for r in exams])
    if len(np.unique(patient)) == len(patient):
        exact = share(int(called.sum()), len(called))
        return Estimate(exact.value, exact.low, exact.high, exact.n)

    def statistic(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c 1"]:
        return np.asarray(((weight @ called) / weight.sum(axis=1))[:, None])

    patients = len(np.unique(patient))
    return share_intervals(statistic, patient, patients, draws=draws, seed=seed)[0]


def _opened(opened: Opened, scorer: Scorer) -> dict[str, Estimate]:
    scores = scores_of(scorer, opened.exams)
    abnormal = np.array([bool(r.findings) for r in opened.exams])
    patient = patient_index([r.patient_id for r in opened.exams])
    parts = {"all": np.arange(len(scores))}
    if opened.paired is not None:
        parts["matched pairs"] = opened.paired
    return {
        name: auroc_interval(scores[None, rows], abnormal[rows], patient[rows])
        for name, rows in parts.items()
    }


def site_table(rows: Sequence[Row], kinds: Sequence[str]) -> str:
    """The rows as a table of Markdown, with the AUROC of whole kinds of lesions."""
    opened = any(row.auroc for row in rows)
    heads = [f"{kind}, AUROC (marked at 1)" for kind in kinds]
    heads += ["abnormal val films, AUROC"] if opened else []
    lines = [
        "| site left out | adapted with | normal films | called at p <= 0.05 | shift of the "
        "median, spreads | " + " | ".join(heads) + " |",
        "|---" * (5 + len(heads)) + "|",
    ]
    for row in rows:
        c = row.called
        cells = [row.site, row.adapted, str(row.normal)]
        cells += [f"{100 * c.value:.1f} % ({100 * c.low:.1f} to {100 * c.high:.1f})"]
        cells += [f"{row.shift:+.2f}", *(_lesion(row.verdict, kind) for kind in kinds)]
        if opened:
            cells.append("; ".join(f"{k} {_cell(e)}" for k, e in row.auroc.items()))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _lesion(verdict: Verdict | None, kind: str) -> str:
    if verdict is None:
        return ""
    try:
        row = verdict.row(kind)
    except KeyError:
        return ""
    marked = f"; {row.froc[1].value:.2f}" if row.froc else ""
    return _cell(row.auroc) + marked


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
