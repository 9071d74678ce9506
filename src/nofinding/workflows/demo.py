"""demo: one real film by the model inside the package, then the whole way on phantoms."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS
from nofinding.datasets.cohort import Cohort, cache_at
from nofinding.errors import UserError
from nofinding.evaluation.report.demo_page import DemoPage, demo_html, real_picture
from nofinding.evaluation.report.gallery import Picture, pictures_of
from nofinding.evaluation.report.page import plain
from nofinding.evaluation.statistics.intervals import Estimate, difference, measure, patient_index
from nofinding.evaluation.table import read_scores
from nofinding.methods import METHODS
from nofinding.model.bundle import Model, load_model
from nofinding.progress import say
from nofinding.ranges import Range, require_ranges
from nofinding.runtime import use_threads
from nofinding.storage.atomic import write_atomic
from nofinding.types import Exam
from nofinding.workflows.evaluate import EvaluateOptions, evaluate
from nofinding.workflows.fit import FitOptions, fit
from nofinding.workflows.score import ScoreOptions, score

__all__ = ["DemoOptions", "demo"]

MARK = ".nofinding-demo"  # only a folder that has it is ever replaced
REAL_FILM = "RG1_J2KI.dcm"  # a CR film, MONOCHROME1, JPEG 2000, in the package pydicom-data
RECORD_KIND = "conditional"  # the finding that the record alone reveals


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much the demo does: what two cores finish in a minute and a half."""

    films: str = "train=140,val=40,test=40,abnormal=20"
    size: int = 96
    kinds: tuple[str, ...] = (RECORD_KIND, "cardiomegaly", "effusion", "nodule")
    method: str = "diff3m-f"
    method_options: Mapping[str, Any] = field(default_factory=lambda: {"copied": 32})
    preset: str = "small"
    repairing: str = "diff3m"
    """Shows what each film would look like in health."""
    repairing_preset: str = "demo"
    baselines: str = "quick"
    draws: int = 1000


PLAN = Plan()


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Scores a real film, fits models to simulated films with records, and writes one page."""

    out: Path = Path("demo-output")
    """Folder for the page, models and scores; an old one is replaced."""
    seed: Annotated[int, Range(0)] = 0
    """Of the simulated patients and of everything random."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: all."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


class Clock:
    """CPU seconds of each stage: this process's and those of children that ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what is done within, and says it."""
        before = sum(os.times()[:4])
        yield
        self.seconds[name] = sum(os.times()[:4]) - before
        say(f"{name}: {self.seconds[name]:.1f} CPU seconds")


def demo(options: DemoOptions) -> Path:
    """Path of the page. Raises UserError where the folder is not one that demo made."""
    out, plan, clock = options.out, PLAN, Clock()
    _make_folder(out)
    use_threads(options.threads)
    cache = out / "cache"
    film = real_film()
    if film is None:
        say("no real film: the package pydicom-data is not installed")
    else:
        with clock.stage("a real film, by the adult model inside the package"):
            row = score([str(film)], ScoreOptions(out=out / "real-film", cache=cache))[0]
        say(f"{film.name}: score {float(row['score']):.4g}, p {row['p_value']}")
        say(f"its map: {out / 'real-film' / 'maps' / row['image_id']}.png")
    say("Simulated films (phantoms), not patients: see docs/phantom.md")
    source = (
        f"phantom:{plan.films},kinds={'+'.join(plan.kinds)},size={plan.size},seed={options.seed}"
    )
    with clock.stage(f"{plan.method} fitted, {source}"):
        _fit(plan.method, plan.preset, plan.method_options, source, out / "model", options)
    with clock.stage(f"{plan.method} scores the test films"):
        _score(source, out / "model", out / "scores", cache)
    with clock.stage("the same with the record withheld"):
        comparison, decided = _compare(source, out, cache, plan)
    with clock.stage("judged, beside baselines"):
        metrics = _evaluate(source, out / "scores", out / "report", cache, plan.baselines, plan)
    with clock.stage(f"a small {plan.repairing}: fitted and judged"):
        _fit(plan.repairing, plan.repairing_preset, {}, source, out / "diff3m-model", options)
        _score(source, out / "diff3m-model", out / "diff3m-scores", cache)
        repaired = _evaluate(
            source, out / "diff3m-scores", out / "diff3m-report", cache, "none", plan
        )
    page = DemoPage(
        source=source,
        method=plan.method,
        repairing=plan.repairing,
        record_kind=RECORD_KIND,
        comparison=comparison,
        decided=decided,
        metrics=metrics,
        repaired=repaired,
        film=None if film is None else real_picture(film, out / "real-film"),
        method_pictures=_pictures(source, out / "model", out / "scores", cache),
        pictures=_pictures(source, out / "diff3m-model", out / "diff3m-scores", cache),
        cpu_seconds=clock.seconds,
    )
    html = demo_html(page)
    numbers = {"comparison": comparison, "decided": decided, "cpu_seconds": clock.seconds}
    write_atomic(out / "demo.json", (json.dumps(numbers, indent=2) + "\n").encode())
    path = out / "demo.html"
    write_atomic(path, html.encode())
    say(f"{sum(os.times()[:4]):.0f} CPU seconds in all")
    return path.resolve()


def _make_folder(out: Path) -> None:
    """An empty folder with the demo's mark. Raises UserError for one that is somebody else's."""
    if out.is_file():
        raise UserError(f"--out {out}: is a file; give a folder")
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise UserError(f"--out {out}: is not empty and not a demo's; choose another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()


def _fit(
    method: str,
    preset: str,
    changes: Mapping[str, Any],
    source: str,
    out: Path,
    options: DemoOptions,
) -> None:
    """Fits with a named preset, but for `changes`; without an input gate, for these are phantoms"""
    fit(
        method,
        replace(METHODS[method].PRESETS[preset], **changes),
        FitOptions(
            films=[source],
            out=out,
            preset=preset,
            seed=options.seed,
            gate="none",
            threads=options.threads,
            cache=options.out / "cache",
        ),
    )


def _score(source: str, model: Path, out: Path, cache: Path) -> None:
    """Scores the test films, without maps: writing and judging them would take longer than the
    networks do."""
    options = ScoreOptions(
        model=str(model), films=[source], split="test", out=out, maps=False, cache=cache
    )
    score([], options)


def _evaluate(
    source: str, scores: Path, out: Path, cache: Path, baselines: str, plan: Plan
) -> dict[str, Any]:
    return evaluate(
        EvaluateOptions(
            scores=scores / "scores.csv",
            films=[source],
            out=out,
            cache=cache,
            baselines=baselines,  # type: ignore[arg-type]
            bootstrap=plan.draws,
        )
    )


def _test_films(source: str) -> list[Exam]:
    return [exam for exam in Cohort([source], dict(FIELDS)).exams if exam.split == "test"]


def _compare(
    source: str, out: Path, cache: Path, plan: Plan
) -> tuple[dict[str, Any], dict[str, Any]]:
    """AUROC of RECORD_KIND against normal films: with the record, and with it withheld from the
    same model; their paired difference. And what the fit decided about the record."""
    scored = read_scores(out / "scores" / "scores.csv", _test_films(source))
    rows = [
        i
        for i, exam in enumerate(scored.exams)
        if not exam.findings or RECORD_KIND in exam.findings
    ]
    model = load_model(out / "model")
    detector = model.detector
    exams = [scored.exams[i] for i in rows]
    films = _films(model, exams, cache)
    parts = []
    for start in range(0, len(films), 16):
        batch = films.batch(range(start, min(start + 16, len(films))))
        withheld = replace(batch, known=torch.zeros_like(batch.known))
        parts.append(detector.score(withheld).score.double().numpy())
    without: Float[np.ndarray, " n"] = np.concatenate(parts)
    given, abnormal = scored.score[rows], scored.abnormal[rows]
    patient = patient_index([exam.patient_id for exam in exams])
    arms: dict[str, Estimate] = {
        "record": measure(given, abnormal, patient, draws=plan.draws)["auroc"],
        "withheld": measure(without, abnormal, patient, draws=plan.draws)["auroc"],
        "difference": difference(given, without, abnormal, patient, draws=plan.draws),
    }
    counts = {"normal": int((~abnormal).sum()), "abnormal": int(abnormal.sum())}
    return {**plain(arms), **counts}, dict(model.meta.get("decided", {}))


def _pictures(source: str, model: Path, scores: Path, cache: Path) -> Sequence[Picture]:
    """The first normal test film, and the first of each kind of finding: no film is picked."""
    scored = read_scores(scores / "scores.csv", _test_films(source))
    first: dict[frozenset[str], int] = {}
    for i, exam in enumerate(scored.exams):
        first.setdefault(exam.findings or frozenset(), i)
    indices = sorted(first.values())
    loaded = load_model(model)
    films = _films(loaded, [scored.exams[i] for i in indices], cache)
    judged = loaded.detector.score(films.batch(range(len(films))))
    return pictures_of(scored, indices, films, judged, list(FIELDS.values()))


def _films(model: Model, exams: Sequence[Exam], cache: Path) -> Films:
    detector = model.detector
    return Films(exams, detector.stats, detector.image_size, model.meta["aspect"], cache_at(cache))


def real_film() -> Path | None:
    """A real chest film from the PyPI package pydicom-data, or None where that is missing."""
    try:
        import data_store
    except ImportError:
        return None
    folder = Path(data_store.__file__).parent
    return next(folder.rglob(REAL_FILM), None)
