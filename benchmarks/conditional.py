"""Does the record help where only the record can tell?

Fits an image-only and a record-conditioned Diff3M, same budget and seed, to phantoms, and
judges both on phantoms whose heart is abnormal only for this patient's blood pressure. The test
films come from another seed than any that was looked at while choosing how to encode. With
`diff3m-f` in place of OUT it does the same with that method at a small size, for three seeds of
films: the record as its own default uses it (conditioning auto) against conditioning none.

usage: python benchmarks/conditional.py OUT         (about 30 minutes on two cores)
       python benchmarks/conditional.py diff3m-f    (about 3 minutes on one core)
A fit that is in OUT already is used as it is.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.datasets.cohort import Cohort, cache_at
from nofinding.evaluation.statistics.intervals import Estimate, difference, measure, patient_index
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.methods.diff3m.feature_space.config import Diff3MFConfig
from nofinding.methods.diff3m.feature_space.detector import Diff3MF
from nofinding.model.bundle import load_model
from nofinding.training import TrainConfig, TrainingRun
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


def small_feature_space(conditioning: str) -> Diff3MFConfig:
    """Frozen features of ImageNet at 128 pixels: what three seeds take in minutes."""
    return Diff3MFConfig(
        image_size=128,
        backbone="imagenet",
        focal="none",
        parts=("texture", "context", "record"),
        copied=64,
        conditioning=conditioning,  # type: ignore[arg-type]
    )


def one_seed(seed: int) -> None:
    """Fits and judges `diff3m-f` on the films of one seed, and prints its rows."""
    films = f"phantom:train=300,val=0,test=120,abnormal=120,kinds=conditional,size=96,seed={seed}"
    exams = list(Cohort([films], dict(FIELDS)).exams)
    train = [exam for exam in exams if exam.split == "train"]
    test = [exam for exam in exams if exam.split == "test"]
    stats = EhrStats.of(train, list(FIELDS.values()))
    abnormal = np.array([bool(exam.findings) for exam in test])
    patient = patient_index([exam.patient_id for exam in test])
    by_arm, decided = {}, {}
    for arm in ("auto", "none"):
        detector = Diff3MF(small_feature_space(arm), stats)
        size = detector.image_size
        detector.fit(
            Films(train, stats, size, "pad", cache_at(None)),
            seed=seed,
            job=TrainingRun(progress=False, accelerator="cpu"),
        )
        judged = Films(test, stats, size, "pad", cache_at(None))
        by_arm[arm] = np.concatenate(
            [
                detector.score(judged.batch(range(i, i + 40))).score.double().numpy()
                for i in range(0, len(judged), 40)
            ]
        )
        decided[arm] = detector.decided
    a, b = (measure(by_arm[arm], abnormal, patient)["auroc"] for arm in ("auto", "none"))
    d = difference(by_arm["auto"], by_arm["none"], abnormal, patient)
    gain, error = decided["auto"]["gain_nats"], decided["auto"]["gain_error"]
    print(
        f"| {seed} | {decided['auto']['conditioning']} | {gain:.2f} ± {error:.2f} | {shown(a)} | "
        f"{shown(b)} | {shown(d)} |",
        flush=True,
    )


def feature_space() -> None:
    """The table of `diff3m-f`."""
    print("| seed | auto decides | gain, nats a film | record | no record | difference, paired |")
    print("|---|---|---|---|---|---|")
    for seed in (21, 22, 23):
        one_seed(seed)


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
    if sys.argv[1] == "diff3m-f":
        feature_space()
    else:
        main(Path(sys.argv[1]))
