"""From a scores.csv and the labels to a report."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import FIELDS, EhrField, EhrStats
from nofinding.data.image import Aspect, fit_square_mask
from nofinding.data.twin_choice import TwinCheck
from nofinding.datasets.twin_check import PAIRS, Part, parts_apart, signatures_for
from nofinding.errors import UserError
from nofinding.evaluation.attention import attention_by_field
from nofinding.evaluation.baselines import (
    DETECTORS,
    SLOW,
    Baseline,
    detector_baseline,
    metadata_baseline,
)
from nofinding.evaluation.report.gallery import array_file, read_array, walls
from nofinding.evaluation.report.page import Calibration, EvaluationInput, Row, report
from nofinding.evaluation.report.remarks import notes, verdicts
from nofinding.evaluation.statistics.conformal import LEVELS, Share, called, hashed, share
from nofinding.evaluation.statistics.delong import PairedTest, delong_test
from nofinding.evaluation.statistics.intervals import DRAWS, measure, patient_index
from nofinding.evaluation.statistics.intervals import bootstrap as resample
from nofinding.evaluation.statistics.metrics import count, sensitivity_at
from nofinding.evaluation.statistics.pixels import (
    MappedFilm,
    PixelMetrics,
    measure_pixels,
    normal_threshold,
)
from nofinding.evaluation.statistics.subgroups import by_finding, by_patient_group
from nofinding.evaluation.table import Scored, read_scores
from nofinding.methods import METHODS
from nofinding.types import Exam

__all__ = ["evaluate"]

SIZE = 128  # side of the films shown, in pixels, where neither run.json nor a map says


def evaluate(
    scores_csv: Path,
    exams: Sequence[Exam],
    out: Path,
    *,
    name: str,
    phantom: bool = False,
    train_normals: Sequence[Exam] = (),
    fields: Sequence[EhrField] = tuple(FIELDS.values()),
    cache: FilmCache | None = None,
    compare: Path | None = None,
    seed: int = 0,
    bootstrap: int = DRAWS,
    baselines: Literal["all", "quick", "none"] = "all",
    twins: TwinCheck = "refuse",
) -> dict[str, Any]:
    """Says how well the scores tell abnormal films from normal ones, and writes the report.

    `records` are the films of source `name`; `train_normals` what the baselines learn
    from. run.json, maps and pseudo-healthy films are read from the folder of `scores_csv`;
    `compare` is a second scores.csv of the same films. `seed` is that of the resampling and of
    the baselines; `bootstrap` the number of draws. `twins`: what becomes of judged films that are
    altered copies of training or calibration films. Writes OUT/report.html and
    OUT/metrics.json, and gives what the latter holds. Raises UserError for scores that do not
    fit the films, before anything is written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; the report needs a folder")
    scored = read_scores(scores_csv, exams, twins=twins)
    other = None if compare is None else _same_films(compare, exams, scored, twins)
    size, aspect = _grid(scored)
    stats = EhrStats.of(train_normals or scored.exams, fields)
    scored = _twins_apart(scored, exams, train_normals, cache, twins, out, (size, aspect))
    # A baseline must not learn from a film that it is judged on, nor from its patient.
    judged = {r.patient_id for r in scored.exams}
    train_normals = [r for r in train_normals if r.patient_id not in judged]
    films = Films(scored.exams, stats, size, aspect, cache)
    lesions = _lesions(scored, size, aspect)
    shown, map_top = walls(scored, films, lesions, fields)
    pixels = _pixels(scored, lesions, size, bootstrap, seed)
    rows = [_row(scored, "method", bootstrap, seed)]
    rows += [] if other is None else [_row(other, "compared", bootstrap, seed)]
    if baselines != "none":
        quick = baselines == "quick"
        baseline_rows = _baselines(scored, train_normals, fields, aspect, cache, seed, quick=quick)
        rows += [_trivial_row(baseline, scored, bootstrap, seed) for baseline in baseline_rows]
    evaluation = EvaluationInput(
        name=name,
        phantom=phantom,
        scored=scored,
        rows=rows,
        verdicts=verdicts(rows, scored, draws=bootstrap, seed=seed),
        band=_band(scored, bootstrap, seed),
        calibration=_calibration(scored),
        delong=None if other is None else _paired(scored, other),
        findings=by_finding(scored, draws=bootstrap, seed=seed),
        groups=by_patient_group(scored, draws=bootstrap, seed=seed),
        pixels=pixels,
        attention=attention_by_field(scored, draws=bootstrap, seed=seed),
        walls=shown,
        map_top=map_top,
        flags=_flags(scored),
        refused=_refused(scored),
        notes=notes(scored, rows, pixels),
        draws=bootstrap,
        seed=seed,
    )
    return report(evaluation, out)


def _twins_apart(
    scored: Scored,
    exams: Sequence[Exam],
    train_normals: Sequence[Exam],
    cache: FilmCache | None,
    policy: TwinCheck,
    out: Path,
    also: tuple[int, Aspect],
) -> Scored:
    """The scored films, with those that are altered copies of training or calibration films.

    Raises UserError where there are some and `policy` is refuse. Compared are the training normals
    and the films that calibrate by run.json; a film is no twin of itself.
    """
    if policy == "skip":
        return scored
    listed = scored.run.get("calibration_ids")
    calibrating = {*map(str, listed)} if isinstance(listed, list) else set()
    parts = [
        Part(name, some, signatures_for(some, cache, also, unreadable=[]))
        for name, some in (
            ("training", train_normals),
            ("calibration", [r for r in exams if hashed(r.image_id) in calibrating]),
            ("evaluated", scored.exams),
        )
    ]
    rows = parts_apart(parts[:-1], parts[-1], policy, out / PAIRS)
    return replace(scored, twins=tuple(sorted({*scored.twins, *(row["first"] for row in rows)})))


def _same_films(path: Path, exams: Sequence[Exam], scored: Scored, twins: TwinCheck) -> Scored:
    other = read_scores(path, exams, twins=twins)
    ours, theirs = ({r.image_id for r in s.exams} for s in (scored, other))
    if ours != theirs:
        raise UserError(
            f"{path}: a paired test needs the same films; {len(ours - theirs)} of {scored.path} "
            f"are missing and {len(theirs - ours)} are not in it"
        )
    return other


def _paired(scored: Scored, other: Scored) -> PairedTest:
    return delong_test(scored.score, other.score, scored.abnormal, scored.patient)


def _grid(scored: Scored) -> tuple[int, Aspect]:
    """Gives the size and aspect of the films as the method saw them, on which the maps lie."""
    run = scored.path.with_name("run.json")
    aspect = scored.run.get("aspect", "pad")
    if aspect not in get_args(Aspect):
        raise UserError(f"{run}: aspect is {aspect!r}; allowed is {' or '.join(get_args(Aspect))}")
    size = scored.run.get("image_size")
    if size is None:
        maps = (array_file(scored.path.parent / "maps", r.image_id) for r in scored.exams)
        first = next((file for file in maps if file is not None), None)
        size = SIZE if first is None else read_array(first).shape[0]
    if not isinstance(size, int) or not 8 <= size <= 4096:
        raise UserError(f"{run}: image_size is {size!r}; allowed is 8 to 4096")
    return size, aspect


def _row(scored: Scored, role: Literal["method", "compared"], draws: int, seed: int) -> Row:
    run = scored.run
    return Row(
        name=scored.method if role == "method" else f"{scored.method} (compared)",
        role=role,
        supervision=str(run.get("supervision", "not stated")),
        seed=_whole(run, "seed"),
        score=scored.score,
        metrics=measure(scored.score, scored.abnormal, scored.patient, draws=draws, seed=seed),
        network_calls=_stated(run, "network_calls"),
        gflop=_stated(run, "gflop"),
        seconds_per_film=_stated(run, "seconds_per_film"),
    )


def _stated(run: Mapping[str, Any], key: str) -> float | None:
    value = run.get(key)
    return value if isinstance(value, int | float) else None


def _whole(run: Mapping[str, Any], key: str) -> int | None:
    value = _stated(run, key)
    return None if value is None else int(value)


def _baselines(
    scored: Scored,
    train_normals: Sequence[Exam],
    fields: Sequence[EhrField],
    aspect: Aspect,
    cache: FilmCache | None,
    seed: int,
    *,
    quick: bool,
) -> Iterator[Baseline]:
    for name in DETECTORS:
        if quick and name in SLOW:
            supervision = METHODS[name].supervision
            yield Baseline(name, supervision, skipped="takes minutes; see --baselines all")
            continue
        yield detector_baseline(
            name, train_normals, scored.exams, fields, aspect=aspect, cache=cache, seed=seed
        )
    yield metadata_baseline(scored.exams, scored.abnormal, scored.patient, fields, seed=seed)


def _trivial_row(baseline: Baseline, scored: Scored, draws: int, seed: int) -> Row:
    row = Row(
        name=baseline.name,
        role="baseline",
        supervision=baseline.supervision,
        seed=seed,
        score=baseline.score,
        skipped=baseline.skipped,
        network_calls=baseline.network_calls,
        seconds_per_film=baseline.seconds_per_film,
    )
    if baseline.score is None:
        return row
    metrics = measure(baseline.score, scored.abnormal, scored.patient, draws=draws, seed=seed)
    return replace(row, metrics=metrics)


def _band(
    scored: Scored, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Gives pointwise 95 % limits of the sensitivity at false-positive rates 0 to 1."""
    if draws == 0:
        return None
    rate = np.linspace(0, 1, 51)

    def statistic(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c 51"]:
        counts = count(scored.score, scored.abnormal, weight)
        return np.stack([sensitivity_at(counts, 1 - r) for r in rate], axis=-1)

    estimates = resample(statistic, scored.patient, draws=draws, seed=seed)
    return rate, np.array([e.low for e in estimates]), np.array([e.high for e in estimates])


def _calibration(scored: Scored) -> Calibration | None:
    p = scored.p_value
    if p is None:
        return None
    plain = scored.run.get("calibration", "plain") == "plain"
    judged = ~scored.abnormal & ~scored.calibrates
    return Calibration(
        n=_whole(scored.run, "calibration_n") if plain else None,
        normal={level: called(p, judged, level) for level in LEVELS},
        abnormal={level: called(p, scored.abnormal, level) for level in LEVELS},
    )


def _refused(scored: Scored) -> dict[str, Share]:
    """Gives what share of the normal and of the abnormal films the input gate refused."""
    there = {"normal": scored.n_normal, "abnormal": scored.n_abnormal}
    return {kind: share(k, k + there[kind]) for kind, k in zip(there, scored.refused, strict=True)}


def _lesions(scored: Scored, size: int, aspect: Aspect) -> dict[int, Bool[np.ndarray, "h w"]]:
    """Gives the drawn findings on the grid of the maps, by index of the film."""
    if not (scored.path.parent / "maps").is_dir():
        return {}  # nothing to lay them over
    drawn = {
        i: fit_square_mask(exam.lesion(), size, aspect)
        for i, exam in enumerate(scored.exams)
        if exam.findings and exam.lesion is not None
    }
    return {i: lesion for i, lesion in drawn.items() if lesion.any()}


def _pixels(
    scored: Scored,
    lesions: Mapping[int, Bool[np.ndarray, "h w"]],
    size: int,
    draws: int,
    seed: int,
) -> PixelMetrics | None:
    """Gives the pixel metrics; None where no film has both a map and a drawn finding."""
    folder = scored.path.parent / "maps"
    films: dict[int, MappedFilm] = {}
    for i, exam in enumerate(scored.exams):
        file = array_file(folder, exam.image_id)
        if file is not None and (i in lesions or not scored.abnormal[i]):
            films[i] = MappedFilm(partial(read_array, file, size), lesions.get(i))
    normal = [film.anomaly_map for film in films.values() if film.lesion is None]
    if not normal or len(normal) == len(films):
        return None
    threshold = _stated(scored.run, "map_threshold")
    return measure_pixels(
        list(films.values()),
        patient_index([scored.exams[i].patient_id for i in films]),
        normal_threshold(normal) if threshold is None else threshold,
        draws=draws,
        seed=seed,
    )


def _flags(scored: Scored) -> dict[str, int]:
    """Gives how many films have a flag about each field ("age: 300 is outside ..." is of age)."""
    about = Counter(
        name for flags in scored.flags for name in {flag.split(":")[0] for flag in flags}
    )
    return dict(sorted(about.items()))
