"""What a detector is worth on lesions whose place and size are known, against the same films
without them.

Each lesion has a twin: the film before the lesion was put there. What else is odd about a film is
odd about its twin, so that site, scanner and brightness cannot help. All intervals count patients:
the AUROC's by the clustered logit, those of shares by draws of patients on the logit scale.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from nofinding.datasets.insertion.trial import Case, Trial
from nofinding.evaluation.statistics.intervals import (
    Estimate,
    patient_index,
    share_intervals,
    with_logit,
)
from nofinding.evaluation.statistics.metrics import area_under_roc, count
from nofinding.evaluation.statistics.pixels import MappedFilm, measure_pixels
from nofinding.types import Exam

__all__ = ["FALSE_POSITIVES", "Group", "Scorer", "Verdict", "froc", "judge", "table"]

Scorer = Callable[
    [Sequence[Exam]], tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n h w"] | None]
]
"""Scores of films (higher: more anomalous), and their anomaly maps on any grid, or None."""

FALSE_POSITIVES = (0.25, 1.0, 4.0)  # a normal film, at which a FROC curve is read
BATCH = 16
DRAWS = 1000
MARKS = 24  # highest places of a map that count as marks
NEAR = 0.02  # of the film's width: a mark so near to a lesion is on it
CELL = 0.75  # of a map's pixel, where this is more: a coarse map cannot point more finely
APART = 0.05  # of the film's width, between two marks
PIXEL_GRID = 112  # to which maps are reduced for the pixel AUROC
SIZES: dict[str, tuple[tuple[float, float], ...]] = {
    "nodule": ((4, 8), (8, 12), (12, 20), (20, 30)),
    "fracture": ((2, 5), (5, 8)),
}
CONTRASTS = ((0.0, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, np.inf))
LEAST = 10  # lesions that a row takes


@dataclass(frozen=True, slots=True)
class Response:
    """What is remembered of one scored film."""

    score: float
    marks: Float[np.ndarray, "m 3"] | None  # value, row and column in shares of the film
    small: Float[np.ndarray, "p p"] | None
    near: float  # of the film's width


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One row of the verdict."""

    kind: str
    group: str
    """"all", or which size, contrast or cell."""
    lesions: int
    films: int
    auroc: Estimate
    """Of films with the lesion against the same films without."""
    raised: Estimate
    """Share of lesions whose film scores above its own twin; 0.5 is chance."""
    hit: Estimate
    """Share of films whose map is highest on the lesion; NaN without maps."""
    hit_twin: float = float("nan")
    """The same of the twins, where nothing is."""
    place: float = float("nan")
    """Median over films: mean percentile, in its own map, of the pixels on the lesion."""
    place_twin: float = float("nan")
    """The same places in the maps of the twins: what chance and anatomy give."""
    froc: tuple[Estimate, ...] = ()
    """Share of lesions marked at FALSE_POSITIVES marks on a normal film; () without maps."""
    pixel_auroc: float = float("nan")
    """Over all pixels of these films and their twins; only of whole kinds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All rows, and what FROC curves are drawn from."""

    rows: tuple[Group, ...]
    curves: dict[str, tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]]
    """By kind: false positives a normal film, and share of lesions marked."""

    def row(self, kind: str, group: str = "all") -> Group:
        """One row by name. Raises KeyError."""
        for row in self.rows:
            if (row.kind, row.group) == (kind, group):
                return row
        raise KeyError(f"{kind}, {group}")


def judge(trial: Trial, scorer: Scorer, *, draws: int = DRAWS, seed: int = 0) -> Verdict:
    """Scores every film of the trial once, and compares lesions with twins by kind and grade."""
    twins = trial.twins
    by_twin = dict(zip((t.image_id for t in twins), _score(scorer, twins), strict=True))
    of_cases = _score(scorer, [case.record for case in trial.cases])
    lesions = list(zip(trial.cases, of_cases, strict=True))
    rows, curves = [], {}
    for kind in dict.fromkeys(case.kind for case in trial.cases):
        of_kind = [pair for pair in lesions if pair[0].kind == kind]
        for name, part in _groups(kind, of_kind):
            if name == "all" or len(part) >= LEAST:
                rows.append(_row(kind, name, part, by_twin, draws, seed))
        if all(s.marks is not None for _, s in of_kind):
            curves[kind] = froc([_value(case, s) for case, s in of_kind], _false(of_kind, by_twin))
    return Verdict(tuple(rows), curves)


def _score(scorer: Scorer, exams: Sequence[Exam]) -> list[Response]:
    responses = []
    for start in range(0, len(exams), BATCH):
        part = exams[start : start + BATCH]
        scores, maps = scorer(part)
        scores = np.asarray(scores, dtype=np.float64)
        if scores.shape != (len(part),) or not np.isfinite(scores).all():
            raise ValueError(f"a scorer gives {len(part)} finite numbers, not {scores.shape}")
        for i, score in enumerate(scores):
            responses.append(
                Response(float(score), *(_reduced(maps[i]) if maps is not None else NOTHING))
            )
    return responses


NOTHING = (None, None, NEAR)


def _reduced(
    values: Float[np.ndarray, "h w"],
) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, "p p"], float]:
    """The marks, the map on a coarse grid, and how near a mark must be to a lesion."""
    values = np.asarray(values, dtype=np.float32).squeeze()
    high, wide = values.shape
    window = max(3, round(APART * wide) | 1)
    peak = values == ndimage.maximum_filter(values, window)
    rows, columns = np.nonzero(peak)
    order = np.argsort(-values[rows, columns], kind="stable")[:MARKS]
    rows, columns = rows[order], columns[order]
    marks = np.stack(
        [values[rows, columns], (rows + 0.5) / high, (columns + 0.5) / wide], axis=1
    ).astype(np.float64)
    zoom = (PIXEL_GRID / high, PIXEL_GRID / wide)
    small = ndimage.zoom(values, zoom, order=1, grid_mode=True, mode="nearest")
    return marks, small.astype(np.float32), max(NEAR, CELL / min(high, wide))


def _groups(
    kind: str, pairs: Sequence[tuple[Case, Response]]
) -> list[tuple[str, list[tuple[Case, Response]]]]:
    groups = [("all", list(pairs))]
    for low, high in SIZES.get(kind, ()):
        part = [p for p in pairs if low <= p[0].diameter < high]
        groups.append((f"{low:g} to {high:g} mm", part))
    for low, high in CONTRASTS:
        part = [p for p in pairs if low <= p[0].contrast < high]
        above = f"contrast/noise > {low:g}"
        name = above if np.isinf(high) else f"contrast/noise {low:g} to {high:g}"
        groups.append((name, part))
    for cell in sorted({p[0].cell for p in pairs}):
        groups.append((cell, [p for p in pairs if p[0].cell == cell]))
    return groups


def _row(
    kind: str,
    group: str,
    pairs: Sequence[tuple[Case, Response]],
    twins: dict[str, Response],
    draws: int,
    seed: int,
) -> Group:
    films = {case.twin.image_id: case.twin for case, _ in pairs}
    patient = patient_index(
        [case.twin.patient_id for case, _ in pairs] + [t.patient_id for t in films.values()]
    )
    lesion = np.arange(len(patient)) < len(pairs)
    score = np.array([s.score for _, s in pairs] + [twins[i].score for i in films])
    own = np.array([twins[case.twin.image_id].score for case, _ in pairs])
    raised = (score[: len(pairs)] > own) + 0.5 * (score[: len(pairs)] == own)
    mapped = all(s.marks is not None for _, s in pairs)
    hits = np.array([_on(case, s) for case, s in pairs]) if mapped else np.full(len(pairs), np.nan)

    def statistic(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c 3"]:
        some = weight[:, : len(pairs)]
        area = area_under_roc(count(score, lesion, weight))
        with np.errstate(invalid="ignore"):
            shares = [(some @ v) / some.sum(axis=1) for v in (raised, hits)]
        return np.stack([area, *shares], axis=-1)

    patients = len(np.unique(patient[lesion]))
    auroc, above, hit = share_intervals(statistic, patient, patients, draws=draws, seed=seed)
    return Group(
        kind=kind,
        group=group,
        lesions=len(pairs),
        films=len(films),
        auroc=with_logit(auroc, score[None], lesion, patient),
        raised=above,
        hit=hit,
        **(_localised(pairs, twins, patient, group == "all", draws, seed) if mapped else {}),
    )


def _localised(
    pairs: Sequence[tuple[Case, Response]],
    twins: dict[str, Response],
    patient: Int[np.ndarray, " n"],
    pixels: bool,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """What a row says of the maps, by the names of `Group`."""
    values = np.array([_value(case, response) for case, response in pairs])
    both = [(case, twins[case.twin.image_id]) for case, _ in pairs]
    ids = dict.fromkeys(case.twin.image_id for case, _ in pairs)
    return {
        "place": float(np.median([_percentile(*pair) for pair in pairs])),
        "place_twin": float(np.median([_percentile(*pair) for pair in both])),
        "hit_twin": float(np.mean([_on(*pair) for pair in both])),
        "froc": _sensitivities(values, _false(pairs, twins), patient, len(pairs), draws, seed),
        "pixel_auroc": _pixel_auroc(pairs, [twins[i] for i in ids]) if pixels else float("nan"),
    }


def _inside(
    mask: Bool[np.ndarray, "h w"], marks: Float[np.ndarray, "m 3"], near: float
) -> Bool[np.ndarray, " m"]:
    """Which marks are on the lesion, or near enough to it."""
    high, wide = mask.shape
    rows = np.minimum((marks[:, 1] * high).astype(int), high - 1)
    columns = np.minimum((marks[:, 2] * wide).astype(int), wide - 1)
    return np.asarray(ndimage.distance_transform_edt(~mask)[rows, columns] <= near * wide)


def _value(case: Case, response: Response) -> float:
    """Of the highest mark on the lesion; -inf where there is none."""
    assert response.marks is not None
    inside = _inside(case.mask, response.marks, response.near)
    return float(response.marks[inside, 0].max()) if inside.any() else -np.inf


def _on(case: Case, response: Response) -> float:
    assert response.marks is not None
    return float(_inside(case.mask, response.marks[:1], response.near)[0])


def _small_mask(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "p p"]:
    high, wide = mask.shape
    zoom = (PIXEL_GRID / high, PIXEL_GRID / wide)
    cover = ndimage.zoom(mask.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest")
    return np.asarray(cover >= min(0.5, float(cover.max())))


def _percentile(case: Case, response: Response) -> float:
    """Mean percentile of the lesion's pixels among the pixels of the film; ties count half."""
    assert response.small is not None
    mask = _small_mask(case.mask)
    flat = np.sort(response.small, axis=None)
    inside = response.small[mask]
    below = np.searchsorted(flat, inside, "left") + np.searchsorted(flat, inside, "right")
    return float(100 * np.mean(below) / 2 / flat.size)


def _pixel_auroc(pairs: Sequence[tuple[Case, Response]], twins: Sequence[Response]) -> float:
    def reader(small: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: small

    films = [
        MappedFilm(reader(s.small), _small_mask(c.mask)) for c, s in pairs if s.small is not None
    ]
    films += [MappedFilm(reader(s.small), None) for s in twins if s.small is not None]
    measured = measure_pixels(films, np.arange(len(films)), 0.0, draws=0)
    return measured.estimates["pixel_auroc"].value


def _false(
    pairs: Sequence[tuple[Case, Response]], twins: dict[str, Response]
) -> list[Float[np.ndarray, " m"]]:
    """The values of all marks of each twin, once each."""
    ids = dict.fromkeys(case.twin.image_id for case, _ in pairs)
    return [marks[:, 0] for i in ids if (marks := twins[i].marks) is not None]


def froc(
    lesions: Sequence[float], false: Sequence[Float[np.ndarray, " m"]]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Marks on a normal film, and the share of lesions marked, at every threshold (rising).

    `lesions`: the value of the highest mark on each, -inf without one. `false`: the values of the
    marks of each normal film.
    """
    marks = np.concatenate([np.empty(0), *false])
    thresholds = np.unique(np.concatenate([marks, np.asarray(lesions)]))[::-1]
    thresholds = thresholds[np.isfinite(thresholds)]
    rising = np.sort(marks)
    per_film = (len(rising) - np.searchsorted(rising, thresholds, "left")) / max(1, len(false))
    values = np.sort(np.asarray(lesions, dtype=np.float64))
    share = (len(values) - np.searchsorted(values, thresholds, "left")) / max(1, len(values))
    return np.append(0.0, per_film), np.append(0.0, share)


def _sensitivities(
    values: Float[np.ndarray, " k"],
    false: Sequence[Float[np.ndarray, " m"]],
    patient: np.ndarray,
    lesions: int,
    draws: int,
    seed: int,
) -> tuple[Estimate, ...]:
    """Share of lesions marked at the lowest threshold that gives so few marks on normal films."""
    thresholds = np.unique(np.concatenate(false))[::-1]
    over = np.stack([(f[:, None] >= thresholds).sum(axis=0) for f in false])  # (films, k)
    marked = values[:, None] > thresholds  # of the marks above it, no normal one is lower
    marked_at = np.concatenate([marked, np.isfinite(values)[:, None]], axis=1)

    def statistic(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c 3"]:
        normal, some = weight[:, lesions:], weight[:, :lesions]
        with np.errstate(invalid="ignore"):
            per_film = (normal @ over) / normal.sum(axis=1)[:, None]
            # Above threshold k there are the marks of k - 1 and before: those are the false ones.
            allowed = np.stack([(per_film <= fp).sum(axis=1) for fp in FALSE_POSITIVES], axis=-1)
            out = [
                (some * marked_at[:, np.minimum(k, marked_at.shape[1] - 1)].T).sum(axis=1)
                / some.sum(axis=1)
                for k in allowed.T
            ]
        return np.stack(out, axis=-1)

    patients = len(np.unique(patient[:lesions]))
    return tuple(share_intervals(statistic, patient, patients, draws=draws, seed=seed))


def table(verdict: Verdict) -> str:
    """The verdict as a table of Markdown."""
    heads = ", ".join(f"{fp:g}" for fp in FALSE_POSITIVES)
    lines = [
        "| lesion | which | n (films) | AUROC against the twins | above its own twin | "
        "place in the map, percentile (twin) | highest place is the lesion (twin) | "
        f"marked at {heads} marks a normal film | pixel AUROC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in verdict.rows:
        mapped = bool(row.froc)
        cells = [
            row.kind,
            row.group,
            f"{row.lesions} ({row.films})",
            _cell(row.auroc),
            _cell(row.raised),
            f"{row.place:.1f} ({row.place_twin:.1f})" if mapped else "no map",
            f"{_cell(row.hit)} ({row.hit_twin:.2f})" if mapped else "",
            " / ".join(f"{e.value:.2f}" for e in row.froc),
            f"{row.pixel_auroc:.3f}" if np.isfinite(row.pixel_auroc) else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
