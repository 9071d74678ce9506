"""Films that readers have marked normal, for `adapt`: from a home's feedback and results.

A remark says whether the reader agrees with the result. A film is marked normal where the latest
remark of every reader says so: agreement with p above 0.05, or disagreement with p at or below it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nofinding.errors import UserError
from nofinding.service.store.feedback import Feedback
from nofinding.service.store.home import Home
from nofinding.types import Exam, Pixels

__all__ = ["CALLED", "marked_normal"]

CALLED = 0.05
"""The p-value up to which a result says that the film is unlike normal ones."""


def marked_normal(folder: Path) -> list[Exam]:
    """The films, as the home keeps them, with their records. Raises UserError where there is no
    home, or it has no remarks."""
    if not (folder / "feedback.sqlite").is_file():
        raise UserError(f"--feedback {folder}: is no home of serve or listen with readers' remarks")
    home = Home(folder)
    latest: dict[str, dict[str, bool]] = {}
    for remark in Feedback(folder / "feedback.sqlite").all():
        if remark["p_value"] is not None:
            called = remark["p_value"] <= CALLED
            normal = called == (remark["verdict"] == "disagree")
            latest.setdefault(remark["job"], {})[remark["who"]] = normal
    films = []
    for job, verdicts in latest.items():
        about = home.results.payload(job) if all(verdicts.values()) else None
        if about is not None and home.results.array(job, "film") is not None:
            films.append(_record(home, job, about))
    return films


def _record(home: Home, job: str, about: Mapping[str, Any]) -> Exam:
    entry = home.queue.get(job)
    result = {} if entry is None else dict(entry.result or {})
    payload = {} if entry is None else dict(entry.payload)
    patient = payload.get("patient") or result.get("patient") or about["film"]
    ehr = {row["field"]: float(row["value"]) for row in about["record"] if row["value"] is not None}
    return Exam(
        image_id=str(about["film"]),
        patient_id=str(patient),
        pixels=Stored(home.results.folder, job),
        ehr=ehr,
        findings=frozenset(),
    )


@dataclass(frozen=True)
class Stored:
    """A film that a home keeps, as it is shown."""

    results: Path
    job: str

    def __call__(self) -> Pixels:
        """(h, w) float32 in [0, 1]."""
        grey = np.load(self.results / self.job / "film.npy", allow_pickle=False)
        pixels: Pixels = (grey.astype(np.float32) / 65535).clip(0, 1)
        return pixels
