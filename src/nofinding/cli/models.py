"""Commands around models: fit-gate, import-official, methods, recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nofinding.cli.parsing import first_line, listing_parser, new_parser, options_of, with_options

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from nofinding.cli.parsing import Command

__all__ = ["COMMANDS"]


def _fit_gate_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.model.input_gate import FitGateOptions

    parser = new_parser("fit-gate", first_line(FitGateOptions))
    several = "SOURCE:PATH, one or more: their normal films of split train"
    parser.add_argument("--films", nargs="+", type=str, required=True, help=several)
    with_options(parser, FitGateOptions, ("films",))
    return parser


def _fit_gate(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.model.input_gate import FitGateOptions, fit_gate_alone

    fit_gate_alone(options_of(FitGateOptions, parsed, ()))


def _import_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.import_official import ImportOptions

    parser = new_parser("import-official", first_line(ImportOptions))
    parser.add_argument("checkpoint", type=str, metavar="CHECKPOINT", help=".safetensors or .pt")
    parser.add_argument(
        "--films", nargs="+", type=str, help="SOURCE:PATH whose train normals scale the record"
    )
    with_options(parser, ImportOptions, ("films",))
    return parser


def _import_official(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.import_official import ImportOptions, import_official

    import_official(Path(parsed.checkpoint), options_of(ImportOptions, parsed, ("checkpoint",)))


def _methods(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.methods import METHODS

    table = Table("method", "what it is", "learns from", "presets", box=None)
    for name, cls in METHODS.items():
        table.add_row(name, cls.summary, str(cls.supervision), " ".join(cls.PRESETS))
    Console().print(table)


def _recipes_parser(method: str | None, preset: str | None) -> ArgumentParser:
    parser = new_parser(
        "recipes", "Lists published protocols, or shows one whole, with its figures."
    )
    parser.add_argument("recipe", nargs="?", type=str, metavar="RECIPE", help="the one to show")
    return parser


def _recipes(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.recipes import recipe_of, recipes, shown

    if parsed.recipe is not None:
        print(shown(recipe_of(parsed.recipe)))
        return
    table = Table("recipe", "what it is", "figures", box=None)
    for name, recipe in recipes().items():
        table.add_row(name, recipe.summary, str(len(recipe.published)))
    Console().print(table)


COMMANDS: dict[str, Command] = {
    "fit-gate": (_fit_gate, _fit_gate_parser),
    "import-official": (_import_official, _import_parser),
    "methods": (_methods, listing_parser("methods", "Lists what can be fitted.")),
    "recipes": (_recipes, _recipes_parser),
}
