"""evaluate: scores and labels in, a report out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from nofinding.data.decoding.decode import VolumeFile
from nofinding.data.split import normals
from nofinding.data.twin_choice import TwinCheck
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.errors import UserError
from nofinding.evaluation.assess import evaluate as assess
from nofinding.progress import say
from nofinding.ranges import Range, require_ranges
from nofinding.runtime import use_threads

__all__ = ["EvaluateOptions", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Says how well scores tell abnormal films from normal ones; every number has an interval."""

    scores: Path
    """The scores.csv that `nofinding score` wrote; its run.json and maps are read beside it."""
    films: list[str]
    """The labelled films, SOURCE:PATH; their train normals fit the baselines."""
    out: Path
    """Folder for report.html and metrics.json."""
    compare: Path | None = None
    """A second scores.csv of the same films, for a paired test."""
    baselines: Literal["all", "quick", "none"] = "all"
    """The baselines that any method must beat: all; quick, without the autoencoder, which takes
    minutes; or none."""
    twins: TwinCheck = "refuse"
    """Judged films that are altered copies of training or calibration films (docs/twins.md): refuse
    stops; report goes on, and lists the pairs in the folder; skip does not look."""
    bootstrap: Annotated[int, Range(100)] = 2000
    """Draws of patients for the intervals."""
    seed: int = 0
    """Of those draws and of the baselines."""
    fields_file: Path | None = None
    """YAML file with further record fields, as in fit."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: all."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Writes report.html and metrics.json; gives what the latter holds. Raises UserError."""
    use_threads(options.threads)
    if not options.scores.is_file():
        raise UserError(f"--scores {options.scores}: no such file")
    fields = known_fields(options.fields_file)
    cohort = Cohort(options.films, fields)
    if any(isinstance(exam.pixels, VolumeFile) for exam in cohort.exams):
        raise UserError(f"{cohort.name}: holds volumes; evaluate judges films (docs/volumes.md)")
    metrics = assess(
        options.scores,
        cohort.exams,
        options.out,
        name=cohort.name,
        phantom=cohort.phantom,
        train_normals=normals(cohort.exams, "train"),
        fields=[fields[name] for name in cohort.offers],
        cache=cache_at(options.cache),
        compare=options.compare,
        seed=options.seed,
        bootstrap=options.bootstrap,
        baselines=options.baselines,
        twins=options.twins,
    )
    say(f"{options.out / 'report.html'}: written")
    return metrics
