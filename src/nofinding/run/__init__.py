"""The use cases: the only place where sources, methods and evaluation meet."""

from nofinding.run.benching import BenchOptions, bench
from nofinding.run.caching import CacheOptions, cache_films
from nofinding.run.demo import DemoOptions, demo
from nofinding.run.evaluating import EvaluateOptions, evaluate
from nofinding.run.fitting import FitOptions, fit
from nofinding.run.gating import FitGateOptions, fit_gate_alone
from nofinding.run.importing import ImportOptions, import_official
from nofinding.run.scoring import ScoreOptions, score

__all__ = [
    "BenchOptions",
    "CacheOptions",
    "DemoOptions",
    "EvaluateOptions",
    "FitGateOptions",
    "FitOptions",
    "ImportOptions",
    "ScoreOptions",
    "bench",
    "cache_films",
    "demo",
    "evaluate",
    "fit",
    "fit_gate_alone",
    "import_official",
    "score",
]
