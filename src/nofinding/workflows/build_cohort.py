"""The use case `cohort`: a publisher's folder to a cohort folder, whole or not at all."""

import json
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from nofinding.data.nearest_value import EhrWindow
from nofinding.datasets import SOURCES
from nofinding.datasets.build.choices import Choices
from nofinding.datasets.build.cohort_folder import DESCRIPTION, PLACES, write_table
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.finalize import DRAWN, complete, flow_of
from nofinding.datasets.build.flow import Flow
from nofinding.datasets.build.from_exams import assemble_exams
from nofinding.datasets.build.publisher import Publisher
from nofinding.datasets.cohort import cache_at, known_fields, source_of
from nofinding.datasets.local.table import Table
from nofinding.datasets.twin_check import COLUMNS as PAIR_COLUMNS
from nofinding.datasets.twin_check import PAIRS, write_pairs
from nofinding.errors import UserError
from nofinding.evaluation.report.cohort import cohort_html
from nofinding.evaluation.report.flow import counted, flow_figure
from nofinding.progress import say, tracked
from nofinding.ranges import Range
from nofinding.recipes import Recipe, recipe_of
from nofinding.storage.atomic import move_into_place, write_atomic
from nofinding.storage.file_names import printed

__all__ = ["CohortOptions", "assemble_cohort"]

OURS = frozenset({"films.parquet", PLACES, DESCRIPTION, "flow.png", "cohort.html", PAIRS})


@dataclass(frozen=True, kw_only=True)
class CohortOptions(Choices):
    """Puts a cohort together from the folder that its publisher ships: one row a film."""

    out: Path
    """Folder for the cohort: films.parquet, cohort.json, flow.png, cohort.html."""
    recipe: str | None = None
    """A published protocol (see `nofinding recipes`) that makes the choices; what is counted
    otherwise than published is printed."""
    fields_file: Path | None = None
    """YAML file with further record fields (docs/ehr.md)."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads for the tables, and processes that decode; 0: all there are."""
    cache: Path | None = None
    """Folder for decoded films; default: NOFINDING_CACHE, else ~/.cache/nofinding."""
    overwrite: bool = False
    """Replace the cohort that is in --out."""


def assemble_cohort(spec: str, options: CohortOptions) -> Path:
    """Writes the cohort folder and gives its path. Raises UserError, and leaves nothing behind."""
    name, root = source_of(spec)
    recipe = recipe_of(options.recipe) if options.recipe else None
    if recipe is not None:
        options = as_published(options, recipe, name)
    _require_free(options)
    source, known = SOURCES[name], known_fields(options.fields_file)
    path = Path(root).expanduser()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".cohort-", dir=options.out.parent) as work:
        partial, spill = Path(work) / "cohort", Path(work) / "spill"
        partial.mkdir()
        spill.mkdir()
        base = source.folder(root) if isinstance(source, Publisher | Table) else path.parent
        with closing(
            CohortDatabase(
                name,
                base,
                known,
                options,
                spill,
                options.threads,
                place=root,
                progress=tracked,
                cache=cache_at(options.cache),
            )
        ) as database:
            if isinstance(source, Publisher):
                if options.record is not None and not source.record:
                    raise UserError(f"--record {options.record}: {name} has no use for it")
                source.assemble(database)
                complete(database, official=source.official)
            else:
                official = assemble_exams(database, source, root)
                complete(database, official=official)
            flow = flow_of(database)
            description = write_table(database, flow, partial)
            if database.twins:
                write_pairs(partial / PAIRS, database.twins, PAIR_COLUMNS)
        lines = deviations(recipe, flow)
        description["choices"] = {
            f.name: _plain(getattr(options, f.name)) for f in fields(Choices)
        } | {"recipe": options.recipe}
        _write(partial, description, flow, lines, spec, options)
        move_into_place(partial, options.out)
    _say(flow, lines, options.out)
    return options.out


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _write(
    folder: Path, description: dict[str, object], flow: Flow, lines: Sequence[str], spec: str,
    options: CohortOptions,
) -> None:  # fmt: skip
    command = printed(_command(spec, options))
    html = cohort_html(
        flow,
        fingerprint=str(description["fingerprint"]),
        command=command,
        deviations=lines,
        verify=options.verify,
        twins=options.twins,
    )
    flow_figure(flow).savefig(folder / "flow.png", metadata={"Software": None})
    write_atomic(folder / "cohort.html", html.encode())
    text = json.dumps({**description, "command": command, "deviations": [*lines]}, indent=1)
    write_atomic(folder / DESCRIPTION, text.encode())


def _command(spec: str, options: CohortOptions) -> str:
    """The command that makes the cohort again, with what differs from the defaults."""
    words = ["nofinding", "cohort", spec, "--out", options.out.name]
    for f in fields(CohortOptions):
        value = getattr(options, f.name)
        if (
            f.name in ("out", "overwrite", "threads", "cache")
            or value == f.default
            or value in (None, ())
        ):
            continue
        name = f.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
            continue
        parts = value if isinstance(value, tuple) else (value,)
        words += [f"--{name}", *(str(part) for part in parts)]
    return shlex.join(words)


def as_published(options: CohortOptions, recipe: Recipe, source: str) -> CohortOptions:
    """The options as the protocol makes them. Raises UserError where it is of another source, or
    needs lists that were not given."""
    rule = recipe.cohort
    if rule is None:
        raise UserError(f"--recipe {recipe.name}: says nothing of how its cohort is put together")
    if rule.source != source:
        raise UserError(f"--recipe {recipe.name}: is of {rule.source}:, not of {source}:")
    if rule.lists and options.lists is None:
        raise UserError(f"--recipe {recipe.name}: needs --lists FILE, {rule.lists}")
    say(f"recipe {recipe.name}: {recipe.split_rule}")
    return replace(
        options,
        complete=rule.complete,
        uncertain=rule.uncertain or options.uncertain,
        split=rule.split or options.split,
        window=options.window if rule.window is None else rule.window,
        direction=options.direction if rule.window is None else EhrWindow().direction,
    )


def deviations(recipe: Recipe | None, flow: Flow) -> tuple[str, ...]:
    """Where the numbers of films are not those of the published protocol.

    What was drawn from its training films for val counts among them, and is told.
    """
    if recipe is None:
        return ()
    of = {part.split: part for part in flow.parts}
    train, judged = of.get("train"), of.get(recipe.evaluated_split)
    drawn = any(remark.what == DRAWN for remark in flow.remarks)
    held = of["val"].normal if drawn and "val" in of else 0
    offered = (train.normal if train else 0) + held
    counts = (
        (offered, recipe.expects.train_normal, "normal films to learn from"),
        (judged.normal if judged else 0, recipe.expects.test_normal, "normal films judged"),
        (judged.abnormal if judged else 0, recipe.expects.test_abnormal, "abnormal films judged"),
    )
    lines = [
        f"{count:,} {what}, where the protocol has {expected:,}"
        for count, expected, what in counts
        if expected is not None and expected != count
    ]
    if held:
        lines.append(f"{held:,} of the {offered:,} normal films to learn from are val, to tune and "
                     "calibrate on")  # fmt: skip
    return tuple(lines)


def _require_free(options: CohortOptions) -> None:
    """Raises UserError where --out holds something that may not be replaced."""
    if options.out.is_file():
        raise UserError(f"--out {options.out}: is a file; give a folder")
    if not options.out.exists():
        return
    present = {entry.name for entry in options.out.iterdir()}
    if present - OURS:
        raise UserError(
            f"--out {options.out}: holds {min(present - OURS)!r}, which is not of `cohort`"
        )
    if present and not options.overwrite:
        raise UserError(f"--out {options.out}: is not empty; choose another or give --overwrite")


def _say(flow: Flow, lines: Sequence[str], out: Path) -> None:
    say(f"listed: {counted(flow.films, flow.patients)}")
    for step in flow.steps:
        say(f"  left out, {step.reason}: {step.films:,}")
    for remark in flow.remarks:
        say(f"  {remark.what}: {remark.count:,}")
    for part in flow.parts:
        films = part.normal + part.abnormal + part.unlabelled
        say(
            f"{part.split}: {counted(films, part.patients)} ({part.normal:,} normal, "
            f"{part.abnormal:,} abnormal, {part.unlabelled:,} unlabelled)"
        )
    for line in lines:
        say(f"not as published: {line}")
    say(f"look at {out / 'cohort.html'}")
