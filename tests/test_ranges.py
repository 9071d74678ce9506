"""Ranges of options: what is in one, how it is said, and that every command holds to it."""

import math
import typing
from argparse import Action
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from nofinding.cli import COMMANDS, main, parser_of
from nofinding.cli.parser import Parser
from nofinding.errors import UserError
from nofinding.methods import METHODS
from nofinding.ranges import Names, Range, range_of, require_ranges


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "words"),
    [
        (Range(1, 4096), (1, 4096), (0, 4097), "1 to 4096"),
        (Range(1), (1, 10**9), (0, -1), "1 or more"),
        (Range(above=0), (1e-9,), (0, -1), "above 0"),
        (Range(0, below=1), (0, 0.99), (-0.1, 1), "0 or more and below 1"),
        (Range(above=0, below=1), (0.5,), (0, 1), "above 0 and below 1"),
        (Range(above=0, high=1), (0.5, 1), (0, 1.1), "above 0 and up to 1"),
        (Range(high=1), (1, -5), (1.1,), "1 or less"),
        (Range(1), (), (float("nan"),), "1 or more"),
        (Range(64, multiple=32), (64, 96), (32, 65), "a multiple of 32, 64 or more"),
        (Range(4, multiple=4), (4,), (0, 6), "a multiple of 4"),
    ],
)
def test_a_range_is_what_it_says(
    allowed: Range, inside: tuple[float, ...], outside: tuple[float, ...], words: str
) -> None:
    assert str(allowed) == words
    assert all(number in allowed for number in inside)
    assert not any(number in allowed for number in outside)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a test."""

    batch_size: Annotated[int, Range(1, 64)] = 8
    sides: Annotated[tuple[int, ...], Range(1)] = (2,)
    seed: Annotated[int | None, Range(0)] = None
    widths: Annotated[tuple[int, ...], Range(1, count=2)] = (8, 8)
    kinds: Annotated[tuple[str, ...], Names("blob", "line")] = ("blob",)
    direction: Literal["up", "down"] = "up"

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 65}, "--batch-size 65: give 1 to 64"),
        ({"sides": (3, 0)}, "--sides 0: give 1 or more"),
        ({"sides": ()}, "--sides (none): give 1 or more numbers, 1 or more"),
        ({"seed": -1}, "--seed -1: give 0 or more"),
        ({"widths": (8,)}, "--widths 8: give 2 numbers, 1 or more"),
        ({"kinds": ("blob", "dot")}, "--kinds dot: give some of blob, line"),
        ({"kinds": ()}, "--kinds (none): give some of blob, line"),
        ({"direction": "left"}, "--direction left: give one of up, down"),
    ],
)
def test_what_is_outside_is_named(values: dict[str, Any], message: str) -> None:
    Options()
    with pytest.raises(UserError) as error:
        Options(**values)
    assert str(error.value) == message


@dataclass(frozen=True, kw_only=True)
class Other(Options):
    """Options with another default."""

    batch_size: int = 4


def test_another_default_keeps_the_range() -> None:
    with pytest.raises(UserError, match="--batch-size 65: give 1 to 64"):
        Other(batch_size=65)


def ranges(cls: type) -> dict[str, Range | Names]:
    """What is declared of the fields of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    pairs = {name: range_of(hint) for name, hint in hints.items()}
    return {name: allowed for name, allowed in pairs.items() if allowed is not None}


def below(allowed: Range | Names) -> Any:
    """A number that is too low, or too high where none is too low; a word that is none."""
    if isinstance(allowed, Names):
        return "nothing"
    if allowed.above is not None:
        return allowed.above
    return allowed.low - 1 if allowed.low > -math.inf else allowed.high + 1


def action_of(parser: Parser, dest: str) -> Action:
    return next(action for action in parser._actions if action.dest == dest)


@pytest.mark.parametrize("name", [name for name, one in COMMANDS.items() if one.options])
def test_every_command_refuses_what_is_out_of_range(name: str) -> None:
    cls = COMMANDS[name].options_class()
    assert cls is not None
    for field, allowed in ranges(cls).items():
        parser = parser_of(name)
        action = action_of(parser, field)
        option, value = action.option_strings[0], f"{below(allowed):g}"
        assert f"Allowed: {allowed}." in str(action.help)
        with pytest.raises(UserError) as error:
            parser.parse_args([f"{option}={value}"])
        assert str(error.value) == f"{option} {value}: give {allowed}"


@pytest.mark.parametrize("name", [n for n, cls in METHODS.items() if ranges(cls.Config)])
def test_every_method_refuses_what_is_out_of_range(name: str) -> None:
    config = METHODS[name].Config
    parser = parser_of("fit", name)
    for field, allowed in ranges(config).items():
        kind, wrong = type(getattr(config(), field)), below(allowed)
        some = "" if isinstance(allowed, Range) else "some of "
        value = (wrong,) if kind is tuple else kind(wrong)
        shown = wrong if some else f"{wrong:g}"
        with pytest.raises(UserError) as error:
            config(**{field: value})
        assert str(error.value) == f"{field} {shown}: give {some}{allowed}"
        option = action_of(parser, f"method.{field}").option_strings[0]
        with pytest.raises(UserError) as error:
            parser.parse_args([name, f"{option}={f'[{shown}]' if kind is tuple else shown}"])
        assert str(error.value).startswith(f"{option} {shown}: give ")
        assert str(error.value).endswith(str(allowed))


def test_a_size_of_a_list_is_held_to_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--films", "phantom:", "--size", "224", "0"]) == 2
    assert capsys.readouterr().err == "nofinding: --size 0: give 1 to 4096\n"
