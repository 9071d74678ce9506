"""FROC curves of lesions that were put into films, and a gallery of them beside their twins."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from nofinding.datasets.insertion.trial import Case
from nofinding.evaluation.known_answers import Scorer, Verdict
from nofinding.evaluation.report.figures import STYLE

__all__ = ["gallery", "plot_froc"]

MOST = 8.0  # false positives a film, at which the curves end
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (7, 2)))


def plot_froc(verdict: Verdict, file: Path, *, title: str) -> None:
    """Writes the share of lesions marked against the marks on a normal film, a line a kind."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.2, 4.0), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(1, len(verdict.curves))))
        for i, (kind, (false, share)) in enumerate(verdict.curves.items()):
            lesions = verdict.row(kind).lesions
            axes.step(
                np.append(false, max(MOST, false[-1])),
                np.append(share, share[-1]),
                where="post",
                color=colours[i],
                linestyle=LINES[i % len(LINES)],
                label=f"{kind} ({lesions})",
            )
        axes.set(xlim=(0, MOST), ylim=(0, 1))
        axes.set_xlabel("marks on a normal film")
        axes.set_ylabel("share of lesions marked")
        axes.set_title(title, loc="left")
        axes.legend(loc="lower right")
        figure.savefig(file, metadata={"Software": None})


def gallery(cases: Sequence[Case], file: Path, *, scorer: Scorer | None = None) -> None:
    """Writes rows of twin, film with the lesion, the lesion's outline and, of a scorer, its map."""
    columns = 3 if scorer is None else 4
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(2.2 * columns, 2.35 * len(cases)), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(cases), columns, squeeze=False)
        for row, case in zip(axes, cases, strict=True):
            film, twin = case.record.pixels(), case.twin.pixels()
            row[0].imshow(twin, cmap="gray", vmin=0, vmax=1)
            row[0].set_title("twin", loc="left")
            row[1].imshow(film, cmap="gray", vmin=0, vmax=1)
            row[1].set_title(
                f"{case.kind} {case.diameter:.0f} mm, C/N {case.contrast:.1f}", loc="left"
            )
            row[2].imshow(_outlined(film, case.mask))
            row[2].set_title(case.cell, loc="left")
            if scorer is not None:
                _show_map(row[3], case, scorer)
            for one in row:
                one.axis("off")
        figure.savefig(file, metadata={"Software": None})


def _show_map(axes: mpl.axes.Axes, case: Case, scorer: Scorer) -> None:
    maps = scorer([case.record])[1]
    if maps is None:
        return
    axes.imshow(maps[0], cmap="inferno")
    high, wide = maps[0].shape
    row, column = np.unravel_index(int(np.argmax(maps[0])), maps[0].shape)
    inside = ndimage.distance_transform_edt(~case.mask)
    at = (
        min(int((row + 0.5) / high * case.mask.shape[0]), case.mask.shape[0] - 1),
        min(int((column + 0.5) / wide * case.mask.shape[1]), case.mask.shape[1] - 1),
    )
    hit = inside[at] <= 0.02 * case.mask.shape[1]
    axes.set_title("its map: " + ("highest there" if hit else "highest elsewhere"), loc="left")


def _outlined(film: Float[np.ndarray, "h w"], mask: np.ndarray) -> Float[np.ndarray, "h w 3"]:
    edge = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_dilation(mask)
    colour = np.repeat(film[..., None], 3, axis=2)
    colour[edge] = (0.25, 0.88, 0.82)
    return colour
