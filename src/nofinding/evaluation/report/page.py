"""The report: report.html for people, metrics.json for machines, from one set of numbers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from jaxtyping import Float

from nofinding import __version__
from nofinding.evaluation.attention import FieldAttention
from nofinding.evaluation.report import figures, gallery
from nofinding.evaluation.statistics.conformal import Share
from nofinding.evaluation.statistics.delong import PairedTest
from nofinding.evaluation.statistics.intervals import Estimate
from nofinding.evaluation.statistics.metrics import count
from nofinding.evaluation.statistics.pixels import PixelMetrics
from nofinding.evaluation.statistics.subgroups import Group
from nofinding.evaluation.table import Scored
from nofinding.storage.atomic import write_atomic

__all__ = [
    "NOT_A_DEVICE",
    "PHANTOM",
    "Calibration",
    "EvaluationInput",
    "Row",
    "Verdict",
    "page",
    "plain",
    "report",
]

NOT_A_DEVICE = "Research use only. Not a medical device."
PHANTOM = "PHANTOM: simulated films"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the main table: a score of every evaluated film, or why there is none."""

    name: str
    role: Literal["method", "compared", "baseline"]
    supervision: str
    seed: int | None
    score: Float[np.ndarray, " n"] | None = None
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    skipped: str = ""
    network_calls: float | None = None  # per film
    gflop: float | None = None  # per film
    seconds_per_film: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the method does better than a baseline; it does if the interval excludes 0."""

    row: str
    difference: Estimate  # AUROC of the method - AUROC of the row
    beats: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What share of the films the p-value calls at each level."""

    n: int | None  # calibration films; None: run.json does not say
    normal: Mapping[float, Share]
    abnormal: Mapping[float, Share]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationInput:
    """Everything that a report says."""

    name: str
    """Of the source of the films."""
    phantom: bool
    scored: Scored
    rows: Sequence[Row]
    """The method first."""
    verdicts: Sequence[Verdict] = ()
    band: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    """Around the method's ROC curve: false-positive rate, low, high."""
    calibration: Calibration | None = None
    delong: PairedTest | None = None
    findings: Sequence[Group] = ()
    groups: Sequence[Group] = ()
    pixels: PixelMetrics | None = None
    attention: Sequence[FieldAttention] = ()
    walls: Sequence[gallery.Wall] = ()
    map_top: float | None = None
    flags: Mapping[str, int] = field(default_factory=dict)
    """Films by the field that a flag is about."""
    refused: Mapping[str, Share] = field(default_factory=dict)
    """Films that the input gate refused, normal and abnormal; they are in no other number."""
    notes: Sequence[str] = ()
    draws: int
    seed: int


def report(evaluation: EvaluationInput, out: Path) -> dict[str, Any]:
    """Writes OUT/report.html (one file, no script, nothing fetched) and OUT/metrics.json.

    Gives what metrics.json holds. Nothing is written before both are ready.
    """
    metrics = as_json(evaluation)
    html = as_html(evaluation)
    text = json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomic(out / "report.html", html.encode())
    write_atomic(out / "metrics.json", text.encode())
    return metrics


def as_json(evaluation: EvaluationInput) -> dict[str, Any]:
    """Gives the numbers as JSON values; what is not a number (NaN) becomes null."""
    scored = evaluation.scored
    whole = {
        "version": __version__,
        "notice": NOT_A_DEVICE,
        "source": evaluation.name,
        "phantom": evaluation.phantom,
        "method": scored.method,
        "model_sha256": scored.run.get("model_sha256"),
        "films": {
            "evaluated": len(scored.exams),
            "normal": scored.n_normal,
            "abnormal": scored.n_abnormal,
            "prevalence": scored.prevalence,
            "patients": scored.patients,
            "unlabelled": scored.unlabelled,
            "unscored": scored.unscored,
            "flagged": sum(bool(flags) for flags in scored.flags),
        },
        "bootstrap": {"unit": "patient", "draws": evaluation.draws, "seed": evaluation.seed},
        "rows": [_row(row) for row in evaluation.rows],
        "verdicts": evaluation.verdicts,
        "calibration": evaluation.calibration,
        "delong": evaluation.delong,
        "findings": evaluation.findings,
        "groups": evaluation.groups,
        "pixels": evaluation.pixels,
        "attention": evaluation.attention,
        "flags": evaluation.flags,
        "refused": evaluation.refused,
        "drift": scored.run.get("drift"),
        "notes": evaluation.notes,
    }
    numbers = plain(whole)
    assert isinstance(numbers, dict)
    return numbers


def _row(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__ if name != "score"}


def plain(value: Any) -> Any:
    """Gives dataclasses and named tuples as objects, NaN and infinity as null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if hasattr(value, "_asdict"):
        return {key: plain(part) for key, part in value._asdict().items()}
    if hasattr(value, "__dataclass_fields__"):
        return {key: plain(getattr(value, key)) for key in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def as_html(evaluation: EvaluationInput) -> str:
    """Gives the page; every text in it is escaped."""
    template = page("report.html.j2")
    scored = evaluation.scored
    curves = [
        figures.Curve(row.name, row.role, count(row.score, scored.abnormal))
        for row in evaluation.rows
        if row.score is not None
    ]
    return template.render(
        evaluation=evaluation,
        scored=scored,
        method=evaluation.rows[0],
        notice=NOT_A_DEVICE,
        phantom_notice=PHANTOM,
        roc=figures.roc_svg(curves, evaluation.band),
        precision_recall=figures.precision_recall_svg(curves, scored.prevalence),
        histogram=figures.histogram_svg(scored.score, scored.abnormal),
        legend=gallery.legend(),
        version=__version__,
    )


def page(name: str) -> jinja2.Template:
    """A template of this package; every text put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda file: (
                files("nofinding.evaluation.report").joinpath(file).read_text(encoding="utf-8")
            )
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "quantity": quantity}
    return environment.get_template(name)


def number(value: float | None, digits: int = 3) -> str:
    """Gives the number with a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """Gives a share of 1 in per cent, without the sign."""
    return number(None if value is None else 100 * value, digits)


def quantity(value: float | None) -> str:
    """Gives a cost in three significant digits, with thousands separated."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
