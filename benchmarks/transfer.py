"""Yardsticks of how a detector carries over: lesions of known place, and sites it never met.

lesions: puts lesions into normal val films, scores them and their unchanged twins, and prints
AUROC, localisation and FROC by kind, size and contrast. A scorer is a shipped or own model, or any
function of films (`nofinding.evaluation.known_answers.Scorer`).

sites: fits on the normal films of all sites but one and judges on that one: false positives of its
normal val films before and after adapting, and lesions put into them. Its abnormal val films stay
closed; --open-val opens them, for one last look. --model judges a fitted model as it is instead, at
sites that it may know. --fit and --adapt are functions as in `nofinding.evaluation.left_out`.

usage: python benchmarks/transfer.py lesions --model adult|paediatric|FOLDER [--data FOLDER]
           [--scorer module:function] [--kinds nodule,mass] [--films 150] [--seed 0] [--out FILE.md]
           [--plot FILE.png]
       python benchmarks/transfer.py sites [--method mahalanobis] [--preset small] [--most 250]
           [--model MODEL | --fit module:function] [--adapt recalibrated|none|module:function]
           [--local 100] [--sick 0.3] [--lesions 40] [--only SITE,...] [--open-val] [--out FILE.md]
"""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.data.split import hold_out, normals
from nofinding.datasets.cohort import Cohort
from nofinding.datasets.insertion.insert import KINDS
from nofinding.datasets.insertion.trial import Trial, build_trial
from nofinding.evaluation.known_answers import Scorer, judge, table
from nofinding.evaluation.left_out import (
    Fit,
    Fitted,
    Opened,
    Site,
    leave_one_out,
    mixture,
    recalibrated,
    scores_of,
    site_table,
)
from nofinding.evaluation.report.lesions import plot_froc
from nofinding.evaluation.statistics.matching import covariates, matched_pairs
from nofinding.methods import METHODS
from nofinding.model.bundle import Model, load_model
from nofinding.model.pretrained import model_folder
from nofinding.runtime import use_threads
from nofinding.types import Exam

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CACHE = Path.home() / ".cache" / "nofinding" / "inserted"
ADULT = {"rsna_normal": 0.5, "nih": 0.25, "other_site": 0.25}  # share of the films of a trial
FIELD = {"adult": 350.0, "paediatric": 200.0}  # mm that the films are wide
GROUPS = {
    "kermany": (("kermany", "kermany", ""),),
    "nih": (("nih@320", "nih", "@320"), ("nih@64", "nih", "@64")),
    "rsna": (("rsna_normal", "rsna_normal", ""), ("rsna_lungs", "rsna_lungs", "")),
    "other_site": (("other_site", "other_site", ""),),
}
"""What is left out together, and its parts: name, folder, how an image_id ends."""


def every(data: Path, folder: str) -> Sequence[Exam]:
    """All films of a folder of ../shared/data. Decodes none."""
    return Cohort([f"table:{data / folder / 'films.csv'}"], dict(FIELDS), look=False).exams


def spread(exams: Sequence[Exam], count: int) -> list[Exam]:
    """So many of them, at even distances in the order of their ids."""
    ordered = sorted(exams, key=lambda r: r.image_id)
    return [ordered[i * len(ordered) // count] for i in range(count)]


def trial_films(data: Path, who: str, count: int) -> list[Exam]:
    """The normal val films that lesions are put into: of several sites, evenly spread in each.

    NIH films of 64 pixels are left out: what is 4 to 12 mm wide cannot be seen on them.
    """
    shares = {"kermany": 1.0} if who == "paediatric" else ADULT
    films = []
    for site, share in shares.items():
        exams = [r for r in normals(every(data, site), "val") if not r.image_id.endswith("@64")]
        films += spread(exams, min(len(exams), round(share * count)))
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

    def scored(exams: Sequence[Exam]) -> tuple[np.ndarray, np.ndarray | None]:
        detector = model.detector
        films = Films(exams, detector.stats, detector.image_size, model.meta["aspect"])
        with torch.inference_mode():
            scores = detector.score(films.batch(range(len(films))))
        maps = None if scores.anomaly_map is None else scores.anomaly_map[:, 0].float().numpy()
        return scores.score.double().numpy(), maps

    return scored


def named(where: str) -> Any:
    """The function of "module:function"."""
    module, _, name = where.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    return getattr(importlib.import_module(module), name)


def lesions(options: argparse.Namespace) -> str:
    """The report of the lesions command."""
    who = "paediatric" if options.who == "paediatric" or options.model == "paediatric" else "adult"
    kinds = options.kinds.split(",") if options.kinds else tuple(KINDS)
    start = time.perf_counter()
    trial = lesion_trial(
        data=options.data, who=who, kinds=kinds, films=options.films, seed=options.seed
    )
    built = time.perf_counter() - start
    name = options.scorer or options.model
    model = None if options.scorer else load_model(model_folder(options.model))
    scorer = named(options.scorer) if model is None else scorer_of(model)
    start = time.perf_counter()
    verdict = judge(trial, scorer, draws=options.draws)
    took = time.perf_counter() - start
    if options.plot:
        plot_froc(verdict, options.plot, title=f"{name}, lesions put into normal {who} films")
    return (
        f"{name}, {who} films: {len(trial.cases)} lesions in {len(trial.twins)} normal val films "
        f"({len(trial.skipped)} more without two lungs that could be traced), seed "
        f"{options.seed}; {built:.0f} s to build or read, {took:.0f} s to score and judge\n\n"
        + table(verdict)
    )


def sites_of(options: argparse.Namespace) -> list[Site]:
    """All sites, with lesions in their val normals; abnormal val films with --open-val alone."""
    parts_of_all = []
    for group, parts in GROUPS.items():
        for name, folder, size in parts:
            exams = [r for r in every(options.data, folder) if r.image_id.endswith(size)]
            val = [r for r in exams if r.split == "val" and r.findings is not None]
            normal = [r for r in val if not r.findings]
            trial = None
            if options.lesions and name != "rsna_lungs":
                trial = build_trial(
                    spread(normal, min(options.lesions, len(normal))),
                    kinds=[k for k in options.kinds.split(",") if size != "@64" or k != "nodule"],
                    field=FIELD["paediatric" if group == "kermany" else "adult"],
                    cache=CACHE,
                )
            parts_of_all.append(
                Site(
                    name=name,
                    group=group,
                    train=[r for r in exams if r.split == "train" and r.findings == frozenset()],
                    normal=normal,
                    trial=trial,
                    opened=opened(val) if options.open_val and len(val) > len(normal) else None,
                )
            )
    return parts_of_all


def opened(val: Sequence[Exam]) -> Opened:
    """The labelled val films, and the pairs among them that look alike."""
    films = Films(val, EhrStats.of(val, []), 224)
    abnormal = np.array([bool(r.findings) for r in val])
    return Opened(records=val, paired=matched_pairs(val, abnormal, covariates(films)))


def fitting(options: argparse.Namespace) -> Fit:
    """Fits a method on at most --most films of each site, and calibrates on held-out patients."""

    def fit(group: str, exams: Sequence[Exam]) -> Fitted:
        training, calibration = hold_out(few(exams, options.most), 0.2, options.seed)
        fields = [f for name, f in FIELDS.items() if any(name in r.ehr for r in training)]
        detector = METHODS[options.method](
            METHODS[options.method].PRESETS[options.preset], EhrStats.of(training, fields)
        )
        detector.fit(Films(training, detector.stats, detector.image_size), seed=options.seed)
        scorer = scorer_of(Model(detector, {"aspect": "pad"}))
        print(f"without {group}: fitted on {len(training)}, calibrated on {len(calibration)}")
        return Fitted(scorer, scores_of(scorer, calibration))

    return fit


def few(exams: Sequence[Exam], most: int) -> list[Exam]:
    """At most so many films of each site (first letter of the id, and size), evenly spread."""
    by_site: dict[str, list[Exam]] = {}
    for exam in exams:
        by_site.setdefault(exam.image_id[0] + exam.image_id[-3:] * ("@" in exam.image_id), [])
        key = exam.image_id[0] + exam.image_id[-3:] * ("@" in exam.image_id)
        by_site[key].append(exam)
    return [r for part in by_site.values() for r in spread(part, min(most, len(part)))]


def sites(options: argparse.Namespace) -> str:
    """The report of the sites command."""
    all_sites = sites_of(options)
    if options.model:
        model = load_model(model_folder(options.model))
        as_it_is = Fitted(scorer_of(model), model.calibration[0])
        fit: Fit = lambda group, records: as_it_is  # noqa: E731
        name = f"{options.model} as it is, at sites that it may have been fitted on"
    else:
        fit = named(options.fit) if options.fit else fitting(options)
        name = options.fit or f"{options.method}, {options.preset}, {options.most} films a site"
    adapt = {"none": None, "recalibrated": recalibrated}.get(options.adapt, options.adapt)
    adapt = named(adapt) if isinstance(adapt, str) else adapt
    only = options.only.split(",") if options.only else ()
    unlabelled = {s.name: mixed(s, options) for s in all_sites if not only or s.name in only}
    rows = leave_one_out(
        all_sites,
        fit,
        adapt,
        local=options.local,
        unlabelled=unlabelled if adapt and options.sick else None,
        only=only,
        seed=options.seed,
    )
    kinds = [k for k in options.kinds.split(",") if options.lesions]
    return (
        f"{name}; adapted by {options.adapt}; unlabelled: {options.sick:.0%} with a lesion put "
        f"in\n\n" + site_table(rows, kinds)
    )


def mixed(site: Site, options: argparse.Namespace) -> list[Exam]:
    """Unlabelled training films of a site: some of them with a lesion put into them."""
    normal = spread(list(site.train), min(options.local, len(site.train)))
    if not options.sick or site.name == "rsna_lungs":
        return []
    field = FIELD["paediatric" if site.group == "kermany" else "adult"]
    kinds = ("consolidation", "effusion", "mass")
    return mixture(normal, build_trial(normal, kinds=kinds, field=field, cache=CACHE), options.sick)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("lesions")
    one.add_argument("--model", default="adult")
    one.add_argument("--scorer", default="")
    one.add_argument("--who", choices=("", "adult", "paediatric"), default="")
    one.add_argument("--kinds", default="")
    one.add_argument("--films", type=int, default=150)
    one.add_argument("--draws", type=int, default=1000)
    one.add_argument("--plot", type=Path)
    one.set_defaults(work=lesions)
    other = commands.add_parser("sites")
    other.add_argument("--method", default="mahalanobis", choices=METHODS)
    other.add_argument("--preset", default="small")
    other.add_argument("--most", type=int, default=250)
    other.add_argument("--model", default="")
    other.add_argument("--fit", default="")
    other.add_argument("--adapt", default="recalibrated")
    other.add_argument("--local", type=int, default=100)
    other.add_argument("--sick", type=float, default=0.3)
    other.add_argument("--lesions", type=int, default=40)
    other.add_argument("--kinds", default="nodule,mass,consolidation,effusion")
    other.add_argument("--only", default="")
    other.add_argument("--open-val", action="store_true")
    other.set_defaults(work=sites)
    for command in (one, other):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--data", type=Path, default=DATA)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--out", type=Path)
    options = parser.parse_args()
    use_threads(options.threads)
    text = options.work(options)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
