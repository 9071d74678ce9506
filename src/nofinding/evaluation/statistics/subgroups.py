"""The same numbers for parts of the films: by finding, and by sex, age and view."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from nofinding.data.ehr import FIELDS
from nofinding.evaluation.statistics.conformal import Share, called
from nofinding.evaluation.statistics.intervals import DRAWS, Estimate, measure, patient_index
from nofinding.evaluation.statistics.stratum import AGE_BANDS, age_band_of
from nofinding.evaluation.table import Scored
from nofinding.types import Exam

__all__ = ["LEAST", "Group", "by_finding", "by_patient_group"]

LEAST = 10  # films of either kind, below which a group gets no number
UNKNOWN = "not recorded"


@dataclass(frozen=True, slots=True)
class Group:
    """What the score does within one group; None where there are too few films to say."""

    kind: str  # finding, sex, age, view
    name: str
    n_normal: int
    n_abnormal: int
    auroc: Estimate | None
    ap: Estimate | None
    false_positives: (
        Share | None
    )  # normal films called at p <= 0.05, without those that calibrate it
    called: Share | None  # abnormal films called at p <= 0.05

    @property
    def too_few(self) -> bool:
        return self.auroc is None


def by_finding(scored: Scored, *, draws: int = DRAWS, seed: int = 0) -> list[Group]:
    """Gives a row per finding: the films that have it (maybe among others) vs all normal ones."""
    findings = [exam.findings or frozenset() for exam in scored.exams]
    names = sorted(set().union(*findings))
    return [
        _group("finding", name, scored, ~scored.abnormal | _where(findings, name), draws, seed)
        for name in names
    ]


def _where(findings: Sequence[frozenset[str]], name: str) -> Bool[np.ndarray, " n"]:
    return np.array([name in film for film in findings], dtype=bool)


def by_patient_group(scored: Scored, *, draws: int = DRAWS, seed: int = 0) -> list[Group]:
    """Gives a row per sex, age band and view, each with its own normal and abnormal films.

    Films of which it is not known are a group of their own. A characteristic that no film has
    recorded gives no row.
    """
    kinds: dict[str, tuple[Callable[[Exam], str], tuple[str, ...]]] = {
        "sex": (sex, FIELDS["sex"].categories),
        "age": (age_band, tuple(AGE_BANDS)),
        "view": (view, FIELDS["view"].categories),
    }
    groups: list[Group] = []
    for kind, (of, names) in kinds.items():
        group_of = np.array([of(exam) for exam in scored.exams])
        if (group_of == UNKNOWN).all():
            continue
        groups += [
            _group(kind, name, scored, group_of == name, draws, seed)
            for name in (*names, UNKNOWN)
            if (group_of == name).any()
        ]
    return groups


def sex(exam: Exam) -> str:
    value = exam.ehr.get("sex")
    return UNKNOWN if value is None else FIELDS["sex"].categories[int(value)]


def view(exam: Exam) -> str:
    value = exam.ehr.get("view")
    return exam.view or (UNKNOWN if value is None else FIELDS["view"].categories[int(value)])


def age_band(exam: Exam) -> str:
    """Gives the band of the age in years; 17.9 is 0-17."""
    return age_band_of(exam.ehr.get("age")) or UNKNOWN


def _group(
    kind: str, name: str, scored: Scored, member: Bool[np.ndarray, " n"], draws: int, seed: int
) -> Group:
    abnormal = scored.abnormal[member]
    n_normal, n_abnormal = int((~abnormal).sum()), int(abnormal.sum())
    if min(n_normal, n_abnormal) < LEAST:
        return Group(kind, name, n_normal, n_abnormal, None, None, None, None)
    patient = patient_index([str(number) for number in scored.patient[member]])
    estimates = measure(scored.score[member], abnormal, patient, draws=draws, seed=seed)
    p = None if scored.p_value is None else scored.p_value[member]
    return Group(
        kind=kind,
        name=name,
        n_normal=n_normal,
        n_abnormal=n_abnormal,
        auroc=estimates["auroc"],
        ap=estimates["ap"],
        false_positives=None
        if p is None
        else called(p, ~abnormal & ~scored.calibrates[member], 0.05),
        called=None if p is None else called(p, abnormal, 0.05),
    )
