"""The 95 % interval of a number between 0 and 1, from what bootstrap draws of patients gave.

The percentile interval covers too rarely for few films, above all near the bound: where most draws
separate the films wholly, all of them give 1. For an average precision or a sensitivity the draws
give the spread of log(p / (1 - p)), which is not taken to be smaller than what as many independent
patients would have. For a mean over few films (Dice, attention), and for a difference of two
numbers of the same films, the percentiles are taken further out.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit, logit, ndtr
from scipy.stats import t as student

from nofinding.evaluation.statistics.area_interval import hanley_mcneil
from nofinding.evaluation.statistics.metrics import Estimate

__all__ = ["bounded_interval", "expanded_interval", "least_spreads"]


def bounded_interval(
    value: float, drawn: Float[np.ndarray, " d"], patients: int, least: float | None
) -> Estimate:
    """Gives `value` with its interval on the logit scale, by Student's t.

    `patients` are those over whom the number is a mean: half a patient either way is added before
    the logit, so that 0 and 1 have one. `least` is the smallest spread on the logit scale; None:
    that of a share of so many patients (binomial). NaN limits for fewer than two patients, and
    where most draws do not define the number.
    """
    finite = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(finite) < 2 or 2 * len(finite) < len(drawn) or patients < 2:
        return Estimate(value, np.nan, np.nan, len(finite))
    inner = (patients * value + 0.5) / (patients + 1)
    spread = float(logit((patients * finite + 0.5) / (patients + 1)).std(ddof=1))
    floor = (patients * inner * (1 - inner)) ** -0.5 if least is None else least
    half = float(student.ppf(0.975, patients - 1)) * max(spread, floor)
    low, high = expit(logit(inner) + np.array([-half, half]))
    return Estimate(value, min(float(low), value), max(float(high), value), len(finite))


def expanded_interval(value: float, drawn: Float[np.ndarray, " d"], patients: int) -> Estimate:
    """Gives `value` with percentiles of the draws so far out that a mean over so many patients has
    the width of Student's interval (T. Hesterberg, Am. Stat. 69, 2015, section 5.2).

    NaN limits for fewer than two patients, and where most draws do not define the number.
    """
    finite = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(finite) or 2 * len(finite) < len(drawn) or patients < 2:
        return Estimate(value, np.nan, np.nan, len(finite))
    widened = student.ppf(0.975, patients - 1) * np.sqrt(patients / (patients - 1))
    low, high = np.quantile(finite, [ndtr(-widened), ndtr(widened)])
    return Estimate(value, float(low), float(high), len(finite))


def least_spreads(
    area: float, abnormal: Bool[np.ndarray, " n"], patient: Int[np.ndarray, " n"]
) -> tuple[int, dict[str, float | None]]:
    """Gives the number of abnormal patients, and the smallest spread of each metric of METRICS but
    the AUROC.

    An average precision's is that of an AUROC: on the logit scale the two differ by a constant, the
    logit of the prevalence, and spread about alike. A sensitivity is a share of patients.
    """
    ill, well = (len(np.unique(patient[kind])) for kind in (abnormal, ~abnormal))
    fewer = min(ill, well)
    if fewer < 2 or not np.isfinite(area):
        return 0, {}
    inner = float(np.clip(area, 0.5 / (fewer + 1), 1 - 0.5 / (fewer + 1)))
    precision = hanley_mcneil(inner, ill, well)
    shares: Sequence[str] = ("sensitivity_at_90", "sensitivity_at_95")
    return ill, {"ap": precision, "ap_balanced": precision} | dict.fromkeys(shares)
