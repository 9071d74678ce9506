"""A bench for people and machines: report.html, results.json, results.csv, table.tex."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nofinding import __version__
from nofinding.benchmark.figures import agreement_svg, cost_svg, critical_difference_svg, forest_svg
from nofinding.benchmark.tables import Bench, Row, Table
from nofinding.evaluation.report.page import NOT_A_DEVICE, PHANTOM, page, plain
from nofinding.storage.atomic import write_atomic

__all__ = ["FilmViews", "View", "write"]

COSTS = ("fit_minutes", "films_per_second", "network_calls", "gflop", "peak_memory_mib")


@dataclass(frozen=True, slots=True)
class View:
    """What one method says of one film; `picture` is a data URI, None without a map."""

    method: str
    rank: float
    picture: str | None


@dataclass(frozen=True, slots=True)
class FilmViews:
    """A film beside the maps of several methods."""

    image_id: str
    label: str
    film: str
    maps: tuple[View, ...]


def write(bench: Bench, pictures: Mapping[str, Sequence[FilmViews]], out: Path) -> Path:
    """Writes the four files, and gives the path of the report. Nothing before all are ready."""
    pages = {
        "results.json": as_json(bench),
        "results.csv": as_csv(bench),
        "table.tex": as_latex(bench),
        "report.html": as_html(bench, pictures),
    }
    for name, text in pages.items():
        write_atomic(out / name, text.encode())
    return out / "report.html"


def as_html(bench: Bench, pictures: Mapping[str, Sequence[FilmViews]]) -> str:
    """Gives the page: one file, no script, nothing fetched."""
    tables = {table.cohort.name: table for table in bench.tables}
    known = {r.entry.label: r.entry for table in bench.tables for r in table.rows}
    return page("bench.html.j2").render(
        bench=bench,
        notice=NOT_A_DEVICE,
        phantom_notice=PHANTOM,
        version=__version__,
        forest={name: forest_svg(t.rows) for name, t in tables.items()},
        cost={name: cost_svg(t.rows) for name, t in tables.items()},
        agreed={name: agreement_svg(_labels(t), t.agreement) for name, t in tables.items()},
        ranks=None if bench.ranks is None else critical_difference_svg(bench.ranks),
        pictures={name: pictures.get(name, ()) for name in tables},
        has_pixels={n: any(r.entry.pixels for r in t.rows) for n, t in tables.items()},
        methods=[(label, e.summary, e.paper) for label, e in sorted(known.items())],
    )


def _labels(table: Table) -> list[str]:
    return [row.entry.label for row in table.rows]


def as_json(bench: Bench) -> str:
    """Gives every number of the report."""
    results = {
        "version": __version__,
        "notice": NOT_A_DEVICE,
        "preset": bench.preset,
        "split": bench.split,
        "seeds": bench.seeds,
        "recipe": bench.recipe,
        "bootstrap": {"unit": "patient", "draws": bench.draws},
        "notes": bench.notes,
        "cohorts": [_table(table) for table in bench.tables],
        "ranks": bench.ranks,
    }
    return json.dumps(plain(results), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _table(table: Table) -> dict[str, Any]:
    cohort = table.cohort
    return {
        "name": cohort.name,
        "phantom": cohort.phantom,
        "films": {
            "train": cohort.train,
            "pool": cohort.pool,
            "judged": len(cohort.exams),
            "abnormal": int(cohort.abnormal.sum()),
            "prevalence": float(cohort.abnormal.mean()),
            "patients": int(cohort.patient.max()) + 1,
            "matched": None if cohort.matched is None else len(cohort.matched),
        },
        "deviations": cohort.deviations,
        "rows": [_row(row) for row in table.rows],
        "failures": cohort.failures,
        "subsets": [
            {
                "kind": g.kind,
                "name": g.name,
                "normal": g.n_normal,
                "abnormal": g.n_abnormal,
                "auroc": {label: by_label[i] for label, by_label in table.by_subset.items()},
            }
            for i, g in enumerate(table.subsets)
        ],
        "agreement": {"methods": _labels(table), "spearman": table.agreement.tolist()},
    }


def _row(row: Row) -> dict[str, Any]:
    e = row.entry
    return {
        "label": e.label,
        "method": e.method,
        "preset": e.preset,
        "supervision": e.supervision,
        "uses_ehr": e.uses_ehr,
        "baseline": e.baseline,
        "seeds": e.seeds,
        "metrics": row.metrics,
        "auroc_by_seed": row.by_seed,
        "spread": row.spread,
        "matched": row.matched,
        "first_minus_this": row.to_first,
        "p_holm": row.p_holm,
        "not_beaten": row.not_beaten,
        "pixels": e.pixels,
        "published": row.published,
        "cost": e.cost,
    }


def as_csv(bench: Bench) -> str:
    """Gives a line a cohort and method."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = ("auroc", "ap", "sensitivity_at_95")
    ends = [f"{name}{end}" for name in (*names, "matched_auroc") for end in ("", "_low", "_high")]
    head = ["cohort", "method", "preset", "supervision", "uses_ehr", "baseline", "seeds", "films"]
    writer.writerow([*head, "prevalence", *ends, "auroc_sd_seeds", "p_holm", *COSTS, "failed"])
    for table in bench.tables:
        cohort = table.cohort
        for row in table.rows:
            e = row.entry
            values = [row.metrics[name] for name in names]
            cells: list[object] = [
                *(cohort.name, e.method, e.preset, e.supervision, e.uses_ehr, e.baseline),
                *(len(e.seeds), len(cohort.exams), f"{cohort.abnormal.mean():.4f}"),
            ]
            for estimate in (*values, row.matched):
                ends_of = (None,) * 3 if estimate is None else tuple(estimate)[:3]
                cells += [_cell(value) for value in ends_of]
            costs = [_cell(e.cost.get(name)) for name in COSTS]
            writer.writerow([*cells, _cell(row.spread), _cell(row.p_holm), *costs, ""])
        for failure in cohort.failures:
            method, _, preset = failure.label.partition(":")
            line = {"cohort": cohort.name, "method": method, "preset": preset or bench.preset}
            blank = [line.get(name, "") for name in head]
            rest = len(ends) + 3 + len(COSTS)
            writer.writerow([*blank, *[""] * rest, f"seed {failure.seed}: {failure.why}"])
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


ESCAPES = {c: "\\" + c for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\^{}"}


def as_latex(bench: Bench) -> str:
    """Gives a table (booktabs) with a column a cohort: AUROC in per cent and its interval."""
    labels: list[str] = []
    for table in bench.tables:
        labels += [label for label in _labels(table) if label not in labels]
    by_label = [{r.entry.label: r for r in table.rows} for table in bench.tables]
    heads = [_latex(table.cohort.name) for table in bench.tables]
    lines = [
        "% made by nofinding bench; needs booktabs",
        "\\begin{tabular}{ll" + "r" * len(heads) + "}",
        "\\toprule",
        "Method & Supervision & " + " & ".join(heads) + " \\\\",
        "\\midrule",
    ]
    for label in labels:
        rows = [rows.get(label) for rows in by_label]
        tier = next(row.entry.supervision for row in rows if row is not None)
        cells = [_latex_cell(row) for row in rows]
        lines.append(f"{_latex(label)} & {_latex(tier)} & {' & '.join(cells)} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex(text: str) -> str:
    return "".join(ESCAPES.get(c, c) for c in text)


def _latex_cell(row: Row | None) -> str:
    if row is None:
        return "--"
    e = row.metrics["auroc"]
    return f"{100 * e.value:.1f} ({100 * e.low:.1f}--{100 * e.high:.1f})"
