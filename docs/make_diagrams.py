"""Draws the diagrams of the architecture page as SVG files, which no browser needs a program for.

usage: .venv/bin/python docs/make_diagrams.py

A box stands in a column and a row of a grid, and arrows run between boxes. tests/test_docs.py
proves that the files are what this draws.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from nofinding.storage.atomic import write_atomic

FOLDER = Path(__file__).parent / "images"
LINE = 18  # height of a line of text
PADDING = 10


@dataclass(frozen=True)
class Box:
    """Lines of text, and where they stand: column and row, in cells of the grid."""

    text: str
    column: float
    row: float


@dataclass(frozen=True)
class Diagram:
    """Boxes by name, arrows as (from, to) or (from, to, label), and the size of a grid's cell."""

    title: str
    boxes: dict[str, Box]
    arrows: tuple[tuple[str, ...], ...]
    cell: tuple[int, int]
    width: int  # of a box

    def centre(self, box: Box) -> tuple[float, float]:
        return (box.column + 0.5) * self.cell[0], (box.row + 0.5) * self.cell[1]

    def edge(self, box: Box, towards: Box) -> tuple[float, float]:
        """Where an arrow leaves the box or reaches it: below or above, else at the side."""
        (x, y), (there, below) = self.centre(box), self.centre(towards)
        if box.row != towards.row:
            height = self.height(box) / 2
            return x, y + (height if below > y else -height)
        return x + (self.width if there > x else -self.width) / 2, y

    def height(self, box: Box) -> int:
        return LINE * (box.text.count("\n") + 1) + 2 * PADDING

    def svg(self) -> str:
        columns = max(box.column for box in self.boxes.values()) + 1
        rows = max(box.row for box in self.boxes.values()) + 1
        width, height = columns * self.cell[0], rows * self.cell[1]
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" role="img" font-family="sans-serif" font-size="13">',
            f"<title>{escape(self.title)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
            f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#fff"/>',
        ]
        for start, end, *label in self.arrows:
            parts += self.arrow(self.boxes[start], self.boxes[end], "".join(label))
        for box in self.boxes.values():
            parts += self.drawn(box)
        return "\n".join([*parts, "</svg>"]) + "\n"

    def arrow(self, start: Box, end: Box, label: str) -> list[str]:
        (x, y), (to_x, to_y) = self.edge(start, end), self.edge(end, start)
        line = f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" stroke="#555" marker-end="url(#head)"/>'
        if not label:
            return [line]
        middle = f'x="{(x + to_x) / 2:g}" y="{(y + to_y) / 2 - 6:g}"'
        return [line, f'<text {middle} text-anchor="middle" fill="#555">{escape(label)}</text>']

    def drawn(self, box: Box) -> list[str]:
        (x, y), height = self.centre(box), self.height(box)
        place = f'x="{x - self.width / 2:g}" y="{y - height / 2:g}"'
        parts = [
            f'<rect {place} width="{self.width}" height="{height}" rx="6" '
            'fill="#e8eaf6" stroke="#3f51b5"/>'
        ]
        first = y - height / 2 + PADDING + LINE - 5
        for number, text in enumerate(box.text.split("\n")):
            parts.append(
                f'<text x="{x:g}" y="{first + number * LINE:g}" text-anchor="middle" '
                f'fill="#1a1a1a">{escape(text)}</text>'
            )
        return parts


LAYERS = Diagram(
    "The layers: each imports only from those below it",
    {
        "api": Box("api · cli", 0.5, 0),
        "service": Box("service", 0, 1),
        "benchmark": Box("benchmark", 1, 1),
        "workflows": Box("workflows", 0.5, 2),
        "scoring": Box("scoring", 0.5, 3),
        "model": Box("model", 0.5, 4),
        "clinical": Box("clinical", 0, 5),
        "evaluation": Box("evaluation · gate · recipes", 1, 5),
        "datasets": Box("datasets", 0, 6),
        "methods": Box("methods", 1, 6),
        "training": Box("training", 0.5, 7),
        "data": Box("data · storage · net", 0.5, 8),
        "nets": Box("nets", 0.5, 9),
        "functional": Box("functional: pure\nfunctions of tensors", 0.5, 10),
        "types": Box("types · errors · ranges", 0.5, 11),
    },
    (
        *(("api", "service"), ("api", "benchmark")),
        *(("service", "workflows"), ("benchmark", "workflows")),
        *(("workflows", "scoring"), ("scoring", "model")),
        *(("model", "clinical"), ("model", "evaluation")),
        *(("clinical", "datasets"), ("evaluation", "methods")),
        *(("datasets", "training"), ("methods", "training")),
        *(("training", "data"), ("data", "nets"), ("nets", "functional")),
        ("functional", "types"),
    ),
    (220, 74),
    190,
)
FILM = Diagram(
    "The way of a film, from the file to the scores",
    {
        "file": Box("file:\nDICOM, PNG, JPEG", 0, 0),
        "child": Box("killable child process:\nlimits on time,\nmemory and size", 1, 0),
        "pixels": Box("pixels in 0 to 1,\ndense tissue bright", 2, 0),
        "cache": Box("film cache,\nby content", 3, 0),
        "ehr": Box("EHR: table,\nheader, FHIR", 0, 1),
        "units": Box("units, plausible\nranges, missing\nentries masked", 1, 1),
        "batch": Box("Batch: image, ehr,\nknown, ids.\nNo label", 2, 1),
        "gate": Box("input gate", 3, 1),
        "scores": Box("Scores: score, map,\nreconstruction,\ncomponents", 1, 2),
        "method": Box("method", 2, 2),
        "refused": Box("refused, with\nthe reason", 3, 2),
    },
    (
        *(("file", "child"), ("child", "pixels"), ("pixels", "cache"), ("cache", "gate")),
        *(("gate", "batch", "admitted"), ("gate", "refused")),
        *(("ehr", "units"), ("units", "batch"), ("batch", "method"), ("method", "scores")),
    ),
    (235, 116),
    160,
)
SCORE = Diagram(
    "The way of a score, from the film to the report",
    {
        "score": Box("score of a film", 0, 0),
        "p": Box("p-value: share of\ncalibration films that\nscore as high", 1, 0),
        "row": Box("row of scores.csv", 2, 0),
        "journal": Box("journal: a batch is\non disk before the\nnext begins", 3, 0),
        "films": Box("calibration films:\nnormals not\ntrained on", 1, 1),
        "labels": Box("labels", 2, 1),
        "out": Box("folder --out, moved\ninto place whole", 3, 1),
        "report": Box("report: intervals,\nbaselines, cost", 1, 2),
        "evaluate": Box("evaluate", 2, 2),
        "export": Box("export:\nDICOM and FHIR", 3, 2),
    },
    (
        *(("score", "p"), ("p", "row"), ("row", "journal"), ("journal", "out")),
        *(("films", "p"), ("labels", "evaluate"), ("out", "evaluate"), ("out", "export")),
        ("evaluate", "report"),
    ),
    (225, 116),
    175,
)
DIAGRAMS = {"layers": LAYERS, "way-of-a-film": FILM, "way-of-a-score": SCORE}


def files() -> dict[str, str]:
    """Every SVG file, by name."""
    return {f"{name}.svg": diagram.svg() for name, diagram in DIAGRAMS.items()}


if __name__ == "__main__":
    for name, text in files().items():
        write_atomic(FOLDER / name, text.encode())
