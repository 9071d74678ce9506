"""Every command, and its parser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nofinding.cli import clinic, core, data, models, setup
from nofinding.cli.command import Command
from nofinding.errors import UserError

if TYPE_CHECKING:
    from nofinding.cli.parser import Parser

__all__ = ["BY_GROUP", "COMMANDS", "parser_of"]

BY_GROUP: dict[str, dict[str, Command]] = {
    "core": core.COMMANDS,
    "data": data.COMMANDS,
    "models": models.COMMANDS,
    "clinic": clinic.COMMANDS,
    "setup": setup.COMMANDS,
}
COMMANDS: dict[str, Command] = {
    name: command for group in BY_GROUP.values() for name, command in group.items()
}


def parser_of(name: str, method: str | None = None, preset: str | None = None) -> Parser:
    """The parser of one command; for fit, with the options of a method as a preset sets them."""
    command = COMMANDS[name]
    if command.before is not None:
        command.before()
    from nofinding.cli.parser import arrange, make_parser

    parser = make_parser(name, command)
    if name == "fit":
        _add_method(parser, method, preset or "small")
    arrange(parser, command.first)
    return parser


def _add_method(parser: Parser, method: str | None, preset: str) -> None:
    """METHOD, and the options of the method that is named."""
    from nofinding.methods import METHODS

    names = f"one of {', '.join(METHODS)}"
    parser.add_argument(
        "method_name", metavar="METHOD", nargs="?", default=core.DEFAULT, help=names
    )
    if method is None:
        return
    presets = METHODS[method].PRESETS
    if preset not in presets:
        raise UserError(f"--preset {preset}: {method} has {', '.join(presets)}")
    config = METHODS[method].Config
    parser.add_argument("--method", type=config, default=presets[preset], help=f"of {method}")
