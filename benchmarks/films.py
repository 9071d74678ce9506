"""The films that the benchmarks score, and the one way in which they time a detector."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from torch.utils.flop_counter import FlopCounterMode

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS
from nofinding.datasets.cohort import Cohort, cache_at
from nofinding.evaluation.statistics.intervals import patient_index
from nofinding.methods import Detector
from nofinding.model.bundle import Model
from nofinding.types import Exam

__all__ = ["Labelled", "gflop_of", "labelled", "seconds_of"]


@dataclass(frozen=True)
class Labelled:
    """Films to judge a detector on. The labels stay here."""

    films: Films
    abnormal: Bool[np.ndarray, " n"]
    patient: Int[np.ndarray, " n"]


def labelled(model: Model, specs: Sequence[str], split: str, most: int) -> Labelled:
    """The labelled films of a split; of more than `most`, so many, evenly spread in each class."""
    exams = [r for r in Cohort(specs, dict(FIELDS)).exams if r.split == split]
    exams = [r for r in exams if r.findings is not None]
    if most and most < len(exams):
        share = most / len(exams)
        classes = ([r for r in exams if bool(r.findings) == kind] for kind in (False, True))
        exams = [r for part in classes for r in spread(part, round(share * len(part)))]
    detector = model.detector
    films = Films(exams, detector.stats, detector.image_size, model.meta["aspect"], cache_at(None))
    for i in range(len(films)):
        films.batch([i])  # decoded now, so that no timing includes it
    abnormal = np.array([bool(r.findings) for r in exams])
    return Labelled(films, abnormal, patient_index([r.patient_id for r in exams]))


def spread(exams: Sequence[Exam], count: int) -> list[Exam]:
    """So many of them, at even distances in the order of their ids."""
    ordered = sorted(exams, key=lambda r: r.image_id)
    return [ordered[i * len(ordered) // count] for i in range(count)]


def gflop_of(detector: Detector, films: Films) -> float:
    """Of one film: what torch's counter sees of it."""
    with FlopCounterMode(display=False) as counter:
        detector.score(films.batch([0]))
    return counter.get_total_flops() / 1e9


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of one run of it."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
