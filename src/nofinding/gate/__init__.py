"""Before the score: is this a film that the model may judge, and are these films like its own?"""

from nofinding.gate.drift import DRIFT_LEAST, Drift, compared, drawn, drift
from nofinding.gate.feature_extractor import SIZE, FeatureExtractor, Look, gate_films
from nofinding.gate.films import GATE_LEAST, Gate, Verdict, fit_gate

__all__ = [
    "DRIFT_LEAST",
    "GATE_LEAST",
    "SIZE",
    "Drift",
    "FeatureExtractor",
    "Gate",
    "Look",
    "Verdict",
    "compared",
    "drawn",
    "drift",
    "fit_gate",
    "gate_films",
]
