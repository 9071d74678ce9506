"""A worker: takes films from the queue, scores them, keeps what is said. One process each.

It is killed where it takes too long, and whatever kills it costs the films that it held one more
try. It never waits for the network but for the record, and there only within a bound.
"""

import errno
import hashlib
import io
import json
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt16
from PIL import Image

from nofinding.data.cache.film_cache import Once
from nofinding.data.decoding.decode import FilmFile, UnreadableError, read_about
from nofinding.datasets.local.single_files import Known, file_exam
from nofinding.errors import UserError
from nofinding.scoring.predictor import Outcome, Resident
from nofinding.service.intake.offer import identity_in
from nofinding.service.options import ServiceOptions
from nofinding.service.result_schema import CONFLICT, entries, result_payload, summary
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import QueuedJob
from nofinding.service.store.result_store import SHOWN, Array
from nofinding.types import Exam

__all__ = ["EhrAnswer", "Lookup", "Worker", "run_worker"]

log = logging.getLogger(__name__)
POLL = 0.05  # seconds between looks at an empty queue
LACKING = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
DICOM = ".dcm"


class EhrAnswer(Protocol):
    """What another system knows of a patient."""

    @property
    def ehr(self) -> Mapping[str, float]:
        """In the fields' units."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What was not used, and why."""


Lookup: TypeAlias = Callable[[Path, Mapping[str, Any]], EhrAnswer]
"""Finds the record of a DICOM film's patient, by the file and what `read_about` gave of it. Raises
UserError for a file that is none, and for nothing that the other side does."""


@dataclass(kw_only=True)
class Taken:
    """A job at work."""

    job: QueuedJob
    record: Exam
    path: Path
    film: Once
    sources: Mapping[str, str]
    identity: Mapping[str, Any]
    """Whose film it is, as `read_about` gives it."""


class Worker:
    """Scores the films of a queue, batch by batch."""

    def __init__(
        self,
        home: Home,
        options: ServiceOptions,
        name: str,
        *,
        lookup: Lookup | None = None,
        deliver: Sequence[str] = (),
    ) -> None:
        """`name` is what it holds jobs under; results go to `deliver`. Raises UserError."""
        self.home, self.options, self.name = home, options, name
        self.lookup, self.deliver = lookup, tuple(deliver)
        self._since = math.inf  # when this worker first saw what waits now
        self.resident = Resident(
            options.model, accelerator=options.accelerator, fields_file=options.fields_file
        )

    def step(self) -> int:
        """Works on one batch if there is one; gives how many jobs it had."""
        if not self._is_time():
            return 0
        jobs = self.home.queue.claim(self.options.batch_size, self.name)
        begin = time.monotonic()
        taken = [one for one in map(self._take, jobs) if one is not None]
        try:
            outcomes = self.resident([one.record for one in taken])
        except OSError as error:
            if error.errno not in LACKING:
                raise
            self._put_back(taken, error)
            return len(jobs)
        seconds = (time.monotonic() - begin) / max(1, len(taken))
        for one, outcome in zip(taken, outcomes, strict=True):
            try:
                self._keep(one, outcome, seconds)
            except OSError as error:
                self._put_back([one], error)
        return len(jobs)

    def _is_time(self) -> bool:
        """Whether a batch waits that is whole, or has waited long enough.

        By the queue's clock, or by our own: the wall clock may have been set back.
        """
        waiting, waited = self.home.queue.ready()
        now = time.monotonic()
        if not waiting:
            self._since = math.inf
            return False
        self._since = min(self._since, now)
        waited = max(waited, now - self._since)
        if waiting < self.options.batch_size and waited < self.options.wait:
            return False
        self._since = math.inf
        return True

    def _put_back(self, taken: Sequence[Taken], error: OSError) -> None:
        """The disk is full: no job is lost by it, or counts as tried."""
        log.error("a result could not be kept: %s", error.strerror)
        for one in taken:
            self.home.queue.release(one.job)
        time.sleep(1.0)

    def _take(self, job: QueuedJob) -> Taken | None:
        """The film of a job and its record; a job without a readable film has failed."""
        payload = job.payload
        path = self.home.spool.folder / Path(payload["file"]).name
        film = FilmFile(path)
        try:
            film.check()
            stated = {name: float(value) for name, value in payload["record"].items()}
            header, identity = read_about(path)  # once: whatever else needs it gets it from here
            fields = self.resident.fields
            record = file_exam(film, job.film, stated, fields, header=header)
            sources = {name: "request" if name in stated else "header" for name in record.ehr}
            if self.lookup is not None and path.suffix == DICOM and job.kind == "film":
                answer = self.lookup(path, identity)
                known = Known(answer.ehr, answer.flags)
                record = file_exam(film, job.film, stated, fields, known, header)
        except UserError as error:
            self.home.queue.fail(job, _without_path(error, path))
            return None
        if job.kind == "what-if":  # exactly what is asked, nothing from the header
            asked = {name: record.ehr[name] for name in stated if name in record.ehr}
            record = replace(record, ehr=asked)
        once = Once(film)
        record = replace(record, pixels=once, flags=(*record.flags, *payload.get("flags", ())))
        given = {name: sources.get(name, "fhir") for name in record.ehr}
        return Taken(job=job, record=record, path=path, film=once, sources=given, identity=identity)

    def _keep(self, one: Taken, outcome: Outcome, seconds: float) -> None:
        queue, job = self.home.queue, one.job
        if outcome.result is None and job.kind == "what-if":
            queue.fail(job, f"it {outcome.refused}")
            return
        try:
            pixels = one.film()
        except UnreadableError as error:
            queue.fail(job, error.reason)
            return
        digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
        conflict, twin = queue.earlier(job, digest) if job.kind == "film" else (False, None)
        about = result_payload(
            outcome,
            film=job.film,
            size=pixels.shape,
            record=entries(one.record.ehr, self.resident.fields, outcome.result, one.sources),
            conflict=conflict,
            seconds=seconds,
        )
        arrays: dict[Array, np.ndarray] = {}
        if job.kind == "film":
            arrays["film"] = shown(pixels)
        if outcome.result is not None and outcome.result.anomaly_map is not None:
            arrays["map"] = outcome.result.anomaly_map
        if outcome.reconstruction is not None:
            arrays["normal"] = outcome.reconstruction
        objects = self._objects(one, outcome, pixels, conflict) if job.kind == "film" else {}
        self.home.results.put(job.id, about, arrays, objects)
        sent = self.deliver if objects and twin is None else ()
        if queue.done(
            job,
            summary(about) | {"patient": self._patient(one)},
            pixels=digest,
            conflict=conflict,
            twin=twin,
            deliver=sent,
        ):
            self._note("scored" if outcome.result else "refused", job)
        one.film.drop()

    def _note(self, what: str, job: QueuedJob) -> None:
        """Writes the audit log. Where that cannot be the result stays, and nobody is shown it."""
        try:
            self.home.audit.write("worker", what, film=job.film, job=job.id)
        except (UserError, OSError) as error:
            log.error("the audit log could not be written: %s", type(error).__name__)

    def _patient(self, one: Taken) -> str | None:
        """Whose film it is, as a pseudonym, where an intake that reads no header left it open."""
        if one.path.suffix != DICOM or one.job.payload.get("patient"):
            return None
        patient = identity_in(one.identity).patient
        return self.home.pseudonym("patient", patient) if patient else None

    def _objects(
        self, one: Taken, outcome: Outcome, pixels: Float[np.ndarray, "h w"], conflict: bool
    ) -> dict[str, bytes]:
        """The result as DICOM, where the film is one that says to which study it belongs."""
        result = outcome.result
        if result is None or one.path.suffix != DICOM:
            return {}
        from nofinding.clinical.dicom.objects import objects_of
        from nofinding.clinical.dicom.source import source_of
        from nofinding.clinical.fhir.bundle import result_bundle

        if conflict:
            result = replace(result, flags=(*result.flags, CONFLICT))
        files: dict[str, bytes] = {}
        try:
            film = source_of(one.identity, one.path)
            for each in objects_of(film, pixels, result, segmentation=self.options.segmentation):
                stream = io.BytesIO()
                each.dataset.save_as(stream, enforce_file_format=True)
                files[each.kind] = stream.getvalue()
            bundle = result_bundle(result, film, system=self.options.patient_system)
            files["fhir"] = json.dumps(bundle).encode()
        except UserError:  # it says not whose it is, or to which study
            pass
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # A header that an object cannot repeat, and words of it are in the error.
            log.error("not all objects of a film could be made: %s", type(error).__name__)
        return files


def shown(pixels: Float[np.ndarray, "h w"]) -> UInt16[np.ndarray, "a b"]:
    """The film as a viewer gets it: 16 bits, its longer side at most SHOWN pixels."""
    high, wide = pixels.shape
    scale = min(1.0, SHOWN / max(high, wide))
    image = Image.fromarray(pixels.astype(np.float32))
    if scale < 1:
        size = (max(1, round(wide * scale)), max(1, round(high * scale)))
        image = image.resize(size, Image.Resampling.BOX)
    grey: UInt16[np.ndarray, "a b"] = (65535 * np.asarray(image).clip(0, 1)).round().astype("<u2")
    return grey


def _without_path(error: UserError, path: Path) -> str:
    """What is wrong with a film, without the name of its file."""
    if isinstance(error, UnreadableError):
        return error.reason
    return str(error).replace(str(path), "the film").replace(path.name, "the film")


def run_worker(
    options: ServiceOptions,
    name: str,
    lookup: Lookup | None,
    deliver: Sequence[str],
    link: Connection,
) -> None:
    """A worker's process: says over `link` when it has its model, and stops at whatever comes.

    A pipe, not an event: one who is killed while he looks at an event holds its lock for ever.
    """
    try:
        _work(options, name, lookup, deliver, link)
    except UserError as error:
        raise SystemExit(f"nofinding: {error}") from None
    except Exception as error:  # its words may quote a film, and would be printed
        way = traceback.extract_tb(error.__traceback__)
        where = ", ".join(f"{Path(at.filename).name}:{at.lineno}" for at in reversed(way))
        raise SystemExit(f"nofinding: a worker met {type(error).__name__} at {where}") from None


def _work(
    options: ServiceOptions,
    name: str,
    lookup: Lookup | None,
    deliver: Sequence[str],
    link: Connection,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, options.threads))
    worker = Worker(Home.of(options), options, name, lookup=lookup, deliver=deliver)
    link.send_bytes(b"ready")
    while not link.poll(0 if worker.step() else POLL):
        pass


def _end_with_parent() -> None:
    """Ends this process with the service's own, however that ends: nobody would stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
