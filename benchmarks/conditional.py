"""Does the record help where only the record can tell?

Fits an image-only and a record-conditioned Diff3M, same budget and seed, to phantoms, and
judges both on phantoms whose heart is abnormal only for this patient's blood pressure. The test
films come from another seed than any that was looked at while choosing how to encode.

usage: python benchmarks/conditional.py OUT     (about 30 minutes on two cores)
A fit that is in OUT already is used as it is.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS
from nofinding.datasets.cohort import Cohort, cache_at
from nofinding.evaluation.statistics.intervals import Estimate, difference, measure, patient_index
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.model.bundle import load_model
from nofinding.training import TrainConfig
from nofinding.types import Exam
from nofinding.workflows.fit import FitOptions, fit

FIT = "phantom:train=2000,val=150,test=300,abnormal=300,kinds=conditional,size=64,seed=1"
TEST = "phantom:train=1,val=0,test=300,abnormal=300,kinds=conditional,size=64,seed=7"
BOTH = Diff3MConfig(
    image_size=32,
    multipliers=(1, 2, 4),
    noise_level=10,
    base_steps=2000,
    train=TrainConfig(steps=800, batch_size=32, lr=0.0015),
)
DETECTIONS = {
    "blind encoding, decoding through MPG": {"blind_encoding": True, "decode": "mpg"},
    "blind encoding, decoding by NP": {"blind_encoding": True, "decode": "np"},
    "Algorithm 1 (record both ways, MPG)": {"blind_encoding": False, "decode": "mpg"},
    "record both ways, decoding by NP": {"blind_encoding": False, "decode": "np"},
}


def scores(model: Path, change: dict[str, object], exams: Sequence[Exam]) -> dict[str, np.ndarray]:
    """Every part of the score of every film."""
    stored = load_model(model).detector
    assert isinstance(stored, Diff3M)
    detector = Diff3M(replace(stored.config, **change), stored.stats)
    detector.load_state(stored.state())
    films = Films(exams, stored.stats, detector.image_size, "pad", cache_at(None))
    columns = []
    for start in range(0, len(films), 50):
        parts = detector.score(films.batch(range(start, min(start + 50, len(films))))).components
        columns.append({name: part.double().numpy() for name, part in parts.items()})
    return {name: np.concatenate([f[name] for f in columns]) for name in columns[0]}


def shown(e: Estimate) -> str:
    return f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})"


def main(out: Path) -> None:
    for record in ("full", "none"):
        if not (out / record / "model.json").exists():
            config = replace(BOTH, record=record)
            fit("diff3m", config, FitOptions(films=[FIT], out=out / record, resume=True))
    exams = [r for r in Cohort([TEST], dict(FIELDS)).exams if r.split == "test"]
    abnormal = np.array([bool(r.findings) for r in exams])
    patient = patient_index([r.patient_id for r in exams])
    print("| detection | score | record | image only | difference, paired |")
    print("|---|---|---|---|---|")
    for name, change in DETECTIONS.items():
        full, none = (scores(out / record, change, exams) for record in ("full", "none"))
        for part in ("mse", "max_abs"):
            a, b = (measure(s[part], abnormal, patient)["auroc"] for s in (full, none))
            d = difference(full[part], none[part], abnormal, patient)
            print(f"| {name} | {part} | {shown(a)} | {shown(b)} | {shown(d)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
