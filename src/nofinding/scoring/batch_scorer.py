"""One batch of films: decoded, looked at by the gate, scored and mapped, each film once."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache, Once
from nofinding.data.decoding.decode import UnreadableError
from nofinding.data.ehr import EhrField
from nofinding.data.signatures import Signatures
from nofinding.datasets.twin_check import signatures_for
from nofinding.errors import UserError
from nofinding.evaluation.flags import TRAINED_ON, TWIN_CALIBRATES, TWIN_TRAINED
from nofinding.evaluation.statistics.conformal import hashed
from nofinding.evaluation.statistics.strata import Stratum
from nofinding.gate import gate_films
from nofinding.methods.base.protocol import dimensions_of
from nofinding.model.bundle import Model
from nofinding.model.input_gate import Gatekeeper
from nofinding.model.known_films import KnownFilms
from nofinding.model.pretrained import about_age
from nofinding.runtime import FlopCounter
from nofinding.scoring.maps import write_maps
from nofinding.scoring.selection import Selection, mark_of
from nofinding.storage.atomic import sync_file, sync_folder
from nofinding.types import Batch, Exam, Scores

__all__ = ["Scorer", "Unreadable"]

Unreadable = Literal["stop", "list"]
OBJECTION = "is no frontal chest film by its own header ({})"
MAP_FILES = (".npy", ".png", ".nii.gz")


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores a batch by its number, alike in every process, and says all there is to say of it."""

    model: Model
    name: str
    """Of the model, as the user gave it."""
    films: Selection
    batch_size: int
    gatekeeper: Gatekeeper
    cache: FilmCache
    fields: dict[str, EhrField]
    seed: int
    phantom: bool
    single: bool
    """Whether the films were named one by one: a refused one then is an error."""
    unreadable: Unreadable
    count_work: bool
    """Whether the floating-point operations of the first batch are to be counted."""
    maps: Path | None
    """Folder for maps and pseudo-healthy films; None: none are written."""
    known: KnownFilms | None = None
    """Sketches of the films that the model was fitted on, if it keeps any."""

    @cached_property
    def _trained(self) -> frozenset[str]:
        return frozenset(self.model.meta.get("training_pixels", ()))

    @cached_property
    def _calibrated(self) -> frozenset[str]:
        return frozenset(self.model.calibration[1])

    def __len__(self) -> int:
        return -(-len(self.films) // self.batch_size)

    def exams(self, number: int) -> list[Exam]:
        """The films of a batch, by their place in the order alone."""
        return self.films[number * self.batch_size : (number + 1) * self.batch_size]

    def is_true(self, entry: dict[str, Any]) -> bool:
        """Whether an entry is of the films as they are now."""
        marks: list[str] = entry["marks"]
        return marks == [mark_of(exam) for exam in self.exams(entry["batch"])]

    def __call__(self, number: int) -> dict[str, Any]:
        """The entry of a batch for the journal. Writes its maps first.

        Raises UserError where a film cannot be read, unless these are listed.
        """
        return self.scored(number)[0]

    def scored(self, number: int) -> tuple[dict[str, Any], list[int], Scores | None]:
        """The entry of a batch, which of its films were scored, and their scores with the maps;
        None where none was. Raises UserError as the call does."""
        exams = self.exams(number)
        marks = [mark_of(exam) for exam in exams]
        message, films, admitted = self.prepared(exams)
        entry: dict[str, Any] = {"batch": number, "marks": marks, "seconds": 0.0, "gflop": None}
        scores = None
        if admitted:
            batch = films.part(admitted).batch(range(len(admitted)))
            begin = time.perf_counter()
            counting = self.count_work and number == 0
            with FlopCounter() if counting else nullcontext() as counter:
                scores = self._scores(batch)
            entry["seconds"] = time.perf_counter() - begin
            if counter is not None:
                entry["gflop"] = counter.get_total_flops() / 1e9 / len(admitted)
            for place, row in enumerate(admitted):
                message[row] |= _row(scores, place)
                message[row] |= self._own(exams[row], message[row], films, row)
                message[row]["flags"] = self._flags(exams[row], message[row], message[row]["flags"])
            self._write_maps(batch, scores)
        return entry | {"films": message}, admitted, scores

    def gflop(self, number: int) -> float | None:
        """What a film of the batch takes, counted anew; None where none of it is scored."""
        _, films, admitted = self.prepared(self.exams(number))
        if not admitted:
            return None
        with FlopCounter() as counter:
            self._scores(films.part(admitted).batch(range(len(admitted))))
        return float(counter.get_total_flops()) / 1e9 / len(admitted)

    def prepared(self, exams: Sequence[Exam]) -> tuple[list[dict[str, Any]], Films, list[int]]:
        """What is known of each film before it is scored, the films, and which may be scored."""
        once = [Once(exam.pixels) for exam in exams]
        held = [replace(r, pixels=pixels) for r, pixels in zip(exams, once, strict=True)]
        detector = self.model.detector
        films = Films(
            held,
            detector.stats,
            detector.image_size,
            self.model.meta["aspect"],
            self.cache,
            dimensions_of(detector),
        )
        features = gate_films(held, self.cache) if self.gatekeeper.looks else None
        rows: list[dict[str, Any]] = [{"id": exam.image_id} for exam in exams]
        objections: dict[int, str] = {}
        signatures = Signatures.room(0 if self.known is None else len(exams))
        for row, pixels in enumerate(once):
            try:
                films.prepare(row)
                if features is not None:
                    features.prepare(row)
                if self.known is not None:
                    signatures.put(row, signatures_for([held[row]], self.cache, what=""))
                flags, objection = self.cache.remarks(pixels)
                rows[row]["remarks"] = list(flags)
                if objection and self.gatekeeper.mode != "off":
                    objections[row] = OBJECTION.format(objection)
            except UnreadableError as error:
                if self.unreadable == "stop":
                    raise
                rows[row]["unreadable"] = error.reason
            finally:
                pixels.drop()
        readable = [row for row, film in enumerate(rows) if "unreadable" not in film]
        if features is not None and readable:
            for row, verdict in zip(
                readable, self.gatekeeper.judge(features.part(readable)), strict=True
            ):
                rows[row] |= verdict
        if self.known is not None:
            for film, copies in zip(rows, self.known.flags(signatures), strict=True):
                film["twins"] = copies
        for row, reason in objections.items():  # the header's own word comes first
            rows[row]["reason"] = reason
        admitted = [row for row in readable if not self._refused(rows[row])]
        for row in sorted({*readable} - {*admitted}):
            rows[row]["flags"] = self._flags(
                exams[row], rows[row], [*exams[row].flags, *rows[row]["remarks"]]
            )
        return rows, films, admitted

    def _refused(self, film: dict[str, Any]) -> bool:
        if self.gatekeeper.mode != "refuse" or "reason" not in film:
            return False
        if self.single:
            raise UserError(
                f"film {film['id']!r} {film['reason']}; not scored; --gate flag does so anyway"
            )
        return True

    def _scores(self, batch: Batch) -> Scores:
        scores = self.model.detector.score(batch, seed=self.seed)
        if not scores.score.isfinite().all():
            bad = batch.ids[int((~scores.score.isfinite()).nonzero()[0])]
            raise UserError(f"film {bad!r}: the score is not a finite number; the model is broken")
        return scores

    def _own(self, exam: Exam, film: dict[str, Any], films: Films, row: int) -> dict[str, Any]:
        """What the row of a scored film says beside its score."""
        flags, twins = [*exam.flags, *film["remarks"]], film.get("twins", [])
        if self.phantom:
            flags.append("film: a phantom, simulated")
        if films.pixel_hash(row) in self._trained:
            flags.append(TRAINED_ON)
            twins = [flag for flag in twins if flag != TWIN_TRAINED]
        if hashed(exam.image_id) in self._calibrated:
            flags.append("film: it calibrates the p-value, and is left out of its own")
            twins = [flag for flag in twins if flag != TWIN_CALIBRATES]
        flags += twins
        if self.model.uncalibrated:
            flags.append(f"p-value: none, {self.model.uncalibrated}")
        return {
            "flags": flags,
            "patient": hashed(exam.patient_id),
            "stratum": list(Stratum.of(exam.ehr, self.fields)),
        }

    def _flags(self, exam: Exam, film: dict[str, Any], own: Sequence[str]) -> list[str]:
        """The row's flags: its own, those of the age, and the gate's."""
        return [
            *own,
            *about_age(self.name, exam),
            *self.gatekeeper.flags(film.get("reason")),
        ]

    def _write_maps(self, batch: Batch, scores: Scores) -> None:
        """Has the maps on the disk before the journal says that the batch is done."""
        if self.maps is None:
            return
        film = (batch.image[:, 0].numpy() + 1) / 2
        label = "PHANTOM (simulated)" if self.phantom else "research use only"
        top = self.model.meta.get("map_threshold")
        write_maps(self.maps, batch.ids, film, scores, top, label)
        for folder in (self.maps / "maps", self.maps / "normal"):
            if not folder.is_dir():
                continue
            for path in (folder / f"{i}{end}" for i in batch.ids for end in MAP_FILES):
                if path.exists():
                    sync_file(path)
            sync_folder(folder)


def _row(scores: Scores, place: int) -> dict[str, Any]:
    return {
        "score": scores.score[place].item(),
        "parts": {name: part[place].item() for name, part in scores.components.items()},
    }
