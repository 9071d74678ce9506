"""The command line, a file a group of commands."""

from nofinding.cli.main import COMMANDS, completed, main, parser_of

__all__ = ["COMMANDS", "completed", "main", "parser_of"]
