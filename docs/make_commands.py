"""Writes docs/commands.md from the parsers, so that it says what `--help` says.

Run it after any change of an option, a preset, a source or a record field:

    .venv/bin/python docs/make_commands.py
"""

import typing
from argparse import SUPPRESS, Action
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nofinding.cli import COMMANDS, parser_of
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.methods import METHODS

HEADER = """\
# Commands

<!-- Generated: do not edit. After a change run: .venv/bin/python docs/make_commands.py -->

Every command, option, method, preset, source and record field, as the program itself states
them. `nofinding COMMAND --help` says the same. Options may stand in a YAML file, given by
`--config FILE.yaml`; `--print_config` prints such a file. `nofinding --version` prints the version.

Exit codes: 0 done; 2 something is wrong with what was given (one line says what), and nothing was
left half-written (a long `score` keeps what it has, [to go on](archives.md)); 130 interrupted by
Ctrl-C; 143 stopped by SIGTERM.
"""
WORDS = {  # for the two that jsonargparse describes at length, or in passing
    "print_config": "Prints the options that result from all the others, as YAML, and ends.",
    "method": "YAML file with the options below.",
    "method.train": "YAML file with the options below that begin so.",
    "method.refine": "YAML file with the options below that begin so.",
}
TAKES = {int: "whole number", float: "number", str: "text", Path: "path", bool: "true, false"}


def text() -> str:
    """The whole of docs/commands.md."""
    parts = [HEADER, _contents()]
    for command in COMMANDS:
        method = next(iter(METHODS)) if command == "fit" else None
        parser = parser_of(command, method)
        actions = documented(parser)
        if method:  # the options of a method stand under its name
            actions = [a for a in actions if not _of_method(a)]
        parts.append(f"## nofinding {command}\n\n{parser.description}\n\n{_options(actions)}")
    parts.append("## Methods\n\n" + "\n".join(_method(name) for name in METHODS))
    parts.append(_sources())
    parts.append(_fields())
    return "\n".join(parts)


def documented(parser: Any) -> list[Action]:
    """What a user may write after the command: every option and positional but --help."""
    return [a for a in parser._actions if a.help != SUPPRESS and a.dest != "help"]


def _of_method(action: Action) -> bool:
    return action.dest.split(".")[0] == "method"


def _contents() -> str:
    headings = [f"nofinding {c}" for c in COMMANDS] + ["Methods", "Sources", "Record fields"]
    return "\n".join(f"- [{h}](#{h.lower().replace(' ', '-')})" for h in headings) + "\n"


def _options(actions: list[Action]) -> str:
    if not actions:
        return "No options.\n"
    rows = [(_name(a), _takes(a), _default(a), _words(a)) for a in actions]
    return _table(("option", "takes", "default", "what it is"), rows)


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


def _method(name: str) -> str:
    cls = METHODS[name]
    actions = [a for a in documented(parser_of("fit", name, "small")) if _of_method(a)]
    return (
        f"### {name}\n\n{cls.summary}. Paper: {cls.paper}. Supervision: {cls.supervision}.\n\n"
        f"{_options(actions)}\nPresets, and what each changes:\n\n{_presets(cls.PRESETS)}"
    )


def _presets(presets: Mapping[str, Any]) -> str:
    flat = {name: dict(_flat(asdict(config))) for name, config in presets.items()}
    rows = []
    for name, config in flat.items():
        # "paper-program" is told from "paper", everything else from the defaults.
        size, dash, _ = name.partition("-")
        base = size if dash and size in flat else ""
        other = flat[base or "small"]
        changed = ", ".join(f"{k} {_value(v)}" for k, v in config.items() if v != other[k])
        changes = (
            f"as `{base}`, but {changed}" if base else changed or "nothing: the defaults above"
        )
        rows.append((f"`{name}`", changes))
    return _table(("preset", "differs in"), rows)


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _sources() -> str:
    rows = [(f"`{name}:`", _sentence(source.summary)) for name, source in SOURCES.items()]
    notes = (
        "[table](tutorial.md#the-table), [phantom](phantom.md) and [synthetic](synthetic.md) say\n"
        "what stands after the colon."
    )
    return f"## Sources\n\n{_table(('source', 'what it reads'), rows)}\n{notes}\n"


def _fields() -> str:
    rows = [
        (
            f"`{name}`",
            field.kind,
            field.unit or ", ".join(field.categories),
            field.loinc or "",
            "" if field.low is None else f"{field.low:g} to {field.high:g}",
        )
        for name, field in FIELDS.items()
    ]
    titles = ("field", "kind", "unit or categories", "LOINC", "plausible")
    return (
        f"## Record fields\n\n{_table(titles, rows)}\n"
        "A value outside the plausible range is left out and flagged. Others are added in a YAML "
        "file: [adding a record field](adding.md#a-record-field).\n"
    )


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "".join("| " + " | ".join(c.replace("|", "\\|") for c in r) + " |\n" for r in lines)


if __name__ == "__main__":
    Path(__file__).with_name("commands.md").write_text(text(), encoding="utf-8")
