"""What is wrong with an argument, in the words of the one who typed it."""

from __future__ import annotations

import types
import typing
from argparse import Action
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

__all__ = ["allowed", "dashed", "did_you_mean", "name_of", "negated"]

KINDS = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}


def dashed(option: str) -> str:
    """An option as it is typed: the field batch_size is --batch-size."""
    return option.replace("_", "-")


def negated(option: str) -> str:
    """What turns a flag off: --no-maps for --maps, --method.no-squash for --method.squash."""
    before, dot, last = option.rpartition(".")
    return f"{before}.no-{last}" if dot else f"--no-{option.removeprefix('--')}"


def name_of(action: Action) -> str:
    """How the argument is called: --out, or FILE."""
    return action.option_strings[0] if action.option_strings else str(action.metavar)


def allowed(hint: Any) -> str:
    """What may be given for a type: "a whole number", "one of refuse, flag, off"."""
    inside = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Literal:
            return f"one of {', '.join(str(value) for value in inside)}"
        case typing.Annotated:
            return allowed(inside[0])
        case typing.Union | types.UnionType:
            kinds = [allowed(part) for part in inside if part is not type(None)]
            return " or ".join(dict.fromkeys(kinds))
        case origin if origin in (list, tuple):
            parts = [part for part in inside if part is not ...]
            return f"a list such as [1,2], each {allowed(parts[0])}" if parts else "a list"
    return KINDS.get(hint, "a text")


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """ "; did you mean --port?", or nothing where no word is near."""
    near = get_close_matches(word, list(words), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
