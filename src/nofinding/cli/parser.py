"""Parsers, made from the dataclasses of options.

jsonargparse reads the dataclasses, their docstrings and YAML files. What is ours: options with
dashes, flags as --maps and --no-maps, groups in the help, and what is said of a wrong argument.
"""

from __future__ import annotations

import typing
from argparse import Action, ArgumentError, _ArgumentGroup
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from nofinding.cli.command import Command
from nofinding.cli.wording import allowed, dashed, did_you_mean, name_of, negated
from nofinding.errors import UserError
from nofinding.ranges import range_of

__all__ = ["Parser", "arrange", "make_parser"]

PRINT = ("--print-config", "--print_config")
TRUTH = ("true", "false", "yes", "no")
MAIN = "what matters most"
TOPICS = {
    "sending results": ("peer", "peers", "stow", "send_fhir", "login", "ca", "title"),
    "records": (
        *(
            "ehr",
            "record",
            "window",
            "direction",
            "zone",
            "patient_system",
            "missing_fields",
            "fields",
        ),
        *("fields_file",),
    ),
    "computing": (
        *("accelerator", "devices", "threads", "workers", "batch_size", "precision", "runtime"),
        *("engine", "address", "shard", "jobs", "cache", "memory", "seed"),
    ),
}
CONFIG = "configuration"


class _Formatter(DefaultHelpFormatter):
    """Shows a flag with what turns it off, and not that it is true or false."""

    def _format_action_invocation(self, action: Action) -> str:
        if _is_flag(action):
            return ", ".join(action.option_strings)
        return str(super()._format_action_invocation(action))


class Parser(ArgumentParser):
    """A parser that takes arguments as they are typed, and says what is wrong in those words."""

    command = ""
    help_groups: Sequence[_ArgumentGroup] = ()

    def format_help(self, *formatter: Any) -> str:
        """The help, its options sorted by topic."""
        own = self._action_groups
        self._action_groups = [*self.help_groups] or own  # type: ignore[list-item]
        try:
            return str(super().format_help(*formatter))
        finally:
            self._action_groups = own

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises UserError, on one line: every fault of arguments is the user's to mend."""
        if isinstance(ex, ArgumentError) and ex.argument_name:
            message = f"{ex.argument_name}: {ex.message}"
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        raise UserError(" ".join(lines)) from None

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] = (), *rest: Any, **more: Any
    ) -> Namespace:
        """What was given, by field. Raises UserError."""
        return super().parse_args(self._as_one(self._plain(args)), *rest, **more)

    def validate(self, namespace: Namespace, *rest: Any, **more: Any) -> None:
        """Raises UserError where a value is not allowed, or one is missing."""
        if not more.get("skip_required"):
            missing = [a for a in self._actions if a.required and namespace.get(a.dest) is None]
            if missing:
                names = ", ".join(name_of(action) for action in missing)
                raise UserError(f"the following arguments are required: {names}")
        super().validate(namespace, *rest, **more)

    def require_known(self, content: Mapping[Any, Any], file: str, before: str = "") -> None:
        """Raises UserError where a mapping of a config file has a key that is no option."""
        keys = {a.dest.removeprefix(before) for a in self._actions if a.dest.startswith(before)}
        for key, value in content.items():
            if not isinstance(key, str) or key in ("config", "help") or key not in keys:
                near = did_you_mean(str(key), keys)
                raise UserError(f"{file}: {before}{key}: {self.command} has no such option{near}")
            if isinstance(value, Mapping):
                self.require_known(value, file, f"{before}{key}.")

    def _plain(self, arguments: Sequence[str]) -> list[str]:
        """Every flag with its value, and no option that there is none of."""
        options = self._option_string_actions
        plain: list[str] = []
        for place, argument in enumerate(arguments):
            name, equals, value = argument.partition("=")
            after = arguments[place + 1] if place + 1 < len(arguments) else ""
            if argument == "--":
                return [*plain, *arguments[place:]]
            if name in PRINT:
                plain.append(f"{PRINT[-1]}={value}")
                continue
            if name.startswith("--") and name not in options:
                near = did_you_mean(name, options)
                raise UserError(f"{name}: {self.command} has no such option{near}")
            if name.startswith("--") and not equals and _is_flag(options[name]):
                on, off = options[name].option_strings
                if after.lower() in TRUTH:
                    raise UserError(f"{name} {after}: write {on} or {off}, without a value")
                argument = f"{on}={'false' if name == off else 'true'}"
            plain.append(argument)
        return plain

    def _as_one(self, plain: Sequence[str]) -> list[str]:
        """The same, each option that takes several words once: `--films A --films B` is both, and
        not the last alone."""
        current: list[str] = []
        groups, several = [current], dict[str, list[str]]()
        for place, word in enumerate(plain):
            if word == "--":
                groups.append(list(plain[place:]))
                break
            name, equals, value = word.partition("=")
            action = self._option_string_actions.get(name) if name.startswith("--") else None
            if action is None:
                current.append(word)
                continue
            if action.nargs != "+":
                current = [word]
                groups.append(current)
                continue
            if name not in several:
                several[name] = [name]
                groups.append(several[name])
            current = several[name]
            current += [value] * bool(equals)
        return [word for group in groups for word in group]


def _is_flag(action: Action) -> bool:
    return getattr(action, "_typehint", None) is bool


def make_parser(name: str, command: Command) -> Parser:
    """The parser of a command, but for `arrange`: options of a method may be added to it."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    cls = command.options_class()
    about = command.about or ((cls.__doc__ or "").strip().splitlines()[0] if cls else "")
    parser = Parser(
        prog=f"nofinding {name}",
        description=about,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.command = name
    for one in command.positionals:
        words = one.help if isinstance(one.help, str) else one.help()
        nargs: dict[str, Any] = {} if one.nargs is None else {"nargs": one.nargs}
        action = parser.add_argument(
            one.dest, type=one.kind, metavar=one.metavar, help=words, **nargs
        )
        if one.nargs == "*":
            action.required, action.default = False, []
    if cls is not None:
        config = "YAML file with any of these options"
        parser.add_argument("--config", action="config", help=config)
        parser.add_class_arguments(cls, as_group=False)
        for action in parser._actions:
            action.required |= action.dest in command.required
            _take_several(action)
    return parser


def arrange(parser: Parser, first: Sequence[str]) -> None:
    """Gives options their dashes, flags their second name, and the help its groups."""
    for action in parser._actions:
        _dash(parser, action)
        if hasattr(action, "_typehint"):
            _say_what_is_wrong(action)
    _group(parser, first)
    actions = sorted(parser._actions, key=lambda action: bool(action.option_strings))
    places = [place for action in actions if (place := _place(action))]
    parser.usage = " ".join([parser.prog, *places, "[OPTION...]"])


def _place(action: Action) -> str:
    """An argument in the line of usage, if it stands there: "[FILE...]", "--out OUT"."""
    if action.option_strings:
        return f"{name_of(action)} {dashed(action.dest).upper()}" if action.required else ""
    name = name_of(action) + ("..." if action.nargs in ("*", "+") else "")
    return f"[{name}]" if action.nargs in ("*", "?") else name


def _take_several(action: Action) -> None:
    """Lets an option whose field is a list take several words: --films A B."""
    hint: Any = getattr(action, "_typehint", None)
    parts = [hint, *typing.get_args(hint)]
    kinds = [p for p in parts if typing.get_origin(p) in (list, tuple)]
    if kinds and action.option_strings:
        action.nargs = "+"
        action.metavar = action.dest.upper()
        action.option_strings = action.option_strings[:1]  # no --films+
        one, limits = typing.get_args(kinds[0])[0], range_of(hint)
        one = one if limits is None else Annotated[one, limits]
        action._typehint = one  # type: ignore[attr-defined]
        if isinstance(action.default, tuple):
            action.default = list(action.default)


def _dash(parser: Parser, action: Action) -> None:
    """Renames an option in place: jsonargparse calls it as the field is called."""
    known = parser._option_string_actions
    for old in [key for key, value in known.items() if value is action]:
        del known[old]
    if action.dest.startswith("print_config") or PRINT[-1] in action.option_strings:
        names = list(PRINT)
    else:
        names = [dashed(name) for name in action.option_strings]
        if _is_flag(action):
            names = [names[0], negated(names[0])]
    if action.option_strings:
        action.option_strings = names
        known.update(dict.fromkeys(names, action))


def _say_what_is_wrong(action: Action) -> None:
    """Has a wrong value refused with the option, the value and what is allowed."""
    check = action._check_type  # type: ignore[attr-defined]
    hint = action._typehint  # type: ignore[attr-defined]
    limits = range_of(hint)
    if limits is not None:
        hint = action._typehint = typing.get_args(hint)[0]  # type: ignore[attr-defined]
        action.help = f"{action.help} Allowed: {limits}."

    def checked(value: Any, append: bool = False, cfg: Any = None, mode: Any = None) -> Any:
        try:
            checked_value = check(value, append=append, cfg=cfg, mode=mode)
        except (TypeError, ValueError):
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            raise UserError(f"{name_of(action)} {shown}: is not {allowed(hint)}") from None
        if limits is not None:
            limits.require(name_of(action), checked_value)
        return checked_value

    action._check_type = checked  # type: ignore[attr-defined]


def _group(parser: Parser, first: Sequence[str]) -> None:
    """Sorts the options into the groups of the help: what matters most, topics, the rest."""
    actions = [a for a in parser._actions if a.option_strings]
    plain = [a for a in actions if "." not in a.dest and a.dest != "method"]
    fields = [a for a in plain if hasattr(a, "_typehint")]
    by_name = {a.dest: a for a in fields}
    main = [by_name[name] for name in first] or [a for a in fields if a.required]
    main += [a for a in fields if a not in main and a.required]
    main = main if len(fields) > 5 else fields
    groups = {"arguments": [a for a in parser._actions if not a.option_strings], MAIN: main}
    rest = [a for a in fields if a not in main]
    topics = {title: [a for a in rest if a.dest in names] for title, names in TOPICS.items()}
    sorted_out = [a for members in topics.values() for a in members]
    groups["more options"] = [a for a in rest if a not in sorted_out]
    groups |= topics
    groups["options of the method"] = [a for a in actions if a not in plain]
    groups[CONFIG] = [a for a in plain if a not in fields]
    parser.help_groups = [_titled(parser, title, members) for title, members in groups.items()]


def _titled(parser: Parser, title: str, members: list[Action]) -> _ArgumentGroup:
    """A group of the help. The parser's own groups stay: by them it makes a method's Config."""
    group = _ArgumentGroup(parser, title)
    group._group_actions = members
    return group
