"""The options of `nofinding bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from nofinding.data.image import Aspect
from nofinding.data.twin_choice import TwinCheck
from nofinding.evaluation.statistics.intervals import DRAWS
from nofinding.ranges import Range, require_ranges

__all__ = ["BenchOptions"]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Fits and judges many methods on the same films, and writes one report."""

    films: list[str]
    """SOURCE:PATH, one or more; each is a cohort of its own."""
    out: Path
    """Folder for the grid and the report; the same command goes on where it stopped."""
    methods: str = "all"
    """all, or METHOD,METHOD:PRESET,...; metadata-only is the classifier on the record alone."""
    preset: str = "small"
    """Of the methods that name none."""
    seeds: Annotated[int, Range(1, 1000)] = 1
    """How many; they are 0, 1, 2, ..."""
    split: Literal["val", "test"] = "test"
    """The films that are judged. Learnt from are the normal films of split train."""
    pool: Annotated[float, Range(0, below=1)] = 0.3
    """Share of the judged patients whose films are set aside, for everyone, where a method learns
    from unlabelled or diseased films and split train has none."""
    most: Annotated[int, Range(0, 10**9)] = 0
    """Learn from this many normal films of a cohort at most, the same for everyone; 0: all."""
    matched: bool = False
    """Measure over matched pairs, too: a normal and an abnormal film of equal brightness, black
    area, view and source size."""
    recipe: str | None = None
    """A published protocol (see `nofinding recipes`), whose figures stand beside ours."""
    jobs: Annotated[int, Range(1, 256)] = 1
    """Cells at a time, each a process."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads in all; 0: all there are."""
    minutes: Annotated[float, Range(0)] = 0
    """A cell that takes longer is stopped, and reported as failed; 0: no limit."""
    twins: TwinCheck = "refuse"
    """Judged films that are altered copies of training films (docs/twins.md): refuse stops before
    the first cell; report goes on, and lists the pairs in the folder; skip does not look."""
    run: bool = True
    """false: run no cell, and report what is done."""
    pictures: bool = True
    """Show films and maps in the report. false: a report that may leave the hospital."""
    aspect: Aspect = "pad"
    """pad keeps the film's proportions; squash does not."""
    bootstrap: Annotated[int, Range(0, 10**6)] = DRAWS
    """Draws of patients for the intervals."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    fields_file: Path | None = None
    """YAML file with further record fields (docs/ehr.md)."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)
