"""What a model says of a film, as a Python user and a notebook see it."""

import base64
import csv
import html
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float

from nofinding.data.image import Aspect, fit_square
from nofinding.errors import UserError
from nofinding.storage.atomic import write_atomic
from nofinding.types import Exam

__all__ = ["NOTICE", "Prediction", "Predictions", "need_pandas", "write_predictions"]

NOTICE = "Research use only. Not a medical device."


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """How far one film is from normal for its patient, where, and with what confidence."""

    image_id: str
    """The film's name, or "film-0", "film-1", ... of films without one."""
    score: float
    """Higher is more anomalous; comparable only within one model. NaN: not scored (`refused`)."""
    p_value: float | None
    """Share of normal calibration films that score as high, 0 to 1; None: not calibrated."""
    anomaly_map: Float[np.ndarray, "s s"] | None = None
    """How anomalous each pixel is, 0 or more, on the square that the model saw; None: no map."""
    reconstruction: Float[np.ndarray, "s s"] | None = None
    """The pseudo-healthy film, in [0, 1], on the same square; None: the method gives none."""
    threshold: float | None = None
    """99 % of the map's pixels in normal films stay below it."""
    components: Mapping[str, float] = field(default_factory=dict)
    """The score's ingredients, and the attention on each field of the record (attention.age)."""
    flags: tuple[str, ...] = ()
    """What a reader must know: "age: unknown; ...", "gate: ..."."""
    refused: str = ""
    """Why the film was not scored: "is no upright frontal chest film"; "": it was."""
    stratum: str = ""
    """Which calibration films p is against, where these are chosen by the record."""
    method: str = ""
    """Name of the method."""
    supervision: str = ""
    """What the method was told about disease: "normal-only", ..."""
    model: str = ""
    """Name of the model, without a path."""
    sha256: str = ""
    """Of the model's weights."""
    exam: Exam | None = field(default=None, repr=False)
    """The film and what was known of the patient."""
    size: int = field(default=0, repr=False)
    """Side of the square that the model saw, in pixels."""
    aspect: Aspect = field(default="pad", repr=False)
    """How the film was brought onto the square."""

    @cached_property
    def image(self) -> Float[np.ndarray, "s s"]:
        """The film as the model saw it, in [0, 1], dense tissue bright; decoded when asked for.

        Raises UserError where the film cannot be read any more.
        """
        if self.exam is None:
            raise UserError(f"{self.image_id}: its film is not at hand")
        return fit_square(self.exam.pixels(), self.size, self.aspect).astype(np.float32) / 65535

    def __repr__(self) -> str:
        if self.refused:
            return f"Prediction({self.image_id!r}, refused: {self.refused})"
        p = "none" if self.p_value is None else f"{self.p_value:.3g}"
        more = f", {len(self.flags)} flags" if self.flags else ""
        return f"Prediction({self.image_id!r}, score={self.score:.4g}, p_value={p}{more})"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON can hold it."""
        return {
            "image_id": self.image_id,
            "score": None if math.isnan(self.score) else self.score,
            "p_value": self.p_value,
            "stratum": self.stratum,
            "flags": list(self.flags),
            "refused": self.refused,
            "components": dict(self.components),
            "method": self.method,
            "model": self.model,
            "sha256": self.sha256,
        }

    def plot(self, ax: Any = None) -> Any:
        """The film under its map, on matplotlib axes, which it gives back.

        `ax`: axes to draw on; default: those of a new figure.
        """
        from matplotlib.figure import Figure

        if ax is None:
            ax = Figure(figsize=(4, 4), layout="constrained").subplots()
        ax.imshow(self.image, cmap="gray", vmin=0, vmax=1)
        if self.anomaly_map is not None:
            top = self.threshold or float(self.anomaly_map.max()) or 1.0
            share = np.clip(self.anomaly_map / (2 * top), 0, 1)
            ax.imshow(np.ones_like(share), cmap="autumn", vmin=0, vmax=1.6, alpha=0.7 * share)
        ax.set_title(self._title(), fontsize=9)
        ax.set_axis_off()
        return ax

    def _title(self) -> str:
        if self.refused:
            return f"{self.image_id}: not scored"
        p = "no p-value" if self.p_value is None else f"p = {self.p_value:.3g}"
        return f"{self.image_id}: score {self.score:.3g}, {p}"

    def _repr_html_(self) -> str:
        """For notebooks: the film under its map, score, p-value and flags."""
        rows = [("score", "not scored" if self.refused else f"{self.score:.4g}")]
        rows += [("p-value", "none" if self.p_value is None else f"{self.p_value:.3g}")]
        rows += [("refused", self.refused)] if self.refused else []
        rows += [("flag", flag) for flag in self.flags]
        cells = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in rows
        )
        return (
            f"<div><b>{html.escape(self.image_id)}</b><br>{self._picture()}<table>{cells}</table>"
            f"<small>{NOTICE}</small></div>"
        )

    def _picture(self) -> str:
        try:
            figure = self.plot().figure
        except UserError:
            return ""
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=80)
        data = base64.b64encode(file.getvalue()).decode()
        return f'<img alt="the film under its map" src="data:image/png;base64,{data}">'


class Predictions(Sequence[Prediction]):
    """What a model says of several films, in their order."""

    def __init__(self, rows: Sequence[Prediction]) -> None:
        self._rows = tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._rows)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...
    def __getitem__(self, index: int | slice) -> "Prediction | Predictions":
        if isinstance(index, slice):
            return Predictions(self._rows[index])
        return self._rows[index]

    @property
    def scores(self) -> Float[np.ndarray, " n"]:
        """The score of each film; NaN where it was refused."""
        return np.array([row.score for row in self._rows], dtype=np.float64)

    @property
    def p_values(self) -> Float[np.ndarray, " n"]:
        """The p-value of each film; NaN where there is none."""
        values = [math.nan if row.p_value is None else row.p_value for row in self._rows]
        return np.array(values, dtype=np.float64)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, a row a film, components as columns. Needs pandas (UserError)."""
        pandas = need_pandas()
        rows = []
        for row in self._rows:
            cells = row.to_dict()
            components = cells.pop("components")
            cells["flags"] = "; ".join(cells["flags"])
            rows.append(cells | components)
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        refused = sum(bool(row.refused) for row in self._rows)
        called = sum(row.p_value is not None and row.p_value <= 0.05 for row in self._rows)
        more = f", {refused} refused" if refused else ""
        return f"Predictions({len(self)} films, {called} at p <= 0.05{more})"

    def _repr_html_(self) -> str:
        """For notebooks: the most anomalous films first, twenty at most."""
        order = sorted(self._rows, key=lambda row: (bool(row.refused), -row.score))[:20]
        rows = "".join(
            f"<tr><td>{html.escape(row.image_id)}</td><td>{row.score:.4g}</td>"
            f"<td>{'' if row.p_value is None else f'{row.p_value:.3g}'}</td>"
            f"<td>{html.escape('; '.join(row.flags) or row.refused)}</td></tr>"
            for row in order
        )
        head = "<tr><th>film</th><th>score</th><th>p-value</th><th>flags</th></tr>"
        table = f"<table>{head}{rows}</table>"
        return f"<div>{html.escape(repr(self))}{table}<small>{NOTICE}</small></div>"


def write_predictions(folder: Path, rows: Sequence[Prediction], seed: int) -> Path:
    """scores.csv and run.json of these predictions, as `nofinding score` writes them; gives the
    path of the former."""
    names = sorted({name for row in rows for name in row.components})
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["image_id", "score", "p_value", *names, "flags"], restval="", lineterminator="\n"
    )
    writer.writeheader()
    for row in sorted(rows, key=lambda row: row.image_id):
        refusal = (f"refused: it {row.refused}",) if row.refused else ()
        flags = (
            row.flags if any(f.startswith("refused:") for f in row.flags) else refusal + row.flags
        )
        cells: dict[str, Any] = {"image_id": row.image_id, "flags": "; ".join(flags)}
        if not row.refused:
            cells |= {"score": f"{row.score:.9g}"}
            cells |= {"p_value": "" if row.p_value is None else f"{row.p_value:.6g}"}
            cells |= {name: f"{value:.9g}" for name, value in row.components.items()}
        writer.writerow(cells)
    first = rows[0]
    run = {
        "method": first.method,
        "model": first.model,
        "model_sha256": first.sha256,
        "supervision": first.supervision,
        "image_size": first.size,
        "aspect": first.aspect,
        "seed": seed,
    }
    write_atomic(folder / "run.json", json.dumps(run).encode())
    write_atomic(folder / "scores.csv", text.getvalue().encode())
    return folder / "scores.csv"


def need_pandas() -> Any:
    """pandas. Raises UserError with what to install where it is absent."""
    try:
        import pandas
    except ImportError:
        raise UserError("to_dataframe: needs pandas; pip install pandas") from None
    return pandas
