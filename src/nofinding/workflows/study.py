"""study: studies found in an archive, their films fetched and scored, the results stored there.

Study by study, each in a folder that is not there until it is whole. What is stored has UIDs that
follow from the result: a study that is done again is the same objects.
"""

import csv
import json
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nofinding.clinical.network.delivery import Way, way_to
from nofinding.clinical.requirements import need_clinical, need_network
from nofinding.data.decoding.decode import read_studies
from nofinding.datasets.hospital.film_headers import stated_unfit
from nofinding.datasets.hospital.pseudonyms import pseudonym_of, read_key
from nofinding.errors import UserError
from nofinding.model.pretrained import AUTO, SHIPPED
from nofinding.progress import say, silently, tracked
from nofinding.scoring.merge import NoneScoredError
from nofinding.scoring.options import ScoreOptions
from nofinding.storage import checkpoint
from nofinding.storage.atomic import move_into_place, sync_tree, write_atomic
from nofinding.storage.lock import try_lock
from nofinding.workflows.export import ExportOptions, export
from nofinding.workflows.options import StudyOptions
from nofinding.workflows.score import score

if TYPE_CHECKING:
    from nofinding.clinical.network.dicomweb import Archive, FilmReference

__all__ = ["StudyOptions", "score_studies"]

Row = dict[str, str]
ABOUT = "study.json"  # in the folder of a study that is whole


def score_studies(options: StudyOptions) -> list[Row]:
    """Does every study that the options name, and gives a row a film: study, film, score, p_value,
    flags; why it has no score is among the flags.

    A study that cannot be done does not keep the others from it. Raises UserError for a fault in
    the options or where the archive is silent, and at the end where some study could not be done.
    """
    need_clinical()
    need_network()
    from nofinding.clinical.network.dicomweb import Archive, days_of
    from nofinding.net.answers import SilentError

    days = None if options.date is None else days_of(options.date)
    archive = Archive(options.archive, login=options.login, ca=options.ca)
    way = way_to(archive, options.peer, options.title) if options.store else None
    weights, key = _weights(options.model), read_key(options.key)
    with _place(options.out), _stoppable():
        if options.study is not None:
            names = [options.study]
        else:
            names = archive.studies(days=days, patient=options.patient)
        work = _Work(options=options, archive=archive, way=way, key=key, weights=weights)
        rows: list[Row] = []
        failures: list[UserError] = []
        for name in tracked(names, "studies"):
            try:
                rows += work(name)
            except SilentError:
                raise
            except UserError as error:
                if len(names) == 1:
                    raise
                say(f"{work.pseudonym(name)}: {error}")
                failures.append(error)
    say(f"{options.out}: {len(names) - len(failures)} of {len(names)} studies; research use only")
    if failures:
        message = f"{len(failures)} of {len(names)} studies could not be done"
        raise UserError(f"{message}, for example: {failures[0]}")
    return rows


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is done with one study."""

    options: StudyOptions
    archive: "Archive"
    way: Way | None
    key: bytes
    weights: str

    def pseudonym(self, study: str) -> str:
        """What it is called in folders and in lines."""
        return pseudonym_of(self.key, "study", study)

    def __call__(self, study: str) -> list[Row]:
        """Its rows, once its folder is whole and its objects are where they belong."""
        name = self.pseudonym(study)
        references = self.archive.films(study, self.options.most)
        if not references:
            reason = "no CR or DX film for presentation"
            if self.options.study is not None:
                raise UserError(f"{self.archive.name}: has {reason} of this study")
            say(f"{name}: {reason}")
            return []
        films = {pseudonym_of(self.key, "film", film.instance): film for film in references}
        folder, job = self.options.out / name, self._job(films)
        before = _about(folder)
        if before is None or before["job"] != job:
            before = self._make(folder, name, films, job)
        to = None if self.way is None else self.way.to
        objects = sorted((folder / "dicom").glob("*.dcm"))
        if self.way is not None and objects and before["stored"] != to:
            self.way(objects)
            _write_about(folder, before | {"stored": to})
        _tell(name, before["rows"], len(objects), to)
        return list(before["rows"])

    def _job(self, films: Mapping[str, "FilmReference"]) -> dict[str, Any]:
        """All that the folder depends on; it is made anew where something is different."""
        options = self.options
        return {
            "films": sorted(films),
            "model": self.weights,
            "ehr": sorted(options.ehr),
            "calibration": options.calibration,
            "gate": options.gate,
            "segmentation": options.segmentation,
            "keep_films": options.keep_films,
            "nofinding": checkpoint.code_version(),
        }

    def _make(
        self, folder: Path, name: str, films: Mapping[str, "FilmReference"], job: dict[str, Any]
    ) -> dict[str, Any]:
        """Fetches, scores and writes; the folder is there when this returns, or as it was."""
        partial = folder.with_name(f".{name}.partial")
        try:
            partial.mkdir(mode=0o700)
            (partial / "films").mkdir()
            paths = {one: partial / "films" / f"{one}.dcm" for one in films}
            for one, path in paths.items():
                self.archive.retrieve(films[one], path)
            out = self._left_out(paths, films)
            fit = [path for one, path in paths.items() if one not in out]
            with silently():  # what is said there is of folders that are yet to be renamed
                scored = self._scored(partial, fit) if fit else []
            rows = _rows(name, out, scored)
            about = {"job": job, "rows": rows, "stored": None}
            if not self.options.keep_films:
                shutil.rmtree(partial / "films")
            shutil.rmtree(partial / "cache", ignore_errors=True)
            _write_about(partial, about)
            sync_tree(partial)
            move_into_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return about

    def _left_out(
        self, paths: Mapping[str, Path], films: Mapping[str, "FilmReference"]
    ) -> dict[str, str]:
        """Films that are not scored, by what their headers say, and why."""
        out: dict[str, str] = {}
        for one, header in zip(paths, read_studies([*paths.values()], 1), strict=True):
            asked = films[one]
            if "sop" in header and (header["sop"], header.get("study")) != (
                asked.instance,
                asked.study,
            ):
                out[one] = "is another film than was asked for"
            elif why := stated_unfit(header):
                out[one] = why
        return out

    def _scored(self, partial: Path, films: Sequence[Path]) -> list[Row]:
        """Scores films and writes their objects; gives the rows of `score`."""
        options = self.options
        score_options = ScoreOptions(
            out=partial / "scores", model=options.model, ehr=options.ehr, unreadable="list",
            calibration=options.calibration, gate=options.gate, threads=options.threads,
            accelerator=options.accelerator, cache=partial / "cache",
        )  # fmt: skip
        try:
            rows = score([str(path) for path in films], score_options, list_refused=True)
        except NoneScoredError as error:
            return [{"image_id": one, "flags": why} for one, why in error.reasons.items()]
        scored = {row["image_id"] for row in rows if row["score"]}
        export(
            [str(path) for path in films if path.stem in scored],
            ExportOptions(
                scores=score_options.out, out=partial / "dicom", segmentation=options.segmentation
            ),
        )
        return rows + _unreadable(score_options.out / "unreadable.csv")


def _rows(study: str, out: Mapping[str, str], scored: Sequence[Row]) -> list[Row]:
    """A row a film, in the order of their names."""
    by_id = {row["image_id"]: row for row in scored}
    rows = []
    for film in sorted({*out, *by_id}):
        row = by_id.get(film, {})
        cells = {title: row.get(title) or "" for title in ("score", "p_value")}
        flags = row.get("flags") or out.get(film, "")
        rows.append({"study": study, "film": film, **cells, "flags": flags})
    return rows


def _unreadable(file: Path) -> list[Row]:
    """The rows of films that could not be decoded, if there are any."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        return [{"image_id": row["image_id"], "flags": row["reason"]} for row in rows]


def _tell(study: str, rows: Sequence[Row], objects: int, to: str | None) -> None:
    scored = sum(bool(row["score"]) for row in rows)
    message = f"{study}: {scored} of {len(rows)} films scored"
    stored = "not stored" if to is None else f"stored, {to}"
    say(f"{message}; {objects} objects {stored}" if objects else message)


def _weights(model: str) -> str:
    """What tells one model from another: a shipped one's name, else the hash of its weights."""
    if model in (AUTO, *SHIPPED):
        return model
    try:
        return str(json.loads((Path(model) / "model.json").read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--model {model}: holds no model.json that can be read") from None


def _about(folder: Path) -> dict[str, Any] | None:
    """What is written of a study that is whole; None where it is not there."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and {"job", "rows", "stored"} <= about.keys() else None


def _write_about(folder: Path, about: Mapping[str, Any]) -> None:
    write_atomic(folder / ABOUT, json.dumps(about, indent=1).encode())


@contextmanager
def _place(out: Path) -> Iterator[None]:
    """The folder, for this process alone; only its owner may look into it if it is made here."""
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to ({error.strerror})") from None
    with file:
        if not try_lock(file):
            raise UserError(f"--out {out}: another run works in it")
        for left in (*out.glob(".study-*.partial"), *out.glob(".study-*.old")):
            shutil.rmtree(left)  # of a process that was killed; films may lie in it
        yield


@contextmanager
def _stoppable() -> Iterator[None]:
    """Lets SIGTERM end the work as an error does: with nothing half-written left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
