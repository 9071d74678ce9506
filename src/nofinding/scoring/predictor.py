"""Models that stay in memory and score films as they come: what a service's worker holds.

The way of a film is that of `score`: the same gate, the same batches, the same p-values. Only
that nothing is loaded anew, and that a film which cannot be read or scored stops no other.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from nofinding.clinical.result import Result
from nofinding.data.cache.film_cache import FilmCache, Once
from nofinding.data.ehr import EhrField
from nofinding.datasets.cohort import known_fields
from nofinding.errors import UserError
from nofinding.evaluation.statistics.strata import Stratum
from nofinding.model.bundle import Model, load_model
from nofinding.model.calibration import Calibrator
from nofinding.model.input_gate import Gatekeeper, GateMode
from nofinding.model.known_films import KnownFilms, load_known_films
from nofinding.model.pretrained import AUTO, SHIPPED, calibration_of, model_folder, shipped_for
from nofinding.runtime import to_device
from nofinding.scoring.batch_scorer import Scorer
from nofinding.scoring.job import shown
from nofinding.scoring.selection import Selection
from nofinding.storage import checkpoint
from nofinding.types import Exam

__all__ = ["Outcome", "Resident"]

ATTENTION = "attention."


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one film."""

    image_id: str
    result: Result | None
    """None: it was not scored, and `refused` says why."""
    refused: str = ""
    """In the user's words, without anything of the film: "is no upright frontal chest film"."""
    flags: tuple[str, ...] = ()
    stratum: str = ""
    """Which calibration films p is against, where these are chosen by the record."""
    reconstruction: Float[np.ndarray, "s s"] | None = None
    """The pseudo-healthy film on the model's square, in [0, 1]."""
    point: tuple[float, ...] = ()
    """Where the film lies for the gate: drift is measured on these."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One model with its gate and its p-values."""

    name: str
    model: Model
    gatekeeper: Gatekeeper
    calibrator: Calibrator
    known: KnownFilms | None = None


class Resident:
    """Scores films, each by the model that is for its patient. Not for several threads at once."""

    def __init__(
        self,
        model: str = AUTO,
        *,
        accelerator: str = "auto",
        fields_file: Path | None = None,
        seed: int = 0,
        gate: GateMode = "refuse",
    ) -> None:
        """`model` and `gate` as in `score`; all that may be needed are loaded.

        Raises UserError where there is none, or it is damaged: then no film must have been taken.
        """
        self.name, self.accelerator, self.seed = model, accelerator, seed
        self.gate: GateMode = gate
        self.fields: dict[str, EhrField] = known_fields(fields_file)
        self._loaded: dict[str, Loaded] = {}
        for name in SHIPPED if model == AUTO else (model,):
            self.loaded(name)

    def loaded(self, name: str) -> Loaded:
        """The model of that name. Raises UserError where it cannot be loaded."""
        if name not in self._loaded:
            folder = model_folder(name)
            model = load_model(folder)
            to_device(model.detector, self.accelerator)
            self._loaded[name] = Loaded(
                name=name,
                model=model,
                gatekeeper=Gatekeeper(model, folder, self.gate, None),
                calibrator=Calibrator(model, calibration_of(name), 1),
                known=load_known_films(folder, model.meta),
            )
        return self._loaded[name]

    def name_for(self, exam: Exam) -> str:
        """The model that scores this film."""
        return shipped_for([exam]) if self.name == AUTO else self.name

    def __call__(self, exams: Sequence[Exam]) -> list[Outcome]:
        """What came of each film, in their order; image_ids must differ.

        Raises nothing for a film: one that cannot be read or that breaks the model is refused.
        Raises MemoryError or torch.OutOfMemoryError where there is no room for a single one.
        """
        outcomes: dict[str, Outcome] = {}
        names = [self.name_for(exam) for exam in exams]
        for name in dict.fromkeys(names):
            part = [r for r, own in zip(exams, names, strict=True) if own == name]
            outcomes.update((o.image_id, o) for o in self._by(self.loaded(name), part))
        return [outcomes[exam.image_id] for exam in exams]

    def _by(self, loaded: Loaded, exams: Sequence[Exam]) -> list[Outcome]:
        """Scores all of them together, or where that fails each by itself."""
        try:
            return [*self._scored(loaded, exams)]
        except UserError as error:
            if len(exams) == 1:
                return [Outcome(image_id=exams[0].image_id, result=None, refused=str(error))]
        except (MemoryError, torch.OutOfMemoryError):
            if len(exams) == 1:
                raise
        # Out of the block, where the error would hold what the batch has taken of the memory.
        return [outcome for exam in exams for outcome in self._by(loaded, [exam])]

    def _scored(self, loaded: Loaded, exams: Sequence[Exam]) -> Iterator[Outcome]:
        # What is decoded is a patient's film, and stays for this batch only.
        with tempfile.TemporaryDirectory(prefix="nofinding-") as folder:
            work = Path(folder)
            scorer = Scorer(
                model=loaded.model,
                name=loaded.name,
                films=Selection([replace(r, pixels=Once(r.pixels)) for r in exams]),
                batch_size=len(exams),
                gatekeeper=loaded.gatekeeper,
                cache=FilmCache(work / "cache"),
                fields=self.fields,
                seed=self.seed,
                phantom=False,
                single=False,
                unreadable="list",
                count_work=False,
                maps=work,
                known=loaded.known,
            )
            by_id = {exam.image_id: exam for exam in exams}
            for row in scorer(0)["films"]:
                yield self._outcome(loaded, by_id[row["id"]], row, work)

    def _outcome(self, loaded: Loaded, exam: Exam, row: Mapping[str, Any], work: Path) -> Outcome:
        """What the journal's entry of a film and the files beside it say."""
        flags = tuple(row.get("flags", exam.flags))
        point = tuple(row.get("point", ()))
        if "score" not in row:
            reason = row.get("unreadable") or row.get("reason") or "was not scored"
            return Outcome(
                image_id=exam.image_id, result=None, refused=reason, flags=flags, point=point
            )
        cell = loaded.calibrator(
            np.array([row["score"]]), [exam.image_id], [Stratum(*row["stratum"])]
        )[0]
        flags += tuple(cell["remark"].split("; ")) if "remark" in cell else ()
        meta, detector = loaded.model.meta, loaded.model.detector
        calibration = len(loaded.model.calibration[1])
        shares = {
            name.removeprefix(ATTENTION): float(value)
            for name, value in row["parts"].items()
            if name.startswith(ATTENTION)
        }
        given = [name for name in detector.fields_used if name in exam.ehr]
        result = Result(
            score=row["score"],
            p_value=float(cell["p_value"]) if cell["p_value"] else None,
            calibration=(
                f"{calibration} normal films of {meta['calibration']['from']}, "
                f"{loaded.calibrator.how}"
                if calibration
                else "none"
            ),
            method=detector.name,
            model=shown(loaded.name),
            sha256=loaded.model.sha256,
            version=checkpoint.code_version(),
            fields=tuple(given),
            attention={name: share for name, share in shares.items() if share},
            flags=flags,
            anomaly_map=_array(work / "maps" / f"{exam.image_id}.npy"),
            threshold=meta.get("map_threshold"),
            aspect=meta["aspect"],
        )
        return Outcome(
            image_id=exam.image_id,
            result=result,
            flags=flags,
            stratum=cell.get("stratum", ""),
            reconstruction=_array(work / "normal" / f"{exam.image_id}.npy"),
            point=point,
        )


def _array(file: Path) -> Float[np.ndarray, "s s"] | None:
    return np.load(file, allow_pickle=False).astype(np.float32) if file.is_file() else None
