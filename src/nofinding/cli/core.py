"""The commands that matter first: fit, score, evaluate, bench, demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nofinding.cli.parsing import (
    config_in,
    first_line,
    new_parser,
    options_of,
    plain_cells,
    values_of,
    with_options,
)
from nofinding.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from nofinding.cli.parsing import Command

__all__ = ["COMMANDS", "DEFAULT", "completed", "method_and_preset"]

DEFAULT = "diff3m-f"  # what `fit` fits where no method is named


def method_and_preset(arguments: Sequence[str]) -> tuple[str | None, str | None]:
    """The method and preset of a fit, read ahead: they decide which further options there are."""
    from nofinding.methods import METHODS

    if {"-h", "--help"} & set(arguments) and arguments[0].startswith("-"):
        return None, None
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"fit: name the method first, one of {', '.join(METHODS)}")
    method = arguments[0]
    if method not in METHODS:
        raise UserError(f"fit {method}: not a method; there are {', '.join(METHODS)}")
    preset = "small"
    for file in values_of("--config", arguments):
        preset = _preset_in(Path(file)) or preset
    for named in values_of("--preset", arguments):
        preset = named
    if preset not in METHODS[method].PRESETS:
        presets = ", ".join(METHODS[method].PRESETS)
        raise UserError(f"--preset {preset}: {method} has {presets}")
    return method, preset


def _preset_in(file: Path) -> str | None:
    """The preset that a config file names."""
    content = config_in(file)
    return str(content["preset"]) if "preset" in content else None


def completed(command: str, arguments: Sequence[str]) -> list[str]:
    """What was given, with the default method before the options of a fit that names none."""
    if command != "fit" or not arguments or not arguments[0].startswith("--"):
        return list(arguments)
    from nofinding.methods import METHODS

    named = {"-h", "--help", *METHODS} & set(arguments)
    return list(arguments) if named else [DEFAULT, *arguments]


def _fit_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.methods import METHODS
    from nofinding.workflows.fit import FitOptions

    parser = new_parser("fit", first_line(FitOptions))
    parser.add_argument(
        "method_name", metavar="METHOD", help=f"one of {', '.join(METHODS)}; default: {DEFAULT}"
    )
    several = {
        "films": "SOURCE:PATH, one or more (see `nofinding sources`)",
        "others": "films beside the normal ones, SOURCE:PATH, for methods that learn from such; "
        "default: those of split train that are not known to be normal",
        "fields": "record fields to use; default: every field recorded for some training film",
    }
    parser.add_argument("--films", nargs="+", type=str, required=True, help=several["films"])
    parser.add_argument("--others", nargs="+", type=str, help=several["others"])
    parser.add_argument("--fields", nargs="+", type=str, help=several["fields"])
    with_options(parser, FitOptions, tuple(several))
    if method is not None:
        cls = METHODS[method]
        preset_values = cls.PRESETS[preset or "small"]
        parser.add_argument("--method", type=cls.Config, default=preset_values, help=f"of {method}")
    return parser


def _fit(parser: ArgumentParser, parsed: Namespace) -> None:
    from jsonargparse import Namespace

    from nofinding.methods import METHODS
    from nofinding.workflows.fit import FitOptions, fit

    name = parsed.method_name
    if not isinstance(parsed.method, Namespace):
        raise UserError(f"--method: must map options of {name} to their values")
    config = parser.instantiate(parsed).method
    assert isinstance(config, METHODS[name].Config)
    fit(name, config, options_of(FitOptions, parsed, ("method_name", "method")))


def _score_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.score import ScoreOptions

    parser = new_parser("score", first_line(ScoreOptions))
    parser.add_argument("files", nargs="*", type=str, metavar="FILE", help="PNG, JPEG or DICOM")
    parser.add_argument("--films", nargs="+", type=str, default=[], help="SOURCE:PATH, or more")
    parser.add_argument(
        "--ehr", nargs="+", type=str, default=[], help='for FILEs: age=63 sex=M "weight=180 lb"'
    )
    with_options(parser, ScoreOptions, ("films", "ehr"))
    return parser


def _score(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.workflows.score import ScoreOptions, score

    rows = score(parsed.files, options_of(ScoreOptions, parsed, ("files",)))
    if parsed.files:
        table = Table("film", "score", "p-value", "flags", box=None)
        for row in rows:
            table.add_row(*plain_cells(row["image_id"], row["score"], row["p_value"], row["flags"]))
        Console().print(table)


def _evaluate_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.evaluate import EvaluateOptions

    parser = new_parser("evaluate", first_line(EvaluateOptions))
    parser.add_argument(
        "--films", nargs="+", type=str, required=True, help="the labelled films, SOURCE:PATH"
    )
    with_options(parser, EvaluateOptions, ("films",))
    return parser


def _evaluate(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.evaluate import EvaluateOptions, evaluate

    evaluate(options_of(EvaluateOptions, parsed, ()))


def _bench_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.benchmark.options import BenchOptions

    parser = new_parser("bench", first_line(BenchOptions))
    several = "SOURCE:PATH, one or more; each is a cohort of its own"
    parser.add_argument("--films", nargs="+", type=str, required=True, help=several)
    with_options(parser, BenchOptions, ("films",))
    return parser


def _bench(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.benchmark.grid import bench
    from nofinding.benchmark.options import BenchOptions

    print(bench(options_of(BenchOptions, parsed, ())))


def _demo_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.demo import DemoOptions

    parser = new_parser("demo", first_line(DemoOptions))
    with_options(parser, DemoOptions)
    return parser


def _demo(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.demo import DemoOptions, demo

    print(demo(options_of(DemoOptions, parsed, ())))


COMMANDS: dict[str, Command] = {
    "fit": (_fit, _fit_parser),
    "score": (_score, _score_parser),
    "evaluate": (_evaluate, _evaluate_parser),
    "bench": (_bench, _bench_parser),
    "demo": (_demo, _demo_parser),
}
