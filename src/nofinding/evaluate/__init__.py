"""Scores joined to labels: metrics with intervals, trivial rows, and the report."""

from nofinding.evaluate.assess import evaluate
from nofinding.evaluate.calibration import hashed, p_values

__all__ = ["evaluate", "hashed", "p_values"]
