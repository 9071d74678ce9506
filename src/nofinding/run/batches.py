"""One batch of films: decoded, looked at by the gate, scored and mapped, each film once."""

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nofinding.checkpoint import sync_folder
from nofinding.data.batch import Films
from nofinding.data.cache import FilmCache, Once
from nofinding.data.decode import UnreadableError
from nofinding.data.ehr import EhrField
from nofinding.errors import UserError
from nofinding.evaluate.calibration import hashed
from nofinding.evaluate.strata import Stratum
from nofinding.evaluate.table import TRAINED_ON
from nofinding.gate import gate_films
from nofinding.methods.protocol import dimensions_of
from nofinding.run.chosen import Chosen, mark_of
from nofinding.run.gating import Gatekeeper
from nofinding.run.mapping import write_maps
from nofinding.run.model import Model
from nofinding.run.shipped import about_age
from nofinding.runtime import FlopCounter
from nofinding.types import Batch, Record, Scores

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
    films: Chosen
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

    @cached_property
    def _trained(self) -> frozenset[str]:
        return frozenset(self.model.meta.get("training_pixels", ()))

    @cached_property
    def _calibrated(self) -> frozenset[str]:
        return frozenset(self.model.calibration[1])

    def __len__(self) -> int:
        return -(-len(self.films) // self.batch_size)

    def records(self, number: int) -> list[Record]:
        """The films of a batch, by their place in the order alone."""
        return self.films[number * self.batch_size : (number + 1) * self.batch_size]

    def is_true(self, entry: dict[str, Any]) -> bool:
        """Whether an entry is of the films as they are now."""
        marks: list[str] = entry["marks"]
        return marks == [mark_of(record) for record in self.records(entry["batch"])]

    def __call__(self, number: int) -> dict[str, Any]:
        """The entry of a batch for the journal. Writes its maps first.

        Raises UserError where a film cannot be read, unless these are listed.
        """
        return self.scored(number)[0]

    def scored(self, number: int) -> tuple[dict[str, Any], list[int], Scores | None]:
        """The entry of a batch, which of its films were scored, and their scores with the maps;
        None where none was. Raises UserError as the call does."""
        records = self.records(number)
        marks = [mark_of(record) for record in records]
        told, films, admitted = self.prepared(records)
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
                told[row] |= _row(scores, place)
                told[row] |= self._own(records[row], told[row]["remarks"], films, row)
                told[row]["flags"] = self._flags(records[row], told[row], told[row]["flags"])
            self._write_maps(batch, scores)
        return entry | {"films": told}, admitted, scores

    def gflop(self, number: int) -> float | None:
        """What a film of the batch takes, counted anew; None where none of it is scored."""
        _, films, admitted = self.prepared(self.records(number))
        if not admitted:
            return None
        with FlopCounter() as counter:
            self._scores(films.part(admitted).batch(range(len(admitted))))
        return float(counter.get_total_flops()) / 1e9 / len(admitted)

    def prepared(self, records: Sequence[Record]) -> tuple[list[dict[str, Any]], Films, list[int]]:
        """What is known of each film before it is scored, the films, and which may be scored."""
        once = [Once(record.pixels) for record in records]
        held = [replace(r, pixels=pixels) for r, pixels in zip(records, once, strict=True)]
        detector = self.model.detector
        films = Films(
            held,
            detector.stats,
            detector.image_size,
            self.model.meta["aspect"],
            self.cache,
            dimensions_of(detector),
        )
        seen = gate_films(held, self.cache) if self.gatekeeper.looks else None
        told: list[dict[str, Any]] = [{"id": record.image_id} for record in records]
        objections: dict[int, str] = {}
        for row, pixels in enumerate(once):
            try:
                films.prepare(row)
                if seen is not None:
                    seen.prepare(row)
                flags, objection = self.cache.remarks(pixels)
                told[row]["remarks"] = list(flags)
                if objection and self.gatekeeper.mode != "off":
                    objections[row] = OBJECTION.format(objection)
            except UnreadableError as error:
                if self.unreadable == "stop":
                    raise
                told[row]["unreadable"] = error.reason
            finally:
                pixels.drop()
        readable = [row for row, film in enumerate(told) if "unreadable" not in film]
        if seen is not None and readable:
            for row, verdict in zip(
                readable, self.gatekeeper.judge(seen.part(readable)), strict=True
            ):
                told[row] |= verdict
        for row, reason in objections.items():  # the header's own word comes first
            told[row]["reason"] = reason
        admitted = [row for row in readable if not self._refused(told[row])]
        for row in sorted({*readable} - {*admitted}):
            told[row]["flags"] = self._flags(
                records[row], told[row], [*records[row].flags, *told[row]["remarks"]]
            )
        return told, films, admitted

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

    def _own(
        self, record: Record, remarks: Sequence[str], films: Films, row: int
    ) -> dict[str, Any]:
        """What the row of a scored film says beside its score."""
        flags = [*record.flags, *remarks]
        if self.phantom:
            flags.append("film: a phantom, simulated")
        if films.pixel_hash(row) in self._trained:
            flags.append(TRAINED_ON)
        if hashed(record.image_id) in self._calibrated:
            flags.append("film: it calibrates the p-value, and is left out of its own")
        if self.model.uncalibrated:
            flags.append(f"p-value: none, {self.model.uncalibrated}")
        return {
            "flags": flags,
            "patient": hashed(record.patient_id),
            "stratum": list(Stratum.of(record.ehr, self.fields)),
        }

    def _flags(self, record: Record, film: dict[str, Any], own: Sequence[str]) -> list[str]:
        """The row's flags: its own, those of the age, and the gate's."""
        return [
            *own,
            *about_age(self.name, record),
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
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            sync_folder(folder)


def _row(scores: Scores, place: int) -> dict[str, Any]:
    return {
        "score": scores.score[place].item(),
        "parts": {name: part[place].item() for name, part in scores.parts.items()},
    }
