"""The command line by itself: what it lists, and how a switch may be written."""

import subprocess
import sys

import pytest

from nofinding import __version__
from nofinding.cli import COMMANDS, completed, main
from nofinding.datasets import SOURCES
from nofinding.methods import METHODS


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for command, names in (("methods", METHODS), ("sources", SOURCES)):
        assert main([command]) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in names)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_help_names_every_command(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"nofinding {command}" in shown for command in COMMANDS)


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "nofinding", "--version"], capture_output=True)
    assert done.returncode == 0 and done.stdout.decode().strip() == __version__


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_each_command_teaches(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"nofinding {command}" in capsys.readouterr().out


def test_a_command_without_arguments_says_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in ("fit", "score", "evaluate", "import-official"):
        assert main([command]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "ae"], "the following arguments are required: --films, --out"),
        (["audit"], "the following arguments are required: WHAT, LOG, --key"),
        (["audit", "check", "log", "--key", "k"], "WHAT check: is not one of verify, show"),
        (["score", "f", "--out", "o", "--gate", "x"], "--gate x: is not one of refuse, flag, off"),
        (["score", "f", "--out", "o", "--calibration", "x"],
         "--calibration x: is not one of plain, mondrian, weighted"),
        (["serve", "--home", "h", "--port", "x"], "--port x: is not a whole number"),
        (["serve", "--home", "h", "--wait", "x"], "--wait x: is not a number"),
        (["serve", "--home", "h", "--segmentation=x"], "--segmentation x: is not true or false"),
        (["serve", "--home", "h", "--posrt", "1"], "unrecognized arguments: --posrt 1"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_as_it_is_typed(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"nofinding: {said}\n"


def test_a_fit_without_a_method_fits_the_default_one() -> None:
    options = ["--films", "table:films.csv", "--out", "model"]
    assert completed("fit", options) == ["diff3m-f", *options]
    assert completed("fit", ["ae", *options]) == ["ae", *options]
    assert completed("fit", [*options, "ae"]) == [*options, "ae"]  # refused later, as misplaced
    assert completed("fit", ["--help"]) == ["--help"]
    assert completed("score", options) == options
