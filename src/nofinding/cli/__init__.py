"""The command line: each command is a dataclass of options and one use case.

`nofinding COMMAND --help` is made from the docstrings under the dataclasses' fields.
"""

from nofinding.cli.entry import main
from nofinding.cli.method_name import completed
from nofinding.cli.registry import COMMANDS, parser_of

__all__ = ["COMMANDS", "completed", "main", "parser_of"]
