"""The tables of a bench's results.json as Markdown, for a README beside it.

usage: python benchmarks/bench_tables.py BENCH/results.json > tables.md
"""

import json
import sys
from pathlib import Path
from typing import Any


def estimate(e: dict[str, Any] | None) -> str:
    """A number and its interval."""
    if e is None or e["value"] is None:
        return "-"
    return f"{e['value']:.3f} ({e['low']:.3f} to {e['high']:.3f})"


def quantity(value: float | None) -> str:
    """Three digits."""
    return "-" if value is None else f"{value:.3g}"


def table(cohort: dict[str, Any]) -> str:
    """One cohort, the best AUROC first."""
    films = cohort["films"]
    pairs = "" if films["matched"] is None else f"; {films['matched'] // 2} matched pairs"
    lines = [
        f"## {cohort['name']}\n",
        f"{films['train']} normal films to learn from; {films['judged'] - films['abnormal']} "
        f"normal and {films['abnormal']} abnormal films judged (prevalence "
        f"{films['prevalence']:.2f}), "
        f"{films['patients']} patients{pairs}.\n",
        "| method | told about disease | AUROC | matched pairs | AP | sensitivity at 95 % spec. | "
        "p (Holm) | fit, min | films/s | calls | GFLOP | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in cohort["rows"]:
        cost, metrics = row["cost"], row["metrics"]
        seeds = f" ({len(row['seeds'])} seeds, sd {row['spread']:.3f})" if row["spread"] else ""
        name = f"*{row['label']}*" if row["baseline"] else row["label"]
        p = "-" if row["p_holm"] is None else f"{row['p_holm']:.3f}"
        cells = [
            name + seeds,
            row["supervision"],
            estimate(metrics["auroc"]),
            estimate(row["matched"]),
            estimate(metrics["ap"]),
            estimate(metrics["sensitivity_at_95"]),
            p,
            *(quantity(cost[name]) for name in ("fit_minutes", "films_per_second")),
            *(quantity(cost[name]) for name in ("network_calls", "gflop", "peak_memory_mib")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    whys = sorted({f"{f['label']} ({f['why']})" for f in cohort["failures"]})
    if whys:
        lines.append(f"\nWithout a number: {'; '.join(whys)}.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n".join(table(cohort) for cohort in results["cohorts"]))
