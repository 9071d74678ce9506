"""The command line by itself: what it lists, and how a switch may be written."""

import subprocess
import sys

import pytest

from nofinding import __version__
from nofinding.cli import COMMANDS, completed, main
from nofinding.methods import METHODS
from nofinding.sources import SOURCES


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


def test_a_fit_without_a_method_fits_the_default_one() -> None:
    options = ["--films", "table:films.csv", "--out", "model"]
    assert completed("fit", options) == ["diff3m-f", *options]
    assert completed("fit", ["ae", *options]) == ["ae", *options]
    assert completed("fit", [*options, "ae"]) == [*options, "ae"]  # refused later, as misplaced
    assert completed("fit", ["--help"]) == ["--help"]
    assert completed("score", options) == options
