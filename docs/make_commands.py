"""Writes docs/commands/, a page a command, from the parsers: it says what `--help` says.

Run it after any change of an option or a source:

    .venv/bin/python docs/make_commands.py
"""

import typing
from argparse import SUPPRESS, Action
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nofinding.cli import COMMANDS, parser_of
from nofinding.datasets import SOURCES

__all__ = [
    "documented",
    "is_of_method",
    "options_table",
    "pages",
    "presets_table",
    "table",
    "write",
]

FOLDER = Path(__file__).with_name("commands")
GENERATED = (
    "<!-- Generated: do not edit. After a change run: .venv/bin/python docs/make_{name}.py -->\n"
)
INDEX = """\
# Commands

{generated}
Each command has a page with all of its options, as the program itself states them.
`nofinding COMMAND --help` says the same. You can keep options in a YAML file and pass it as
`--config FILE.yaml`; `--print_config` prints such a file. `nofinding --version` prints the version.

{commands}
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 2 | the input is wrong: one line says what, and nothing is left half-written |
| 130 | interrupted by Ctrl-C |
| 143 | stopped by SIGTERM |

A long `score` keeps what it has finished, and the same command
[continues from there](../archives.md).

## Sources

Every `--films` takes `SOURCE:PATH`.

{sources}
[table](../tutorial.md#the-table), [phantom](../phantom.md) and [synthetic](../synthetic.md) explain
what stands after the colon; [public datasets](../cohorts.md) covers the rest. The fields of the
EHR are [on a page of their own](../ehr.md).
"""
WORDS = {  # for the two that jsonargparse describes at length, or in passing
    "print_config": "Prints the options that result from all the others, as YAML, and ends.",
    "method": "YAML file with the options below.",
    "method.train": "YAML file with the options below that begin so.",
    "method.refine": "YAML file with the options below that begin so.",
}
TAKES = {int: "whole number", float: "number", str: "text", Path: "path", bool: "true, false"}


def pages() -> dict[str, str]:
    """File name -> text of every page of docs/commands/."""
    parsers = {command: parser_of(command) for command in COMMANDS}
    rows = [
        (f"[nofinding {command}]({command}.md)", _sentence(str(parser.description)))
        for command, parser in parsers.items()
    ]
    sources = [(f"`{name}:`", _sentence(source.summary)) for name, source in SOURCES.items()]
    index = INDEX.format(
        generated=GENERATED.format(name="commands"),
        commands=table(("command", "what it does"), rows),
        sources=table(("source", "what it reads"), sources),
    )
    return {"index.md": index} | {f"{c}.md": _page(c, parser) for c, parser in parsers.items()}


def _page(command: str, parser: Any) -> str:
    actions = [a for a in documented(parser) if command != "fit" or not is_of_method(a)]
    more = (
        "\nOptions that begin with `--method.` belong to the method: see the page of "
        "[the method](../methods/index.md).\n"
        if command == "fit"
        else ""
    )
    return (
        f"# nofinding {command}\n\n{GENERATED.format(name='commands')}\n"
        f"{_sentence(str(parser.description))}\n\n{options_table(actions)}{more}"
    )


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes the pages, and removes those of what is there no longer."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def documented(parser: Any) -> list[Action]:
    """What a user may write after the command: every option and positional but --help."""
    return [a for a in parser._actions if a.help != SUPPRESS and a.dest != "help"]


def is_of_method(action: Action) -> bool:
    """Whether an option of `fit` belongs to the method."""
    return action.dest.split(".")[0] == "method"


def options_table(actions: list[Action]) -> str:
    """Markdown: a row an option."""
    if not actions:
        return "No options.\n"
    rows = [(_name(a), _takes(a), _default(a), _words(a)) for a in actions]
    return table(("option", "takes", "default", "what it is"), rows)


def _name(action: Action) -> str:
    if action.option_strings:
        return f"`{', '.join(action.option_strings)}`"
    return f"`{str(action.metavar or action.dest).upper()}`"


def _takes(action: Action) -> str:
    hint = getattr(action, "_typehint", None) or action.type
    if action.dest == "print_config":
        return "nothing"
    if hint is None:
        return "YAML file" if action.option_strings else "name"
    several = "one or more: " if action.nargs in ("+", "*") else ""
    return several + _kind(hint)


def _kind(hint: Any) -> str:
    if hint in TAKES:
        return TAKES[hint]
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(str(value) for value in inside)
    if typing.get_origin(hint) is tuple:
        return "`[1,2,...]`"
    rest = [part for part in inside if part is not type(None)]
    return _kind(rest[0]) if len(rest) == 1 else "text"


def _default(action: Action) -> str:
    if action.required and action.nargs != "*":
        return "required"
    return _value(action.default)


def _value(value: Any) -> str:
    if value is None or value == SUPPRESS or value == []:
        return ""
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, tuple):
        return "`[" + ",".join(str(part) for part in value) + "]`"
    return f"`{value}`"


def _words(action: Action) -> str:
    own = None if hasattr(action, "_typehint") else WORDS.get(action.dest)
    return own or _sentence(action.help)


def _sentence(words: str | None) -> str:
    """The help on one line, with a full stop."""
    line = " ".join((words or "").split())
    return line if not line or line[-1] in ".)" else f"{line}."


def presets_table(presets: Mapping[str, Any]) -> str:
    """Markdown: what each preset changes."""
    flat = {name: dict(_flat(asdict(config))) for name, config in presets.items()}
    rows = []
    for name, config in flat.items():
        # "paper-program" is compared with "paper", all others with the defaults.
        size, dash, _ = name.partition("-")
        base = size if dash and size in flat else ""
        other = flat[base or "small"]
        changed = ", ".join(f"{k} {_value(v)}" for k, v in config.items() if v != other[k])
        differs = (
            f"as `{base}`, but {changed}" if base else changed or "nothing: the defaults above"
        )
        rows.append((f"`{name}`", differs))
    return table(("preset", "differs in"), rows)


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [titles, ("---",) * len(titles), *rows]
    return "".join("| " + " | ".join(c.replace("|", "\\|") for c in r) + " |\n" for r in lines)


if __name__ == "__main__":
    write(FOLDER, pages())
