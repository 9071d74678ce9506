"""The demo's page: what works and what does not, for radiologists and for researchers."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nofinding import __version__
from nofinding.data.decoding.decode import FilmFile
from nofinding.evaluation.report.gallery import Picture, legend, png_uri
from nofinding.evaluation.report.page import NOT_A_DEVICE, PHANTOM, page

__all__ = ["DemoPage", "RealFilm", "demo_html", "real_picture"]

SHOWN = 448  # side of the real film on the page, in pixels


@dataclass(frozen=True, slots=True)
class RealFilm:
    """A real film and what the shipped model says of it. Pictures are data URIs."""

    name: str
    score: float
    p_value: float | None
    flags: str
    film: str
    overlay: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPage:
    """Everything that the page says."""

    source: str
    """The phantoms, as `--films` takes them."""
    method: str
    """The default method."""
    repairing: str
    """The method that shows a pseudo-healthy film."""
    record_kind: str
    """The finding that the record alone reveals."""
    comparison: Mapping[str, Any]
    """AUROC of that finding: record, withheld, difference; each value, low, high."""
    decided: Mapping[str, Any]
    """What fitting decided about the record."""
    metrics: Mapping[str, Any]
    """metrics.json of the default method."""
    repaired: Mapping[str, Any]
    """metrics.json of the method that repairs."""
    film: RealFilm | None
    method_pictures: Sequence[Picture]
    pictures: Sequence[Picture]
    cpu_seconds: Mapping[str, float]


def demo_html(demo: DemoPage) -> str:
    """One file: no script, nothing fetched. What counts as working is decided by intervals."""
    findings = [group for group in demo.metrics["findings"] if group["auroc"] is not None]
    others = [group for group in findings if group["name"] != demo.record_kind]
    return page("demo.html.j2").render(
        demo=demo,
        helps=demo.comparison["difference"]["low"] is not None
        and demo.comparison["difference"]["low"] > 0,
        detected=[group for group in others if group["auroc"]["low"] > 0.5],
        undetected=[group for group in others if not group["auroc"]["low"] > 0.5],
        too_few=[group["name"] for group in demo.metrics["findings"] if group["auroc"] is None],
        beaten=[v for v in demo.metrics["verdicts"] if v["beats"]],
        unbeaten=[v for v in demo.metrics["verdicts"] if not v["beats"]],
        normal=demo.metrics["calibration"]["normal"]["0.05"],
        legend=legend(),
        notice=NOT_A_DEVICE,
        phantom_notice=PHANTOM,
        version=__version__,
    )


def real_picture(path: Path, scores: Path) -> RealFilm:
    """The film at `path` and its map, from the folder that `score` wrote."""
    with (scores / "scores.csv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    pixels = np.asarray(FilmFile(path)(), dtype=np.float32)
    overlay = scores / "maps" / f"{row['image_id']}.png"
    return RealFilm(
        name=path.name,
        score=float(row["score"]),
        p_value=float(row["p_value"]) if row["p_value"] else None,
        flags=row["flags"],
        film=png_uri(_small(Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)))),
        overlay=png_uri(_small(Image.open(overlay))),
    )


def _small(picture: Image.Image) -> np.ndarray:
    copy = picture.copy()
    copy.thumbnail((SHOWN, SHOWN))
    return np.asarray(copy)
