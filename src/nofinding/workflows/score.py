"""score: a model and films in; scores.csv, maps, pseudo-healthy films and run.json out.

Film by film, in batches that are fixed by their place in the order of image_id. What is done is
written to a journal at once, so that the same command goes on where an earlier one was stopped.
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.distributed import is_torchelastic_launched

from nofinding.errors import UserError
from nofinding.model.calibration import Calibrator
from nofinding.model.runtime_parity import Parity
from nofinding.progress import say, tracked
from nofinding.runtime import use_threads
from nofinding.scoring.batch_scorer import Scorer
from nofinding.scoring.job import ScoringJob, about_run, prepare, shown
from nofinding.scoring.merge import count, read_drawn, write_scores, write_unreadable
from nofinding.scoring.options import ScoreOptions
from nofinding.scoring.ray_backend import entries_by_ray
from nofinding.scoring.workspace import Workspace, clear_finished, identity_hash
from nofinding.storage.atomic import write_atomic

__all__ = ["ScoreOptions", "score"]

# What `score` writes:
OURS = frozenset({"scores.csv", "run.json", "unreadable.csv", "maps", "normal"})
KEEP = 60.0  # seconds of scoring that are worth keeping where a fault in the input stops it


def score(
    files: Sequence[str], options: ScoreOptions, *, list_refused: bool = False
) -> list[dict[str, str]]:
    """Scores films and writes the folder; gives the rows of single FILEs, not those of a source.

    A FILE that the gate refuses is an error, unless `list_refused`: then its row says so.
    Everything is written beside the folder and becomes the folder once all films are scored, so
    that nothing half-written is left. Raises UserError for any fault in the input.
    """
    use_threads(options.threads)
    _require_free(options)
    shard = shard_of(options)
    job = prepare(files, options)
    identity = job.identity()
    calibrator = Calibrator(job.model, job.calibration, len(job.films))
    out = options.out.resolve()
    try:
        if _finished(out, identity) and (shard[1] > 1 or not options.overwrite):
            say(f"{options.out}: finished already")
            clear_finished(out)
        else:
            if out.is_dir() and any(out.iterdir()) and not options.overwrite:
                raise _not_empty(options)
            with Workspace(out, identity, overwrite=options.overwrite) as place:
                _work(job, place, shard, files, calibrator, bool(files) and not list_refused)
    except OSError as error:
        raise UserError(f"--out {options.out}: cannot be written ({error.strerror})") from error
    return _rows(out / "scores.csv") if files else []


def shard_of(options: ScoreOptions) -> tuple[int, int]:
    """(k, n): every n-th batch from the k-th on is this process's. Raises UserError."""
    text = options.shard
    if text is None and is_torchelastic_launched():
        text = f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}"
    if text is None:
        return 0, 1
    own, slash, of = text.partition("/")
    if not (slash and own.isdecimal() and of.isdecimal() and int(own) < int(of)):
        raise UserError(f"--shard {text}: write K/N, where K is from 0 to N - 1, for example 0/4")
    if options.engine == "ray" and int(of) > 1:
        raise UserError(f"--shard {text}: Ray shares the films out by itself; leave it out")
    return int(own), int(of)


def _work(
    job: ScoringJob,
    place: Workspace,
    shard: tuple[int, int],
    files: Sequence[str],
    calibrator: Calibrator,
    single: bool,
) -> None:
    """Scores what is not scored yet, and finishes the job where nothing is left."""
    spent, fresh = 0.0, place.is_new()
    try:
        scorer, parity = job.scorer(place.result, single)
        if parity is not None:  # its p-values may be void now
            calibrator = Calibrator(scorer.model, calibrator.how, len(job.films))
        with place.part(shard) as journal:
            index = place.index(len(scorer), scorer.is_true)
            own = range(shard[0], len(scorer), shard[1])
            todo = [number for number in own if number not in index]
            if index.done:
                say(f"{place.folder.name}: goes on, {index.done} of {len(index)} batches are there")
            for entry in tracked(_scored(todo, scorer, files, job.options), "scoring", len(todo)):
                spent += entry["seconds"]
                index.put(entry["batch"], journal.append(entry))
        _finish(job, place, scorer, parity, calibrator)
    except BaseException as error:  # whatever it was: what is left behind would block --out
        worth = 0.0 if isinstance(error, KeyboardInterrupt) else KEEP
        if not (fresh and shard[1] == 1 and spent <= worth and place.remove_if_alone()):
            say(f"{place.folder}: what is scored so far is kept; the same command goes on there")
        raise


def _scored(
    todo: Sequence[int], scorer: Scorer, files: Sequence[str], options: ScoreOptions
) -> Iterator[dict[str, Any]]:
    """The entries of these batches: here in their order, on a cluster in any."""
    if options.engine == "local":
        return map(scorer, todo)
    return entries_by_ray(todo, files, options)


def _finish(
    job: ScoringJob, place: Workspace, scorer: Scorer, parity: Parity | None, calibrator: Calibrator
) -> None:
    """Joins all batches, unless some are missing or another process has joined them already."""
    index = place.index(len(scorer), lambda entry: True)
    if index.done < len(index):
        message = f"{index.done} of {len(index)} batches are scored; the last shard joins them"
        say(message, everywhere=True)
        return
    with place.alone() as waiting:
        if not waiting:
            return
        options, gatekeeper = job.options, job.gatekeeper
        tally = count(index, strata=calibrator.weighs)
        tally.require_some(index)
        if calibrator.weighs:
            calibrator.weigh(tally.strata)
        rows = tally.drawn_from()
        gatekeeper.test_drift(len(rows), read_drawn(index, tally, rows), options.seed)
        write_scores(place.result / "scores.csv", index, tally, calibrator)
        if tally.unreadable:
            write_unreadable(place.result / "unreadable.csv", index)
        gflop = tally.gflop if parity is None else parity.gflop
        run = (
            about_run(scorer.model, tally.scored, options, job.source)
            | {"job": identity_hash(job.identity()), "unreadable": tally.unreadable}
            | {"model": shown(job.name)}
            | {"gflop": _counted(scorer) if gflop is None else gflop}
            | {"seconds_per_film": tally.seconds / tally.scored}
            | calibrator.about()
            | gatekeeper.about(tally.objected)
        )
        if parity is not None:
            run["parity"] = parity.to_json()
        write_atomic(place.result / "run.json", json.dumps(run, indent=1).encode())
        place.move()
    if scorer.model.uncalibrated:
        say(f"no p-values: {scorer.model.uncalibrated}", everywhere=True)
    refused = tally.given - tally.scored - tally.unreadable
    message = f"{options.out / 'scores.csv'}: {tally.scored} films"
    message += f", {refused} refused (see flags)" if refused else ""
    message += f", {tally.unreadable} cannot be read (unreadable.csv)" if tally.unreadable else ""
    say(f"{message}, {run['seconds_per_film']:.2f} s a film", everywhere=True)
    if warning := calibrator.warning():
        say(warning, everywhere=True)


def _counted(scorer: Scorer) -> float:
    """What a film takes, where the first batch did not tell, for nothing in it was scored."""
    counts = (scorer.gflop(number) for number in range(len(scorer)))
    return next(gflop for gflop in counts if gflop is not None)


def _finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether the folder holds the whole result of this very job."""
    try:
        run = json.loads((out / "run.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(run, dict) and run.get("job") == identity_hash(identity)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _not_empty(options: ScoreOptions) -> UserError:
    return UserError(f"--out {options.out}: is not empty; choose another or give --overwrite")


def _require_free(options: ScoreOptions) -> None:
    if options.out.is_file():
        raise UserError(f"--out {options.out}: is a file; give a folder")
    present = {path.name for path in options.out.iterdir()} if options.out.is_dir() else set()
    if present and not options.overwrite and "run.json" not in present:
        raise _not_empty(options)
    if present - OURS:
        raise UserError(
            f"--out {options.out}: holds {min(present - OURS)!r}, which is not of `score`; "
            "it is not overwritten"
        )
