"""Yardsticks of how a detector carries over: lesions of known place, and sites it never met.

lesions: puts lesions into normal val films, scores them and their unchanged twins, and prints
AUROC, localisation and FROC by kind, size and contrast. A scorer is a shipped or own model, or any
function of films.

usage: python benchmarks/transfer.py lesions --model adult|paediatric|FOLDER [--data FOLDER]
           [--scorer module:function] [--kinds nodule,mass] [--films 150] [--seed 0] [--out FILE.md]
"""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS
from nofinding.evaluate.known_answers import Scorer, judge, table
from nofinding.run.cohort import Cohort
from nofinding.run.fitting import use_threads
from nofinding.run.model import Model, load_model
from nofinding.run.shipped import model_folder
from nofinding.sources.insertion.insert import KINDS
from nofinding.sources.insertion.trial import Trial, build_trial
from nofinding.types import Record

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CACHE = Path.home() / ".cache" / "nofinding" / "inserted"
ADULT = {"rsna_normal": 0.5, "nih": 0.25, "other_site": 0.25}  # share of the films of a trial
FIELD = {"adult": 350.0, "paediatric": 200.0}  # mm that the films are wide


def normals(data: Path, site: str, split: str = "val") -> list[Record]:
    """The normal films of a site. Decodes none."""
    cohort = Cohort([f"table:{data / site / 'films.csv'}"], dict(FIELDS), look=False)
    return [r for r in cohort.records if r.split == split and r.findings == frozenset()]


def trial_films(data: Path, who: str, count: int) -> list[Record]:
    """The normal val films that lesions are put into: of several sites, evenly spread in each.

    NIH films of 64 pixels are left out: what is 4 to 12 mm wide cannot be seen on them.
    """
    shares = {"kermany": 1.0} if who == "paediatric" else ADULT
    films = []
    for site, share in shares.items():
        records = [r for r in normals(data, site) if not r.image_id.endswith("@64")]
        records.sort(key=lambda r: r.image_id)
        n = min(len(records), round(share * count))
        films += [records[i * len(records) // n] for i in range(n)]
    return films


def lesion_trial(
    *,
    data: Path = DATA,
    who: str = "adult",
    kinds: Sequence[str] = tuple(KINDS),
    films: int = 150,
    seed: int = 0,
    cache: Path | None = CACHE,
) -> Trial:
    """The trial that all choices are made by. `who`: adult or paediatric films."""
    records = trial_films(data, who, films)
    return build_trial(records, kinds=kinds, field=FIELD[who], seed=seed, cache=cache)


def scorer_of(model: Model) -> Scorer:
    """A fitted model as a scorer."""

    def scored(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray | None]:
        detector = model.detector
        films = Films(records, detector.stats, detector.image_size, model.meta["aspect"])
        with torch.inference_mode():
            scores = detector.score(films.batch(range(len(films))))
        maps = None if scores.map is None else scores.map[:, 0].float().numpy()
        return scores.score.double().numpy(), maps

    return scored


def named(where: str) -> Scorer:
    """The function of "module:function"."""
    module, _, name = where.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    function: Scorer = getattr(importlib.import_module(module), name)
    return function


def lesions(options: argparse.Namespace) -> str:
    who = "paediatric" if options.who == "paediatric" or options.model == "paediatric" else "adult"
    kinds = options.kinds.split(",") if options.kinds else tuple(KINDS)
    start = time.perf_counter()
    trial = lesion_trial(
        data=options.data, who=who, kinds=kinds, films=options.films, seed=options.seed
    )
    made = time.perf_counter() - start
    name = options.scorer or options.model
    model = None if options.scorer else load_model(model_folder(options.model))
    scorer = named(options.scorer) if model is None else scorer_of(model)
    start = time.perf_counter()
    verdict = judge(trial, scorer, draws=options.draws)
    took = time.perf_counter() - start
    return (
        f"{name}, {who} films: {len(trial.cases)} lesions in {len(trial.twins)} normal val films "
        f"({len(trial.skipped)} more without two lungs that could be traced), seed "
        f"{options.seed}; {made:.0f} s to make or read, {took:.0f} s to score and judge\n\n"
        + table(verdict)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("lesions")
    one.add_argument("--model", default="adult")
    one.add_argument("--scorer", default="")
    one.add_argument("--who", choices=("", "adult", "paediatric"), default="")
    one.add_argument("--kinds", default="")
    one.add_argument("--films", type=int, default=150)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--draws", type=int, default=1000)
    one.add_argument("--data", type=Path, default=DATA)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--out", type=Path)
    one.set_defaults(work=lesions)
    options = parser.parse_args()
    use_threads(options.threads)
    text = options.work(options)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
