"""The 95 % interval of an AUROC that holds for few films and for high AUROCs.

The percentile bootstrap covers 83 % in place of 95 % at 40 films and an AUROC of 0.97: where most
draws separate the films wholly it cannot see how far below 1 the AUROC may lie. The logit interval
has the clustered variance on the scale of log(A / (1 - A)) (M. S. Pepe, The Statistical Evaluation
of Medical Tests, 2003, section 5.2.5; G. Qin and L. Hotilovac, Stat. Methods Med. Res. 17, 2008).
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, logit
from scipy.stats import t as student

from nofinding.evaluation.statistics.delong import areas_of
from nofinding.evaluation.statistics.metrics import Estimate

__all__ = ["auroc_interval", "hanley_mcneil"]


def auroc_interval(
    scores: Float[np.ndarray, "s n"],
    abnormal: Bool[np.ndarray, " n"],
    patient: Int[np.ndarray, " n"],
) -> Estimate:
    """Gives the AUROC, averaged over the rows of `scores`, with its logit interval.

    Before the interval is taken, the AUROC is drawn towards 1/2 by one pair of patients ordered
    wrongly out of all, half of it either way, so that films that separate wholly still have an
    interval. NaN limits where a class has films of fewer than two patients.
    """
    rows = len(scores)
    areas = areas_of(scores, abnormal, patient)
    area, error, freedom = areas.combined(np.full(rows, 1 / rows))
    if not np.isfinite(error):
        return Estimate(area, np.nan, np.nan, 0)
    ill, well = areas.patients_abnormal, areas.patients_normal
    fewer = min(ill, well)
    inner = float(np.clip(area, 0.5 / (fewer + 1), 1 - 0.5 / (fewer + 1)))
    floor = hanley_mcneil(inner, ill, well) if inner != area else 0.0
    half = float(student.ppf(0.975, freedom)) * max(error / (inner * (1 - inner)), floor)
    low, high = expit(logit(inner) + np.array([-half, half]))
    return Estimate(area, min(float(low), area), max(float(high), area), 0)


def hanley_mcneil(area: float, ill: float, well: float) -> float:
    """Gives the standard error of log(A / (1 - A)) that so many independent patients have (Hanley
    and McNeil, Radiology 143, 1982)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (ill - 1) * (q1 - area**2) + (well - 1) * (q2 - area**2)
    return float(np.sqrt(spread / (ill * well)) / (area * (1 - area)))
