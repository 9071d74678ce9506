"""Ranges of options: what is in one, how it is said, and that every command holds to it."""

import math
import typing
from argparse import Action
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from nofinding.cli import COMMANDS, main, parser_of
from nofinding.cli.parser import Parser
from nofinding.errors import UserError
from nofinding.methods import METHODS
from nofinding.ranges import Range, range_of, require_ranges


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

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 65}, "--batch-size 65: give 1 to 64"),
        ({"sides": (3, 0)}, "--sides 0: give 1 or more"),
        ({"seed": -1}, "--seed -1: give 0 or more"),
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


def ranges(cls: type) -> dict[str, Range]:
    """The ranges of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    pairs = {name: range_of(hint) for name, hint in hints.items()}
    return {name: allowed for name, allowed in pairs.items() if allowed is not None}


def below(allowed: Range) -> float:
    """A number that is too low, or too high where none is too low."""
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
        value = type(getattr(config(), field))(below(allowed))
        with pytest.raises(UserError, match=f"{field} {value:g}: give {allowed}"):
            config(**{field: value})
        option = action_of(parser, f"method.{field}").option_strings[0]
        with pytest.raises(UserError, match=f"{option} {value:g}: give {allowed}"):
            parser.parse_args([name, f"{option}={value:g}"])


def test_a_size_of_a_list_is_held_to_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--films", "phantom:", "--size", "224", "0"]) == 2
    assert capsys.readouterr().err == "nofinding: --size 0: give 1 to 4096\n"
