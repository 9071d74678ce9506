"""Scripts that complete commands, options and choices in a shell.

They hold every word: to complete a line, the shell starts no program.
"""

from __future__ import annotations

import shlex
import typing
from argparse import Action
from dataclasses import dataclass
from typing import Any

from nofinding.cli.registry import COMMANDS, parser_of
from nofinding.errors import UserError

__all__ = ["Words", "script", "words_of"]


@dataclass(frozen=True)
class Words:
    """What may follow a command."""

    summary: str
    options: dict[str, tuple[str, ...]]
    """Every option, with its choices; none: a flag, or what cannot be listed."""
    flags: frozenset[str]
    """Options that take no value."""
    names: tuple[str, ...]
    """What may stand without an option: methods, shells."""


def words_of(name: str) -> Words:
    """The words of one command; no options where it needs what is not installed."""
    summary = COMMANDS[name].summary
    try:
        parser = parser_of(name)
    except UserError:
        return Words(summary, {}, frozenset(), ())
    options: dict[str, tuple[str, ...]] = {}
    flags: set[str] = set()
    names: tuple[str, ...] = ()
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        for option in action.option_strings:
            options[option] = _choices(hint)
            if hint is bool or not _takes_value(action):
                flags.add(option)
        if not action.option_strings:
            names += _choices(hint)
    return Words(summary, options, frozenset(flags), names + _names(name))


def _takes_value(action: Action) -> bool:
    return hasattr(action, "_typehint") or action.dest == "config"


def _names(command: str) -> tuple[str, ...]:
    """What is listed elsewhere than in a type."""
    from nofinding.datasets.examples import EXAMPLES
    from nofinding.methods import METHODS
    from nofinding.recipes import recipes

    lists = {"fit": METHODS, "recipes": recipes(), "example": EXAMPLES}
    return tuple(lists.get(command, ()))


def _choices(hint: Any) -> tuple[str, ...]:
    """The values of a type that has few."""
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return tuple(str(value) for value in inside)
    return tuple(choice for part in inside for choice in _choices(part))


def script(shell: str) -> str:
    """The script for bash, zsh or fish."""
    words = {name: words_of(name) for name in COMMANDS}
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](words)


def _cases(words: dict[str, Words]) -> tuple[list[str], list[str]]:
    """Lines of two `case`s that bash and zsh have in common: after an option, and in a command."""
    after, within = [], []
    for name, one in words.items():
        for option, choices in one.options.items():
            if choices:
                after.append(f'    "{name} {option}") values="{" ".join(choices)}" ;;')
        within.append(
            f'    {name}) options="{" ".join(one.options)}" names="{" ".join(one.names)}" ;;'
        )
    return after, within


def _bash(words: dict[str, Words]) -> str:
    after, within = _cases(words)
    return "\n".join([
        "_nofinding() {",
        '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
        '  local command="${COMP_WORDS[1]}" values="" options="" names=""',
        "  if [ \"$COMP_CWORD\" -eq 1 ]; then",
        f'    COMPREPLY=($(compgen -W "{" ".join(words)} --help --version" -- "$word")); return',
        "  fi",
        '  case "$command $before" in', *after, "  esac",
        '  if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$word")); return; fi',
        '  case "$command" in', *within, "  esac",
        '  case "$word" in',
        '    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;',
        '    *) COMPREPLY=($(compgen -W "$names" -- "$word") $(compgen -f -- "$word")) ;;',
        "  esac",
        "}",
        "complete -o filenames -F _nofinding nofinding",
    ])  # fmt: skip


def _zsh(words: dict[str, Words]) -> str:
    after, within = _cases(words)
    return "\n".join([
        "#compdef nofinding",
        "_nofinding() {",
        '  local command="$words[2]" before="$words[CURRENT-1]" values="" options="" names=""',
        "  if (( CURRENT == 2 )); then",
        f"    compadd -- {' '.join(words)} --help --version; return",
        "  fi",
        '  case "$command $before" in', *after, "  esac",
        '  if [[ -n "$values" ]]; then compadd -- ${=values}; return; fi',
        '  case "$command" in', *within, "  esac",
        '  if [[ "$PREFIX" == -* ]]; then compadd -- ${=options}',
        "  else compadd -- ${=names}; _files; fi",
        "}",
        "compdef _nofinding nofinding",
    ])  # fmt: skip


def _fish(words: dict[str, Words]) -> str:
    lines = ["complete -c nofinding -n __fish_use_subcommand -f"]
    for name, one in words.items():
        about = shlex.quote(one.summary)
        lines.append(f"complete -c nofinding -n __fish_use_subcommand -a {name} -d {about}")
        inside = f"complete -c nofinding -n '__fish_seen_subcommand_from {name}'"
        if one.names:
            lines.append(f"{inside} -a {shlex.quote(' '.join(one.names))}")
        for option, choices in one.options.items():
            if not option.startswith("--"):
                continue
            values = f" -x -a {shlex.quote(' '.join(choices))}" if choices else " -r"
            lines.append(f"{inside} -l {option[2:]}{'' if option in one.flags else values}")
    return "\n".join(lines)
