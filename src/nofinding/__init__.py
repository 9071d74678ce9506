"""How far a chest radiograph is from the normal ones, where, and with what confidence.

import nofinding as nf

model = nf.load("adult")
result = model.predict("film.dcm", ehr={"age": 63, "sex": "M", "view": "PA"})
result.score, result.p_value, result.anomaly_map, result.flags
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nofinding.openmp import set_wait

if TYPE_CHECKING:
    from nofinding.api import BenchReport as BenchReport
    from nofinding.api import EvaluationReport as EvaluationReport
    from nofinding.api import Films as Films
    from nofinding.api import MethodInfo as MethodInfo
    from nofinding.api import Methods as Methods
    from nofinding.api import Model as Model
    from nofinding.api import bench as bench
    from nofinding.api import evaluate as evaluate
    from nofinding.api import fit as fit
    from nofinding.api import listing as methods
    from nofinding.api import load as load
    from nofinding.api import open as open
    from nofinding.api import sources as sources
    from nofinding.errors import UserError as UserError
    from nofinding.estimator import AnomalyDetector as AnomalyDetector
    from nofinding.scoring.prediction import Prediction as Prediction
    from nofinding.scoring.prediction import Predictions as Predictions
    from nofinding.types import Exam as Exam

__version__ = "0.1.0"

set_wait(os.environ)  # here, for every module of the package, and every worker, comes through here

# Where each public name lives. They are loaded when they are first asked for: torch alone takes
# seconds.
PUBLIC = {
    "AnomalyDetector": "nofinding.estimator",
    "BenchReport": "nofinding.api",
    "EvaluationReport": "nofinding.api",
    "Exam": "nofinding.types",
    "Films": "nofinding.api",
    "MethodInfo": "nofinding.api",
    "Methods": "nofinding.api",
    "Model": "nofinding.api",
    "Prediction": "nofinding.scoring.prediction",
    "Predictions": "nofinding.scoring.prediction",
    "UserError": "nofinding.errors",
    "bench": "nofinding.api",
    "evaluate": "nofinding.api",
    "fit": "nofinding.api",
    "load": "nofinding.api",
    "open": "nofinding.api",
    "sources": "nofinding.api",
}
__all__ = ["__version__", "methods", *sorted(PUBLIC)]


def __getattr__(name: str) -> Any:
    if name == "methods":  # the package itself, which lists its methods when it is called
        return import_module("nofinding.methods")
    if name not in PUBLIC:
        raise AttributeError(f"module 'nofinding' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
