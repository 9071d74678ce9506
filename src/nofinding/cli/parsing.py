"""What the commands share: how a parser is made of a dataclass, and how arguments are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nofinding.errors import UserError
from nofinding.storage.file_names import as_path, printed

if TYPE_CHECKING:  # a command imports what it needs, so that --help does not wait for torch
    from jsonargparse import ArgumentParser, Namespace
    from rich.text import Text

Command = tuple[
    Callable[["ArgumentParser", "Namespace"], None],
    Callable[[str | None, str | None], "ArgumentParser"],
]
"""What runs a command, and what makes its parser, given a method and a preset."""

__all__ = [
    "Command",
    "as_typed",
    "config_in",
    "first_line",
    "listing_parser",
    "new_parser",
    "one_line",
    "options_of",
    "plain_cells",
    "values_of",
    "with_options",
    "with_paths",
    "with_true",
]

SWITCHES = (
    "--resume",
    "--only_called",
    "--maps",
    "--overwrite",
    "--matched",
    "--pictures",
    "--follow_links",
    "--segmentation",
    "--fhir",
    "--store",
    "--keep_films",
    "--characteristics",
    "--dates",
)  # options that are true or false

WRONG_VALUE = re.compile(
    r'Parser key "([^"]+)": (?:Expected a (.*?)\. Got|Does not .*Subtypes: (.*?) Errors: .*Given)'
    r" value: (.*)"
)
KINDS = {"<class 'int'>": "a whole number", "<class 'float'>": "a number",
         "<class 'bool'>": "true or false"}  # fmt: skip


def new_parser(name: str, about: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(prog=f"nofinding {name}", description=about, exit_on_error=False)


def first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def with_options(parser: ArgumentParser, cls: type, lists: Sequence[str] = ()) -> None:
    """The dataclass's fields as options, and --config; `lists` take several values after one."""
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(cls, as_group=False, skip=set(lists))


def listing_parser(name: str, about: str) -> Callable[[str | None, str | None], ArgumentParser]:
    return lambda method, preset: new_parser(name, about)


def options_of(cls: type, parsed: Namespace, drop: Sequence[str]) -> Any:
    values = {k: v for k, v in vars(parsed).items() if k not in ("config", *drop)}
    return cls(**values)


def plain_cells(*cells: str) -> list[Text]:
    """The cells as they are: a bracket in a film's name is no markup."""
    from rich.text import Text

    return [Text(printed(cell)) for cell in cells]


def values_of(option: str, arguments: Sequence[str]) -> list[str]:
    """What was given to an option, as "--option value" or "--option=value"."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=False)
    values = [value for name, value in pairs if name == option]
    return values + [a.removeprefix(option + "=") for a in arguments if a.startswith(option + "=")]


def config_in(file: Path) -> dict[Any, Any]:
    """What a config file holds. Raises UserError where it is absent or maps nothing: the parser
    would pass on whatever the YAML library raises."""
    from nofinding.storage.plain_yaml import read_yaml

    content = read_yaml(file)
    if not isinstance(content, dict):
        raise UserError(f"--config {file}: must map options to their values")
    return content


def with_true(arguments: Sequence[str]) -> list[str]:
    """Lets a switch stand alone: --resume means --resume true."""
    out: list[str] = []
    for argument, after in zip(arguments, [*arguments[1:], "-"], strict=False):
        out.append(argument)
        if argument in SWITCHES and after.lower() not in ("true", "false", "yes", "no"):
            out.append("true")
    return out


def with_paths(parsed: Any) -> Any:
    """What was parsed as text, with paths byte for byte: the parser knows UTF-8 alone."""
    from jsonargparse import Namespace

    if isinstance(parsed, Namespace):
        return Namespace(  # type: ignore[no-untyped-call]
            **{key: with_paths(value) for key, value in vars(parsed).items()}
        )
    if isinstance(parsed, list):
        return [with_paths(value) for value in parsed]
    if isinstance(parsed, Path):
        return Path(as_path(str(parsed)))
    return as_path(parsed) if isinstance(parsed, str) else parsed


def as_typed(message: str, parser: ArgumentParser) -> str:
    """What the parser says of arguments, with their names as one types them: its own are those of
    Python's variables and types."""
    shown = {
        action.dest: action.option_strings[-1] if action.option_strings else str(action.metavar)
        for action in parser._actions
    }
    missing = "the following arguments are required: "
    if message.startswith(missing):
        names = message.removeprefix(missing).split(", ")
        return missing + ", ".join(shown.get(name, name) for name in names)
    if wrong := WRONG_VALUE.fullmatch(message):
        name, kind, value = wrong[1], wrong[2] or wrong[3], wrong[4]
        choices = re.findall(r"'([^']*)'", re.sub(r"<class '\w+'>", "", kind))
        kinds = [text for one, text in KINDS.items() if one in kind]
        allowed = f"one of {', '.join(choices)}" if choices else " or ".join(kinds) or kind
        return f"{shown.get(name, '--' + name)} {value}: is not {allowed}"
    return message


def one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)
