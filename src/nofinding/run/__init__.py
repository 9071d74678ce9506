"""The use cases: the only place where sources, methods and evaluation meet."""

from nofinding.run.assembling import CohortOptions, assemble_cohort
from nofinding.run.benching import BenchOptions, bench
from nofinding.run.caching import CacheOptions, cache_films
from nofinding.run.deidentifying import DeidentifyOptions, deidentify
from nofinding.run.demo import DemoOptions, demo
from nofinding.run.evaluating import EvaluateOptions, evaluate
from nofinding.run.exampling import ExampleOptions, write_example
from nofinding.run.exporting import ExportOptions, export
from nofinding.run.fitting import FitOptions, fit
from nofinding.run.gating import FitGateOptions, fit_gate_alone
from nofinding.run.importing import ImportOptions, import_official
from nofinding.run.scoring import ScoreOptions, score
from nofinding.run.studies import StudyOptions, score_studies

__all__ = [
    "BenchOptions",
    "CacheOptions",
    "CohortOptions",
    "DeidentifyOptions",
    "DemoOptions",
    "EvaluateOptions",
    "ExampleOptions",
    "ExportOptions",
    "FitGateOptions",
    "FitOptions",
    "ImportOptions",
    "ScoreOptions",
    "StudyOptions",
    "assemble_cohort",
    "bench",
    "cache_films",
    "deidentify",
    "demo",
    "evaluate",
    "export",
    "fit",
    "fit_gate_alone",
    "import_official",
    "score",
    "score_studies",
    "write_example",
]
