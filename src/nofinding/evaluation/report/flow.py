"""The flow diagram of a cohort: what was found, what was left out and why, what is left."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nofinding.datasets.build.flow import Flow, Part

__all__ = ["flow_figure"]

INK, RULE, WASH, LOST = "#1c242b", "#8f9aa3", "#f0f4f8", "#fcf3ee"
WIDE = 9.0  # inches, and units of the drawing
MIDDLE, BOX = 2.6, 3.6  # of the stem's boxes: centre and width
SIDE, SIDE_BOX = 6.8, 3.9
LINE = 0.19  # height of a line of text
GAP = 0.28


def counted(films: int, patients: int) -> str:
    """ "1,234 films of 567 patients", with the singular where it is one."""
    return f"{films:,} film{'s' * (films != 1)} of {patients:,} patient{'s' * (patients != 1)}"


def flow_figure(flow: Flow) -> Figure:
    """A CONSORT-like diagram, read from top to bottom; what is left out goes to the right."""
    sides = [
        [*textwrap.wrap(step.reason, 44), _lost(step.films, step.patients)] for step in flow.steps
    ]
    heights = [LINE * len(lines) + 0.2 for lines in sides]
    parts = [_part(part) for part in flow.parts]
    last = max((LINE * len(lines) + 0.24 for lines in parts), default=0.0)
    stem = LINE * 2 + 0.24
    high = stem + sum(h + GAP for h in heights) + GAP * 4 + stem + last + 0.3
    figure = Figure(figsize=(WIDE, high), dpi=160)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDE)
    axes.set_ylim(0, high)
    axes.axis("off")

    y = high - 0.15 - stem / 2
    _box(
        axes, MIDDLE, y, BOX, stem, [f"Listed in {flow.source}", counted(flow.films, flow.patients)]
    )
    below = y - stem / 2
    for lines, tall in zip(sides, heights, strict=True):
        y = below - GAP - tall / 2
        axes.plot([MIDDLE, MIDDLE], [below, y - tall / 2], color=RULE, lw=1.2)
        _arrow(axes, (MIDDLE, y), (SIDE - SIDE_BOX / 2, y))
        _box(axes, SIDE, y, SIDE_BOX, tall, lines, LOST)
        below = y - tall / 2
    left = sum(part.patients for part in flow.parts)
    y = below - GAP * 2 - stem / 2
    _arrow(axes, (MIDDLE, below), (MIDDLE, y + stem / 2))
    _box(axes, MIDDLE, y, BOX, stem, ["In the cohort", counted(flow.left, left)])
    top = y - stem / 2
    wide = (WIDE - 0.4) / max(len(parts), 1)
    for place, lines in enumerate(parts):
        x = 0.2 + wide * (place + 0.5)
        y = top - GAP * 2 - last / 2
        axes.plot([MIDDLE, MIDDLE], [top, top - GAP], color=RULE, lw=1.2)
        axes.plot([min(x, MIDDLE), max(x, MIDDLE)], [top - GAP] * 2, color=RULE, lw=1.2)
        _arrow(axes, (x, top - GAP), (x, y + last / 2))
        _box(axes, x, y, wide - 0.25, last, lines)
    return figure


def _lost(films: int, patients: int) -> str:
    lost = f"{films:,} film{'s' * (films != 1)}"
    whole = f"; {patients:,} patient{'s' * (patients != 1)} without any left"
    return lost + whole * (patients > 0)


def _part(part: Part) -> list[str]:
    """What the box of a split says."""
    films = part.normal + part.abnormal + part.unlabelled
    kinds = (("normal", part.normal), ("abnormal", part.abnormal), ("unlabelled", part.unlabelled))
    return [
        part.split if part.split != "none" else "in no split",
        counted(films, part.patients),
        *(f"{count:,} {kind}" for kind, count in kinds if count),
    ]


def _box(
    axes: Axes, x: float, y: float, wide: float, high: float, lines: list[str], fill: str = WASH
) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (x - wide / 2, y - high / 2)
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, wide, high, boxstyle=style, fc=fill, ec=RULE, lw=1.0))
    for place, line in enumerate(lines):
        at = y + LINE * ((len(lines) - 1) / 2 - place)
        bold = "bold" if place == 0 and fill == WASH else "normal"
        axes.text(x, at, line, ha="center", va="center", color=INK, fontsize=9, fontweight=bold)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": RULE, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
