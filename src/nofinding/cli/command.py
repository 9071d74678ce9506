"""What a command is: its options, what it runs, and where it stands in the help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from nofinding.cli.parser import Parser

__all__ = ["GROUPS", "Command", "Positional", "options_from"]

GROUPS = {
    "core": "fit a model, score films, and judge the scores",
    "data": "where films come from, and films made ready",
    "models": "what can be fitted, and models from elsewhere",
    "clinic": "beside a PACS: DICOM, FHIR, the service, privacy",
    "text": "reports and letters",
    "setup": "what works on this machine, and completion in the shell",
}
"""Of commands, in the order of the help, each with what it is for."""


@dataclass(frozen=True, kw_only=True)
class Positional:
    """An argument without a name."""

    dest: str
    metavar: str
    help: str | Callable[[], str]
    nargs: str | None = None
    kind: Any = str


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of the program. Nothing is imported for it before it is asked for."""

    summary: str
    """One line of `nofinding --help`."""
    run: Callable[[Parser, Namespace], None]
    """Does it, with what was parsed."""
    options: str | None = None
    """MODULE:CLASS of the dataclass of its options; None: there are none."""
    about: str = ""
    """First line of its own help; the dataclass's docstring has it where there is one."""
    positionals: tuple[Positional, ...] = ()
    first: tuple[str, ...] = ()
    """Fields that matter most, in the order of its help."""
    required: tuple[str, ...] = ()
    """Fields that must be given, although the dataclass has a default for them."""
    before: Callable[[], None] | None = None
    """Raises UserError where the command cannot work here at all."""

    def options_class(self) -> type | None:
        """The dataclass of its options."""
        if self.options is None:
            return None
        module, _, name = self.options.partition(":")
        cls: type = getattr(import_module(module), name)
        return cls


def options_from(cls: type, parsed: Namespace) -> Any:
    """The dataclass with what was parsed for its fields."""
    fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
    values = {name: value for name, value in vars(parsed).items() if name in fields}
    for name, value in values.items():
        if isinstance(fields[name].default, tuple) and isinstance(value, list):
            values[name] = tuple(value)
    return cls(**values)
