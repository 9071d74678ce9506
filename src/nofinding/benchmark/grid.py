"""bench: every method, on the same films, under the same rules, in one table."""

import hashlib
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from nofinding.benchmark.cell import (
    Cell,
    Result,
    Share,
    failed,
    read_result,
    run_cell,
    write_result,
)
from nofinding.benchmark.options import BenchOptions
from nofinding.benchmark.report import CohortResults, write_report
from nofinding.data.decoding.decode import VolumeFile
from nofinding.data.ehr import EhrField
from nofinding.data.split import hold_out, normals
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.datasets.twin_check import PAIRS, Part, parts_apart, signatures_for
from nofinding.errors import UserError
from nofinding.evaluation.baselines import BASELINES, METADATA
from nofinding.methods import METHODS
from nofinding.methods.base.training_identity import trainings_of
from nofinding.progress import say
from nofinding.recipes import Recipe, recipe_of
from nofinding.types import Exam
from nofinding.workflows.fit import chosen_fields

__all__ = ["bench", "selected_methods", "share_of"]

POLL = 0.2  # seconds between looks at the running cells


def bench(options: BenchOptions) -> Path:
    """Path of the report. Cells that are done already are taken as they are.

    Raises UserError for anything wrong with the options or the films, before the first cell. A
    cell that fails is reported as failed and stops no other.
    """
    options = _as_published(options)
    _check(options)
    selection = selected_methods(options.methods, options.preset)
    fields = known_fields(options.fields_file)
    cohorts = [Cohort([spec], fields) for spec in options.films]
    names = _names(cohorts)
    shares = [
        share_of(cohort, name, options, selection, fields)
        for cohort, name in zip(cohorts, names, strict=True)
    ]
    # One method after the other on all cohorts: a grid that is cut short still compares cohorts.
    grids = [list(_cells(share, options, selection)) for share in shares]
    cells = [cell for row in zip(*grids, strict=True) for cell in row]
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = None if options.recipe is None else recipe_of(options.recipe)
    for share in shares:
        say(_counts(share))
        for line in deviations(recipe, share):
            say(f"not as published: {line}")
    if options.run:
        _twins_apart(shares, options)
        run_cells(cells, options)
    results = [
        CohortResults(
            share=share,
            phantom=cohort.phantom,
            cells=tuple((cell, _result(cell)) for cell in cells if cell.share is share),
            metadata=any(method == METADATA for method, _ in selection),
            published=() if recipe is None else recipe.published,
            deviations=deviations(recipe, share),
        )
        for share, cohort in zip(shares, cohorts, strict=True)
    ]
    return write_report(results, options)


def _twins_apart(shares: Sequence[Share], options: BenchOptions) -> None:
    """Raises UserError where a judged film of a cohort is an altered copy of one of its films to
    learn from, unless --twins says otherwise."""
    cache = cache_at(options.cache)
    for share in shares:
        every = (*share.train, *share.pool, *share.judged)
        if options.twins == "skip" or any(isinstance(r.pixels, VolumeFile) for r in every):
            continue
        training, pool, judged = (
            Part(name, exams, signatures_for(exams, cache))
            for name, exams in (
                ("training", share.train), ("training", share.pool), ("evaluated", share.judged)
            )
        )  # fmt: skip
        pairs = f"{share.name}-{PAIRS}" if len(shares) > 1 else PAIRS
        parts_apart([training, pool], judged, options.twins, options.out / pairs)


def _as_published(options: BenchOptions) -> BenchOptions:
    """The options with the split and the aspect of the recipe, if one is asked for."""
    if options.recipe is None:
        return options
    recipe = recipe_of(options.recipe)
    if len(options.films) != 1:
        raise UserError(f"--recipe {recipe.name}: is of one cohort; give one --films SOURCE:PATH")
    if recipe.evaluated_split == "train":
        raise UserError(f"--recipe {recipe.name}: its figures are of split train; none is judged")
    say(f"recipe {recipe.name}: {recipe.split_rule}")
    return replace(options, split=recipe.evaluated_split, aspect=recipe.aspect)


def deviations(recipe: Recipe | None, share: Share) -> tuple[str, ...]:
    """Where the numbers of films are not those of the published protocol."""
    if recipe is None:
        return ()
    abnormal = sum(bool(r.findings) for r in share.judged)
    counted = {
        "train_normal": (len(share.train), "normal films to learn from"),
        "test_normal": (len(share.judged) - abnormal, "normal films judged"),
        "test_abnormal": (abnormal, "abnormal films judged"),
    }
    lines = []
    for name, (count, what) in counted.items():
        expected = getattr(recipe.expects, name)
        if expected is not None and expected != count:
            lines.append(f"{count:,} {what}, where the protocol has {expected:,}")
    return tuple(lines)


def _check(options: BenchOptions) -> None:
    if options.out.is_file():
        raise UserError(f"--out {options.out}: is a file; give a folder")


def selected_methods(methods: str, preset: str) -> list[tuple[str, str]]:
    """(method, preset) of each row, in the order given, and then of the baselines not named.

    "all" are all of METHODS, and the classifier on the record. Raises UserError for what is not
    there, or is named twice.
    """
    rows: list[tuple[str, str]] = []
    for word in (part.strip() for part in methods.split(",")):
        if word == "all":
            rows += [(name, preset) for name in METHODS] + [(METADATA, "")]
            continue
        name, _, own = word.partition(":")
        if name == METADATA and not own:
            rows.append((METADATA, ""))
            continue
        if name not in METHODS:
            raise UserError(
                f"--methods {name!r}: not a method; there are all, {METADATA}, {', '.join(METHODS)}"
            )
        own = own or preset
        if own not in METHODS[name].PRESETS:
            raise UserError(
                f"--methods {name}:{own}: {name} has the presets {', '.join(METHODS[name].PRESETS)}"
            )
        rows.append((name, own))
    twice = {row for row in rows if rows.count(row) > 1}
    if twice:
        raise UserError(f"--methods: {min(twice)[0]} is named twice")
    named = {name for name, _ in rows}
    for name in (*BASELINES, METADATA):  # every table has the baselines
        if name not in named:
            rows.append((name, "" if name == METADATA else "small"))
    return rows


def _names(cohorts: Sequence[Cohort]) -> list[str]:
    """A short name for each cohort, that may stand in a path: the folder of its table, say."""
    names: list[str] = []
    for cohort in cohorts:
        source, _, rest = cohort.name.partition(":")
        parts = [part for part in rest.split("/") if part]
        word = parts[0] if len(parts) > 1 else Path(rest).stem or source
        word = source if source in ("phantom", "synthetic") else word
        word = re.sub(r"[^A-Za-z0-9_-]+", "-", word).strip("-") or source
        names.append(word if word not in names else f"{word}-{len(names) + 1}")
    return names


def share_of(
    cohort: Cohort,
    name: str,
    options: BenchOptions,
    selection: Sequence[tuple[str, str]],
    fields: dict[str, EhrField],
) -> Share:
    """Who learns from what and is judged on what: the same for every method.

    Raises UserError where there is no normal film to learn from, or not both kinds to judge on.
    """
    train = thinned(normals(cohort.exams, "train"), options.most)
    if not train:
        raise UserError(f"{cohort.name}: no normal film (empty findings) in split train")
    labelled = [r for r in cohort.exams if r.split == options.split and r.findings is not None]
    pool = [r for r in cohort.exams if r.split == "train" and r.findings != frozenset()]
    given = False
    asks = any(m != METADATA and hasattr(METHODS[m], "OTHERS") for m, _ in selection)
    if asks and not pool and options.pool:
        labelled, pool = hold_out(labelled, options.pool, 0)
        given = True
    judged = sorted(labelled, key=lambda r: r.image_id)
    for kind in (False, True):
        if not any(bool(r.findings) == kind for r in judged):
            what = "abnormal" if kind else "normal"
            raise UserError(
                f"{cohort.name}: no {what} film in split {options.split} to judge on; give another "
                "--split"
            )
    return Share(
        name=name,
        fingerprint=cohort.fingerprint(),
        train=tuple(train),
        pool=tuple(pool),
        pool_is_given=given,
        judged=tuple(judged),
        fields=tuple(chosen_fields(cohort, train, fields, None)),
    )


def thinned(exams: Sequence[Exam], most: int) -> list[Exam]:
    """At most that many of the records, decided by their ids alone; 0: all. Their order stays."""
    if not most or len(exams) <= most:
        return list(exams)
    drawn = sorted(exams, key=lambda r: hashlib.sha256(r.image_id.encode()).digest())[:most]
    ids = {exam.image_id for exam in drawn}
    return [exam for exam in exams if exam.image_id in ids]


def _cells(
    share: Share, options: BenchOptions, selection: Sequence[tuple[str, str]]
) -> Iterator[Cell]:
    threads = options.threads or os.cpu_count() or 1
    for seed in range(options.seeds):
        for method, preset in selection:
            if method == METADATA:
                continue
            yield Cell(
                method=method,
                preset=preset,
                seed=seed,
                share=share,
                folder=options.out / "cells" / share.name / f"{method}--{preset}" / f"seed-{seed}",
                shared=options.out / "networks",
                cache=cache_at(options.cache).folder,
                aspect=options.aspect,
                accelerator=options.accelerator,
                threads=max(1, threads // options.jobs),
            )


def _counts(share: Share) -> str:
    abnormal = sum(bool(r.findings) for r in share.judged)
    line = (
        f"{share.name}: {len(share.train)} normal films to learn from; judged on "
        f"{len(share.judged) - abnormal} normal and {abnormal} abnormal"
    )
    return line + (f"; {len(share.pool)} beside them" if share.pool else "")


def _result(cell: Cell) -> Result:
    return read_result(cell) or failed(cell, "was not run")


def run_cells(cells: Sequence[Cell], options: BenchOptions) -> None:
    """Runs what is not done yet, `jobs` at a time; what failed before is tried again."""
    open_cells = [cell for cell in cells if not _is_done(cell)]
    done = len(cells) - len(open_cells)
    if done:
        say(f"{done} of {len(cells)} cells are done already")
    running: dict[BaseProcess, tuple[Cell, float]] = {}
    context = _context()
    try:
        while open_cells or running:
            while open_cells and len(running) < options.jobs:
                cell = _next(open_cells, [c for c, _ in running.values()])
                if cell is None:
                    break
                open_cells.remove(cell)
                process: BaseProcess = context.Process(target=run_cell, args=(cell,))  # type: ignore[attr-defined]
                process.start()
                running[process] = (cell, time.monotonic())
            time.sleep(POLL)
            for each, (cell, since) in list(running.items()):
                late = options.minutes and time.monotonic() - since > 60 * options.minutes
                if each.is_alive() and not late:
                    continue
                _end(each)
                del running[each]
                done += 1
                limit = options.minutes if late else 0
                _tell(cell, each, late_after=limit, count=f"[{done}/{len(cells)}]")
    finally:
        for left in running:
            _end(left)


def _context() -> BaseContext:
    """Processes that start from one that has imported everything and done nothing, where the system
    can; importing takes longer than many a cell."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nofinding.benchmark.cell"])
    return context


def _is_done(cell: Cell) -> bool:
    result = read_result(cell)
    return result is not None and result.status == "done"


def _next(waiting: Sequence[Cell], running: Sequence[Cell]) -> Cell | None:
    """The next cell, but for those that can use a network that a running one is still training."""
    busy = {name for cell in running for name in _networks(cell)}
    return next((cell for cell in waiting if busy.isdisjoint(_networks(cell))), None)


def _networks(cell: Cell) -> set[tuple[str, str, int]]:
    """Names the networks that the cell trains, if others may use them."""
    kind = METHODS[cell.method]
    trainings = trainings_of(kind, kind.PRESETS[cell.preset])
    return {(training, cell.share.name, cell.seed) for training in trainings}


def _end(process: BaseProcess) -> None:
    """Sees to it that the process is gone: asks it, waits, and then does not ask."""
    if process.is_alive():
        process.terminate()
        process.join(10)
    if process.is_alive():
        process.kill()
    process.join()


def _tell(cell: Cell, process: BaseProcess, *, late_after: float, count: str) -> None:
    """Writes down a cell that could not do so itself, and says how each ended."""
    result = read_result(cell)
    if result is None or (late_after and result.status != "done"):
        code = process.exitcode or 0
        why = f"ended with exit code {code}"
        if code < 0:
            why = f"killed by {signal.Signals(-code).name}"
            why += " (out of memory?)" if -code == signal.SIGKILL else ""
        if late_after:
            why = f"stopped after {late_after:g} minutes (--minutes)"
        result = failed(cell, why)
        write_result(cell, result)
    cost = result.cost
    if result.status == "done":
        minutes, speed = cost["fit_minutes"] or 0.0, cost["films_per_second"] or 0.0
        say(f"{count} {cell.label}: fitted in {minutes:.1f} min, {speed:.1f} films/s")
    else:
        say(f"{count} {cell.label}: FAILED: {result.why}")
