"""Which method a `fit` names, read ahead: the method decides which further options there are."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nofinding.cli.core import DEFAULT
from nofinding.cli.wording import did_you_mean
from nofinding.errors import UserError

__all__ = ["completed", "method_and_preset", "read_config", "values_of"]

SEVERAL = ("--films", "--others", "--fields")  # take words up to the next option
FLAGS = ("--resume", "--no-resume", "--print-config", "--print_config")


def completed(command: str, arguments: Sequence[str]) -> list[str]:
    """What was given, with the method first, wherever it stands; the default where none does."""
    if command != "fit" or ({"-h", "--help"} & set(arguments) and not _places(arguments)):
        return list(arguments)
    if places := _places(arguments):
        place = places[0]
        return [arguments[place], *arguments[:place], *arguments[place + 1 :]]
    if arguments and arguments[0].startswith("--"):
        return [DEFAULT, *arguments]
    return list(arguments)


def _places(arguments: Sequence[str]) -> list[int]:
    """Where a method stands that is no option's value: `--out ae` is a folder."""
    from nofinding.methods import METHODS

    return [
        place
        for place, word in enumerate(arguments)
        if word in METHODS and not _takes(arguments[place - 1] if place else "", word)
    ]


def _takes(option: str, method: str) -> bool:
    """Whether the word before takes the next one as its value."""
    if not option.startswith("--") or "=" in option or option in FLAGS:
        return False
    return not (option.startswith("--method.") and _is_flag(option, method))


def _is_flag(option: str, method: str) -> bool:
    """Whether an option of the method is a flag."""
    from nofinding.methods import METHODS

    hint: Any = METHODS[method].Config
    for part in option.removeprefix("--method.").split("."):
        name = part.removeprefix("no-").replace("-", "_")
        hint = typing.get_type_hints(hint).get(name) if isinstance(hint, type) else None
    return hint is bool


def method_and_preset(arguments: Sequence[str]) -> tuple[str | None, str | None]:
    """The method and the preset of what `completed` gave. Raises UserError."""
    from nofinding.methods import METHODS

    if {"-h", "--help"} & set(arguments) and arguments[0].startswith("-"):
        return None, None
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"fit: name the method, one of {', '.join(METHODS)}")
    method = arguments[0]
    if method not in METHODS:
        near = did_you_mean(method, METHODS)
        raise UserError(f"fit {method}: not a method{near or '; there are ' + ', '.join(METHODS)}")
    preset = "small"
    for file in values_of("--config", arguments):
        preset = str(read_config(Path(file)).get("preset", preset))
    for name in values_of("--preset", arguments):
        preset = name
    return method, preset


def values_of(option: str, arguments: Sequence[str]) -> list[str]:
    """What was given to an option, as "--option value" or "--option=value"."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=False)
    values = [value for name, value in pairs if name == option]
    return values + [a.removeprefix(option + "=") for a in arguments if a.startswith(option + "=")]


def read_config(file: Path) -> dict[Any, Any]:
    """What a config file holds. Raises UserError where it is absent or maps nothing: the parser
    would pass on whatever the YAML library raises."""
    from nofinding.storage.plain_yaml import read_yaml

    content = read_yaml(file)
    if not isinstance(content, dict):
        raise UserError(f"--config {file}: must map options to their values")
    return content
