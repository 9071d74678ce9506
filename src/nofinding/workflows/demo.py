"""demo: one real film by the model inside the package, then the whole way on phantoms."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from nofinding.errors import UserError
from nofinding.methods import METHODS
from nofinding.progress import say
from nofinding.ranges import Range, require_ranges
from nofinding.workflows.evaluate import EvaluateOptions, evaluate
from nofinding.workflows.fit import FitOptions, fit
from nofinding.workflows.score import ScoreOptions, score

__all__ = ["DemoOptions", "demo"]

COHORT = "phantom:train=300,val=80,test=80,abnormal=8,size=96"
MARK = ".nofinding-demo"  # only a folder that has it is ever replaced
REAL_FILM = "RG1_J2KI.dcm"  # a CR film, MONOCHROME1, JPEG 2000, in the package pydicom-data


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Fits Diff3M to simulated films with records, scores others, and writes a report."""

    out: Path = Path("demo-output")
    """Folder for the model, the scores and the report; an old one is replaced."""
    method: str = "diff3m"
    """Which method."""
    preset: str = "demo"
    """Named set of the method's options."""
    seed: int = 0
    """Of everything random."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: all."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


def demo(options: DemoOptions) -> Path:
    """Path of the report. Raises UserError where the folder is not one that demo made."""
    out = options.out
    if out.is_file():
        raise UserError(f"--out {out}: is a file; give a folder")
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise UserError(f"--out {out}: is not empty and not a demo's; choose another folder")
    shutil.rmtree(out, ignore_errors=True)
    cls = METHODS.get(options.method)
    if cls is None or options.preset not in cls.PRESETS:
        raise UserError(f"no method {options.method!r} with a preset {options.preset!r}")
    out.mkdir(parents=True)
    (out / MARK).touch()
    model, cache = out / "model", out / "cache"
    film = real_film()
    if film is None:
        say("no real film: the package pydicom-data is not installed")
    else:
        row = score([str(film)], ScoreOptions(out=out / "real-film", cache=cache))[0]
        say(
            f"one real film ({film.name}), by the adult model inside the package: score "
            f"{float(row['score']):.4g}, p {row['p_value']}; map in {out / 'real-film' / 'maps'}"
        )
    say("Simulated films (phantoms), not patients: see docs/phantom.md")
    fit(
        options.method,
        cls.PRESETS[options.preset],
        FitOptions(
            films=[COHORT],
            out=model,
            preset=options.preset,
            seed=options.seed,
            threads=options.threads,
            cache=cache,
        ),
    )
    score(
        [],
        ScoreOptions(
            model=str(model), films=[COHORT], split="test", out=out / "scores", cache=cache
        ),
    )
    report = out / "report" / "report.html"
    evaluate(
        EvaluateOptions(
            scores=out / "scores" / "scores.csv", films=[COHORT], out=report.parent, cache=cache
        )
    )
    return report.resolve()


def real_film() -> Path | None:
    """A real chest film from the PyPI package pydicom-data, or None where that is missing."""
    try:
        import data_store
    except ImportError:
        return None
    folder = Path(data_store.__file__).parent
    return next(folder.rglob(REAL_FILM), None)
