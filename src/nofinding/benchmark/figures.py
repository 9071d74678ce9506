"""Pictures of a bench, as SVG that a page can hold."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from nofinding.benchmark.tables import Row
from nofinding.evaluation.report.figures import STYLE, data_uri
from nofinding.evaluation.statistics.comparison import Ranks

__all__ = ["agreement_svg", "cliques", "cost_svg", "critical_difference_svg", "forest_svg"]

COLOURS = {
    "none": "#8a939c",
    "normal-only": "#17324d",
    "normal + unlabelled": "#2f7d5b",
    "weakly supervised": "#c4532f",
    "report-pretrained": "#7a4fa3",
    "labels of the evaluated films": "#b8860b",
}
FREE = 1e-4  # GFLOP at which methods without any are drawn: the axis is logarithmic


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def forest_svg(rows: Sequence[Row]) -> str:
    """AUROC with its interval, a line a method, the best on top; a tick for each seed."""
    figure = _figure(7.4, 0.9 + 0.19 * len(rows))
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        e, colour = row.metrics["auroc"], COLOURS.get(row.entry.supervision, "#17324d")
        axes.plot([e.low, e.high], [place, place], color=colour, lw=1.6, solid_capstyle="butt")
        face = "white" if row.entry.baseline else colour
        axes.plot(e.value, place, "o", ms=5, mfc=face, mec=colour)
        if len(row.by_seed) > 1:
            axes.plot(row.by_seed, [place] * len(row.by_seed), "|", ms=7, color=colour, alpha=0.7)
    axes.axvline(0.5, color="#9aa3ab", lw=0.8, ls=":")
    axes.set_yticks(range(len(rows)), [row.entry.label for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("AUROC (95 % interval, patients as clusters); hollow: baseline; ticks: seeds")
    axes.grid(axis="x", color="#eceff1")
    for tier in sorted({row.entry.supervision for row in rows}):
        axes.plot([], [], color=COLOURS.get(tier, "#17324d"), lw=2, label=tier)
    axes.legend(loc="lower right")
    return data_uri(figure)


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def cost_svg(rows: Sequence[Row]) -> str:
    """AUROC against GFLOP a film, on a logarithmic axis."""
    figure = _figure(7.4, 4.4)
    axes = figure.add_subplot()
    for row in rows:
        gflop = row.entry.cost.get("gflop")
        if gflop is None:
            continue
        colour = COLOURS.get(row.entry.supervision, "#17324d")
        x, y = max(gflop, FREE), row.metrics["auroc"].value
        face = "white" if row.entry.baseline else colour
        axes.plot(x, y, "o", ms=5, mfc=face, mec=colour)
        axes.annotate(row.entry.label, (x, y), xytext=(4, 2), textcoords="offset points", size=6.5)
    axes.set_xscale("log")
    axes.axhline(0.5, color="#9aa3ab", lw=0.8, ls=":")
    axes.set_xlabel(f"GFLOP a film to score (left end: {FREE:g} or none)")
    axes.set_ylabel("AUROC")
    axes.margins(x=0.12)
    return data_uri(figure)


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def agreement_svg(labels: Sequence[str], correlations: Float[np.ndarray, "k k"]) -> str:
    """Spearman's correlation of every two methods, in the order of the table."""
    side = 1.8 + 0.17 * len(labels)
    figure = _figure(side + 0.5, side)
    axes = figure.add_subplot()
    picture = axes.imshow(correlations, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6.5)
    axes.set_yticks(range(len(labels)), labels, fontsize=6.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(picture, ax=axes, shrink=0.6)
    bar.set_label("Spearman", size=8)
    return data_uri(figure)


def cliques(ranks: Ranks) -> list[tuple[float, float]]:
    """The widest runs of methods whose mean ranks differ by less than the critical difference."""
    values = sorted(ranks.mean.values())
    groups: list[tuple[float, float]] = []
    for low in values:
        high = max(v for v in values if v - low < ranks.critical)
        if high > low and not any(a <= low and high <= b for a, b in groups):
            groups.append((low, high))
    return groups


@mpl.rc_context(STYLE)  # type: ignore[arg-type]
def critical_difference_svg(ranks: Ranks) -> str:
    """Mean ranks on a line, joined where they do not differ significantly (Demsar 2006, fig. 1)."""
    names = list(ranks.mean)
    half = (len(names) + 1) // 2
    bars = cliques(ranks)
    figure = _figure(9.2, 1.5 + 0.17 * half + 0.1 * len(bars))
    axes = figure.add_subplot()
    low, high = 1, len(names)
    top = 0.0
    axes.plot([low, high], [top, top], color="#3a444d", lw=1)
    for tick in range(low, high + 1, max(1, (high - low) // 12)):
        axes.plot([tick, tick], [top, top + 0.25], color="#3a444d", lw=1)
        axes.text(tick, top + 0.4, str(tick), ha="center", va="bottom", size=7.5)
    axes.plot([low, low + ranks.critical], [2.2, 2.2], color="#c4532f", lw=2)
    axes.text(low, 2.4, f"critical difference {ranks.critical:.1f}", size=8, color="#c4532f")
    for place, (a, b) in enumerate(bars):
        y = -0.4 - 0.35 * place
        axes.plot([a - 0.05, b + 0.05], [y, y], color="#17324d", lw=2.4)
    start = -0.9 - 0.35 * len(bars)
    for place, name in enumerate(names):
        left = place < half
        y = start - 0.62 * (place if left else len(names) - 1 - place)
        end = low - 0.6 if left else high + 0.6
        rank = ranks.mean[name]
        axes.plot([rank, rank, end], [top, y, y], color="#8a939c", lw=0.7)
        side = "right" if left else "left"
        shown = f"{name}  {rank:.1f}" if left else f"{rank:.1f}  {name}"
        axes.text(end - 0.1 if left else end + 0.1, y, shown, ha=side, va="center", size=7.5)
    pad = 0.28 * (high - low)
    axes.set_xlim(low - pad, high + pad)
    axes.set_axis_off()
    return data_uri(figure)
