"""Before the score: is this a film that the model may judge, and are these films like its own?"""

from nofinding.gate.drift import DRIFT_LEAST, Drift, compared, drawn, drift
from nofinding.gate.films import GATE_LEAST, Gate, Verdict, fit_gate
from nofinding.gate.look import SIZE, Eye, Look, gate_films

__all__ = [
    "DRIFT_LEAST",
    "GATE_LEAST",
    "SIZE",
    "Drift",
    "Eye",
    "Gate",
    "Look",
    "Verdict",
    "compared",
    "drawn",
    "drift",
    "fit_gate",
    "gate_films",
]
