"""The commands that most people need: fit, score, evaluate, bench, demo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nofinding.cli.command import Command, Positional, options_from
from nofinding.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from nofinding.cli.parser import Parser

__all__ = ["COMMANDS", "DEFAULT"]

DEFAULT = "diff3m-f"  # what `fit` fits where no method is named


def _score(parser: Parser, parsed: Namespace) -> None:
    from nofinding.cli.tables import print_table
    from nofinding.workflows.score import ScoreOptions, score

    rows = score(parsed.files, options_from(ScoreOptions, parsed))
    if parsed.files:
        cells = [(row["image_id"], row["score"], row["p_value"], row["flags"]) for row in rows]
        print_table(("film", "score", "p-value", "flags"), cells)


def _fit(parser: Parser, parsed: Namespace) -> None:
    from jsonargparse import Namespace

    from nofinding.methods import METHODS
    from nofinding.workflows.fit import FitOptions, fit

    name = parsed.method_name
    if not isinstance(parsed.method, Namespace):
        raise UserError(f"--method: must map options of {name} to their values")
    config = parser.instantiate(parsed).method
    assert isinstance(config, METHODS[name].Config)
    fit(name, config, options_from(FitOptions, parsed))


def _evaluate(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.evaluate import EvaluateOptions, evaluate

    evaluate(options_from(EvaluateOptions, parsed))


def _bench(parser: Parser, parsed: Namespace) -> None:
    from nofinding.benchmark.grid import bench
    from nofinding.benchmark.options import BenchOptions

    print(bench(options_from(BenchOptions, parsed)))


def _demo(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.demo import DemoOptions, demo

    print(demo(options_from(DemoOptions, parsed)))


COMMANDS = {
    "demo": Command(
        summary="see it work, on simulated films",
        run=_demo,
        options="nofinding.workflows.demo:DemoOptions",
    ),
    "score": Command(
        summary="how far films are from the normal ones, where, with what confidence",
        run=_score,
        options="nofinding.workflows.score:ScoreOptions",
        positionals=(
            Positional(dest="files", metavar="FILE", nargs="*", help="PNG, JPEG or DICOM"),
        ),
        first=("out", "model", "films", "ehr", "maps"),
    ),
    "fit": Command(
        summary="learn from normal films",
        run=_fit,
        options="nofinding.workflows.fit:FitOptions",
        first=("films", "out", "preset", "fields", "resume"),
    ),
    "evaluate": Command(
        summary="how well scores tell abnormal films from normal ones",
        run=_evaluate,
        options="nofinding.workflows.evaluate:EvaluateOptions",
        first=("scores", "films", "out", "compare", "baselines"),
    ),
    "bench": Command(
        summary="every method on the same films",
        run=_bench,
        options="nofinding.benchmark.options:BenchOptions",
        first=("films", "out", "methods", "preset", "seeds"),
    ),
}
