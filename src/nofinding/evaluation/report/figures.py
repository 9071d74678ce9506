"""Curves and histograms as SVG pictures that a page can hold without a file or a script."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from nofinding.evaluation.statistics.metrics import Counts, precision_recall, rates

__all__ = [
    "ABNORMAL",
    "NORMAL",
    "STYLE",
    "Curve",
    "data_uri",
    "histogram_svg",
    "precision_recall_svg",
    "roc_svg",
]

NORMAL, ABNORMAL = "#2b6a99", "#c4532f"  # told apart by readers without red or green
COLOURS = {"method": "#17324d", "compared": "#b8860b", "baseline": "#8a939c"}
DASHES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
STYLE = {
    "font.size": 9,
    "axes.edgecolor": "#9aa3ab",
    "axes.labelcolor": "#3a444d",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "xtick.color": "#6b757e",
    "ytick.color": "#6b757e",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.handlelength": 2.6,
    "legend.fontsize": 7.5,
    "svg.hashsalt": "nofinding",  # equal numbers give equal bytes
}


@dataclass(frozen=True, slots=True)
class Curve:
    """A row of the table as a line."""

    name: str
    role: str  # method, compared, trivial
    counts: Counts


def _canvas(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.9, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", color="#1c242b", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def data_uri(figure: Figure) -> str:
    """The picture as an SVG that a page can hold."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()


def _draw(axes: Axes, curves: Sequence[Curve], points: Sequence[tuple[np.ndarray, ...]]) -> None:
    baselines = 0
    for curve, (x, y) in zip(curves, points, strict=True):
        style: dict[str, object] = {"linewidth": 1.8, "zorder": 4}
        if curve.role == "baseline":
            style = {"linewidth": 0.9, "linestyle": DASHES[baselines % len(DASHES)], "zorder": 3}
            baselines += 1
        axes.plot(x, y, color=COLOURS[curve.role], label=curve.name, **style)  # type: ignore[arg-type]
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    axes.set_aspect("equal")


def roc_svg(
    curves: Sequence[Curve], band: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
) -> str:
    """Gives the ROC curves; `band` is (false-positive rate, low, high) around the first."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure, axes = _canvas("ROC", "1 - specificity", "Sensitivity")
        axes.plot([0, 1], [0, 1], color="#d5dade", linewidth=0.8)
        if band is not None:
            axes.fill_between(*band, color=COLOURS["method"], alpha=0.13, linewidth=0, zorder=2)
        _draw(axes, curves, [rates(curve.counts) for curve in curves])
        axes.legend(loc="lower right")
        return data_uri(figure)


def precision_recall_svg(curves: Sequence[Curve], prevalence: float) -> str:
    """Gives the precision-recall curves, with the prevalence as the line to stay above."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure, axes = _canvas("Precision and recall", "Recall (sensitivity)", "Precision")
        axes.axhline(prevalence, color="#d5dade", linewidth=0.8)
        axes.annotate(
            f"prevalence {prevalence:.2f}", (0.01, prevalence), (0, -9), fontsize=7,
            textcoords="offset points", color="#8a939c",
        )  # fmt: skip
        points = [precision_recall(curve.counts) for curve in curves]
        # At "nothing called" precision is undefined; the line starts at the first film called.
        _draw(axes, curves, [(recall[1:], precision[1:]) for precision, recall in points])
        return data_uri(figure)


def histogram_svg(score: Float[np.ndarray, " n"], abnormal: Bool[np.ndarray, " n"]) -> str:
    """Gives the scores of normal and of abnormal films, each as a share of its own kind."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure, axes = _canvas("Scores", "Score (higher is more anomalous)", "Share of films (%)")
        # One far film must not squeeze the rest into two bars: the last bar takes what is above.
        low, high = float(score.min()), float(np.quantile(score, 0.995))
        bins = np.linspace(low, high if high > low else low + 1, 31)
        for kind, colour, label in (
            (~abnormal, NORMAL, "normal"),
            (abnormal, ABNORMAL, "abnormal"),
        ):
            shown = np.minimum(score[kind], bins[-1])
            weights = np.full(len(shown), 100 / len(shown))
            axes.hist(
                shown, bins=bins.tolist(), weights=weights, histtype="stepfilled", alpha=0.35,
                facecolor=colour, edgecolor=colour, linewidth=1.2, label=f"{label} ({len(shown)})",
            )  # fmt: skip
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
        axes.locator_params(axis="x", nbins=6)
        axes.legend(loc="upper right")
        return data_uri(figure)
