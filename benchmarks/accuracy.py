"""How well fitted models tell the labelled films of one cohort apart, side by side.

AUROC and average precision with patient-bootstrap intervals, over all films of the split and over
matched pairs: a normal and an abnormal film of equal brightness, equal black area, and the same
view and source size ("@320" at the end of an id). Where scanner or mask differ between the
classes, only the pairs say something about disease. Models of a method with detection rules also
get a row for each rule.

usage: python benchmarks/accuracy.py MODEL [MODEL...] --films SOURCE:PATH
           [--split val] [--finding NAME] [--rules] [--threads 1] [--out FILE.md]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from films import gflop_of

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS
from nofinding.datasets.cohort import Cohort, cache_at
from nofinding.evaluation.statistics.intervals import measure, patient_index
from nofinding.evaluation.statistics.matching import covariates, matched_pairs
from nofinding.methods.base.protocol import HasRules
from nofinding.model.bundle import Model, load_model, with_rule
from nofinding.runtime import use_threads


def ways(folder: Path, rules: bool) -> list[tuple[str, Model]]:
    """The model as it is, and by each of its rules."""
    model = load_model(folder)
    ways_to_score = [(model.detector.name, model)]
    if rules and isinstance(model.detector, HasRules):
        names = model.detector.RULES
        ways_to_score += [(f"{model.detector.name}, {n}", with_rule(model, n, 0)) for n in names]
    return ways_to_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--films", nargs="+", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--finding", help="count films without it, unless normal, out")
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    use_threads(options.threads)
    exams = [r for r in Cohort(options.films, dict(FIELDS)).exams if r.split == options.split]
    exams = [r for r in exams if r.findings is not None]
    if options.finding:
        exams = [r for r in exams if not r.findings or options.finding in r.findings]
    abnormal = np.array([bool(r.findings) for r in exams])
    patient = patient_index([r.patient_id for r in exams])
    lines, partners = [], None
    for folder in options.models:
        for name, model in ways(folder, options.rules):
            size, aspect = model.detector.image_size, model.meta["aspect"]
            films = Films(exams, model.detector.stats, size, aspect, cache_at(None))
            if partners is None:
                partners = matched_pairs(exams, abnormal, covariates(films))
            rows = []
            for start in range(0, len(films), 16):
                batch = films.batch(range(start, min(start + 16, len(films))))
                rows.append(model.detector.score(batch).score.double())
            scores = torch.cat(rows).numpy()
            whole = measure(scores, abnormal, patient)
            equal = measure(scores[partners], abnormal[partners], patient[partners])
            values = [whole["auroc"], whole["ap"], equal["auroc"]]
            cells = [f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in values]
            line = f"| {name} | {gflop_of(model.detector, films):.2f} | {' | '.join(cells)} |"
            print(line, flush=True)
            lines.append(line)
    n, m = int(abnormal.sum()), len(partners) // 2 if partners is not None else 0
    text = (
        f"{Cohort(options.films, dict(FIELDS)).name}, split {options.split}"
        f"{', ' + options.finding if options.finding else ''}: {len(exams) - n} normal, "
        f"{n} abnormal (prevalence {n / len(exams):.2f}); {m} matched pairs\n\n"
        "| method | GFLOP | AUROC | AP | AUROC, matched pairs |\n|---|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
