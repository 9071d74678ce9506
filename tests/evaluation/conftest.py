"""A cohort of made-up films with scores, maps and labels, as `nofinding score` leaves them."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nofinding.types import Exam

SIZE = 32


@dataclass(frozen=True)
class Film:
    """A grey film with a bright square where the finding is; picklable."""

    seed: int
    finding: bool

    def __call__(self) -> np.ndarray:
        film = np.random.default_rng(self.seed).uniform(0.2, 0.6, (SIZE, SIZE))
        return np.where(self.lesion() & self.finding, 0.9, film).astype(np.float32)

    def lesion(self) -> np.ndarray:
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        mask[8:16, 10:20] = True
        return mask


def make_exams(n: int = 80, *, per_patient: int = 2) -> list[Exam]:
    """Half of them abnormal, by patient; age, sex and view on most."""
    records = []
    for i in range(n):
        film = Film(i, finding=(i // per_patient) % 2 == 1)
        ehr = {"age": float(10 + i % 80), "sex": float(i // 2 % 3 == 0), "view": float(i % 2)}
        records.append(
            Exam(
                image_id=f"film-{i:03d}",
                patient_id=f"patient-{i // per_patient:03d}",
                pixels=film,
                ehr=ehr if i % 10 else {},
                view=("PA", "AP")[i % 2],
                findings=frozenset({"mass", "device"} if i % 4 == 3 else {"mass"})
                if film.finding
                else frozenset(),
                split="val",
                lesion=film.lesion if film.finding else None,
            )
        )
    return records


def write_scores(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@dataclass
class Cohort:
    folder: Path
    exams: list[Exam]
    rows: list[dict[str, Any]]
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def scores(self) -> Path:
        return self.folder / "scores.csv"

    def write(self) -> Path:
        write_scores(self.scores, self.rows)
        (self.folder / "run.json").write_text(json.dumps(self.run))
        return self.scores


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """80 films of 40 patients whose score, map and pseudo-healthy film point at the finding."""
    rng = np.random.default_rng(7)
    folder = tmp_path / "scores"
    for name in ("maps", "normal"):
        (folder / name).mkdir(parents=True)
    exams = make_exams()
    rows = []
    for exam in exams:
        abnormal = bool(exam.findings)
        heat = rng.uniform(0, 0.5, (SIZE, SIZE))
        if exam.lesion is not None:
            heat += 0.4 * exam.lesion()
        np.save(folder / "maps" / f"{exam.image_id}.npy", heat.astype(np.float32))
        np.save(folder / "normal" / f"{exam.image_id}.npy", exam.pixels().astype(np.float16))
        rows.append(
            {
                "image_id": exam.image_id,
                "score": float(rng.normal(1.5 * abnormal)),
                "p_value": float(rng.uniform(0.001, 0.2 if abnormal else 1)),
                "mse": 0.1,
                "attention.age": 0.75 if exam.ehr else 0.0,
                "attention.sex": 0.25 if exam.ehr else 0.0,
                "flags": "age: 300 is outside 0 to 120 a" if exam.image_id == "film-010" else "",
            }
        )
    run = {
        "method": "tested", "supervision": "normal-only", "seed": 3, "image_size": SIZE,
        "aspect": "pad", "calibration_n": 50, "calibration_ids": [], "network_calls": 200,
        "gflop": 12.5, "seconds_per_film": 0.25, "model_sha256": "ab" * 32,
    }  # fmt: skip
    folder_of_scores = Cohort(folder, exams, rows, run)
    folder_of_scores.write()
    return folder_of_scores
