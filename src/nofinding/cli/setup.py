"""The commands about this machine: doctor, completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nofinding.cli.command import Command, Positional

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from nofinding.cli.parser import Parser

__all__ = ["COMMANDS"]


def _doctor(parser: Parser, parsed: Namespace) -> None:
    from nofinding.cli.tables import print_table
    from nofinding.workflows.doctor import examine

    checks = examine()
    print_table(("", "what", "state"), [(one.sign, one.what, one.state) for one in checks])
    if any(one.sign == "BROKEN" for one in checks):
        raise SystemExit(2)


def _completion(parser: Parser, parsed: Namespace) -> None:
    from nofinding.cli.completion import script

    print(script(parsed.shell))


COMMANDS = {
    "doctor": Command(
        summary="what is installed, and what works here",
        about="Says what is installed and what works here; exit code 2 where something is broken.",
        run=_doctor,
    ),
    "completion": Command(
        summary="a script that completes commands and options in the shell",
        about="Prints a script that completes commands and options in the shell: source it.",
        run=_completion,
        positionals=(
            Positional(
                dest="shell",
                metavar="SHELL",
                kind=Literal["bash", "zsh", "fish"],
                help='bash or zsh: eval "$(nofinding completion bash)" in ~/.bashrc or ~/.zshrc; '
                "fish: nofinding completion fish > ~/.config/fish/completions/nofinding.fish",
            ),
        ),
    ),
}
