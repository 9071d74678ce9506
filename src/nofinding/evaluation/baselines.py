"""The rows that a method has to beat, measured on the same films.

Four detectors of `methods` that look at next to nothing, and a classifier on the record alone.
The latter is told the labels of the evaluated films (of other patients), which no detector is:
it does not compete, it says how much of the answer is in the record, and so whether a method
that reads the record could be right for the wrong reason.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import EhrField, EhrStats
from nofinding.data.image import Aspect
from nofinding.errors import UserError
from nofinding.methods import METHODS
from nofinding.training import TrainingRun
from nofinding.types import Exam, Supervision

__all__ = [
    "BASELINES",
    "DETECTORS",
    "METADATA",
    "SLOW",
    "Baseline",
    "detector_baseline",
    "metadata_baseline",
]

DETECTORS = ("mean-grey", "thumbnail", "ae", "frozen-knn")
SLOW = ("ae",)  # takes minutes, the others seconds
METADATA = "metadata-only"
BASELINES = (*DETECTORS, "pixel-knn", "pca")
"""The detectors that a bench always has: there each is fitted once for all methods."""
FOLDS = 5
BATCH = 32


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline: a score per evaluated film, or why there is none."""

    name: str
    supervision: Supervision
    score: Float[np.ndarray, " n"] | None = None
    skipped: str = ""
    network_calls: float | None = None  # per film
    seconds_per_film: float | None = None


def detector_baseline(
    name: str,
    train_normals: Sequence[Exam],
    evaluated: Sequence[Exam],
    fields: Sequence[EhrField],
    *,
    preset: str = "small",
    aspect: Aspect = "pad",
    cache: FilmCache | None = None,
    seed: int = 0,
) -> Baseline:
    """Fits METHODS[name] on training normals, and scores the films.

    The preset "small" is every method's default config; it takes a minute or two for "ae" and
    seconds for the others. The labels of `evaluated` stay here: a detector is given batches,
    which hold none.
    """
    kind = METHODS[name]
    if not train_normals:
        return Baseline(name, kind.supervision, skipped="no normal training films were given")
    stats = EhrStats.of(train_normals, fields)
    try:
        detector = kind(kind.PRESETS[preset], stats)
        size = detector.image_size
        detector.fit(
            Films(train_normals, stats, size, aspect, cache),
            seed=seed,
            job=TrainingRun(progress=False),
        )
        films = Films(evaluated, stats, size, aspect, cache)
        start = time.perf_counter()
        score = [
            detector.score(films.batch(range(i, min(i + BATCH, len(films)))), seed=seed).score
            for i in range(0, len(films), BATCH)
        ]
    except UserError as error:  # such as weights that are not installed
        return Baseline(name, kind.supervision, skipped=str(error))
    return Baseline(
        name,
        kind.supervision,
        score=np.concatenate([part.double().cpu().numpy() for part in score]),
        network_calls=detector.network_calls,
        seconds_per_film=(time.perf_counter() - start) / len(films),
    )


def metadata_baseline(
    evaluated: Sequence[Exam],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
    fields: Sequence[EhrField],
    *,
    seed: int = 0,
) -> Baseline:
    """Gives each film the log-odds of a logistic regression on the records of other patients.

    Five folds by patient; a value that was not recorded is the mean and a flag of its own.
    """

    def skip(why: str) -> Baseline:
        return Baseline(METADATA, Supervision.EVALUATED_LABELS, skipped=why)

    known = [field for field in fields if any(field.name in r.ehr for r in evaluated)]
    if not known:
        return skip("no metadata: the films come without a record")
    if min(len(np.unique(patient[abnormal])), len(np.unique(patient[~abnormal]))) < FOLDS:
        return skip(f"fewer than {FOLDS} patients with, or without, a finding")
    table = np.concatenate([_columns(field, [r.ehr for r in evaluated]) for field in known], axis=1)
    score = np.zeros(len(evaluated))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, held_out in folds.split(table, abnormal, patient):
        if len(np.unique(abnormal[train])) < 2:
            return skip("the patients of one fold hold every film of one kind")
        # Balanced, because a plain intercept carries the prevalence of the OTHER folds, which
        # is high where this fold's is low: a record without information would score below 0.5.
        model = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
        )
        score[held_out] = model.fit(table[train], abnormal[train]).decision_function(
            table[held_out]
        )
    return Baseline(METADATA, Supervision.EVALUATED_LABELS, score=score)


def _columns(
    field: EhrField, exams: Sequence[Mapping[str, float]]
) -> Float[np.ndarray, "n columns"]:
    """Gives a field's value (or one column a category) and, where any is missing, a flag."""
    value = np.array([exam.get(field.name, np.nan) for exam in exams])
    missing = np.isnan(value)
    if field.kind == "categorical":
        columns = [value == category for category in range(len(field.categories))]
    else:
        columns = [np.where(missing, value[~missing].mean(), value)]
    return np.stack([*columns, missing] if missing.any() else columns, axis=1).astype(np.float64)
