"""The commands about models: methods, recipes, adapt, fit-gate, import-official."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nofinding.cli.command import Command, Positional, options_from

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from nofinding.cli.parser import Parser

__all__ = ["COMMANDS"]


def _methods(parser: Parser, parsed: Namespace) -> None:
    from nofinding.cli.tables import print_table
    from nofinding.methods import METHODS

    rows = [
        (name, cls.summary, str(cls.supervision), " ".join(cls.PRESETS))
        for name, cls in METHODS.items()
    ]
    print_table(("method", "what it is", "learns from", "presets"), rows)


def _recipes(parser: Parser, parsed: Namespace) -> None:
    from nofinding.cli.tables import print_table
    from nofinding.recipes import recipe_of, recipes, shown

    if parsed.recipe is not None:
        print(shown(recipe_of(parsed.recipe)))
        return
    rows = [(name, one.summary, str(len(one.published))) for name, one in recipes().items()]
    print_table(("recipe", "what it is", "figures"), rows)


def _fit_gate(parser: Parser, parsed: Namespace) -> None:
    from nofinding.model.input_gate import FitGateOptions, fit_gate_alone

    fit_gate_alone(options_from(FitGateOptions, parsed))


def _adapt(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.adapt import AdaptOptions, adapt, adapt_to

    options = options_from(AdaptOptions, parsed)
    if options.feedback is None:
        adapt(options)
        return
    from nofinding.service.marked import marked_normal

    adapt_to(marked_normal(options.feedback), "films that readers marked normal", options)


def _import_official(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.import_official import ImportOptions, import_official

    import_official(Path(parsed.checkpoint), options_from(ImportOptions, parsed))


COMMANDS = {
    "methods": Command(
        summary="what can be fitted", about="Lists what can be fitted.", run=_methods
    ),
    "recipes": Command(
        summary="published protocols and their figures",
        about="Lists published protocols, or shows one whole, with its figures.",
        run=_recipes,
        positionals=(
            Positional(dest="recipe", metavar="RECIPE", nargs="?", help="the one to show"),
        ),
    ),
    "adapt": Command(
        summary="move a model to the films of one hospital",
        run=_adapt,
        options="nofinding.workflows.adapt:AdaptOptions",
        first=("model", "films", "normal_only", "unlabelled", "out"),
    ),
    "fit-gate": Command(
        summary="learn which films may be scored at all",
        run=_fit_gate,
        options="nofinding.model.input_gate:FitGateOptions",
    ),
    "import-official": Command(
        summary="a model from a published Diff3M checkpoint",
        run=_import_official,
        options="nofinding.workflows.import_official:ImportOptions",
        positionals=(
            Positional(dest="checkpoint", metavar="CHECKPOINT", help=".safetensors or .pt"),
        ),
    ),
}
