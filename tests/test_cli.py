"""The command line by itself: what it lists, and how a switch may be written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nofinding import __version__
from nofinding.cli import COMMANDS, completed, main, parser_of
from nofinding.cli.completion import script, words_of
from nofinding.datasets import SOURCES
from nofinding.methods import METHODS
from nofinding.model.pretrained import model_folder
from nofinding.workflows import doctor


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
        (["serve", "--home", "h", "--segmentation", "true"],
         "--segmentation true: write --segmentation or --no-segmentation, without a value"),
        (["serve", "--home", "h", "--posrt", "1"],
         "--posrt: serve has no such option; did you mean --port?"),
        (["serve", "--home", "h", "--batch_size", "1"],
         "--batch_size: serve has no such option; did you mean --batch-size?"),
        (["serve", "--home", "h", "--no-port"],
         "--no-port: serve has no such option; did you mean --port?"),
        (["score", "f", "--out", "o", "--films"], "--films: expected at least one argument"),
        (["fit", "ae", "--films", "f", "--out", "o", "--method.train.steps", "x"],
         "--method.train.steps x: is not a whole number"),
        (["fit", "ae", "--films", "f", "--out", "o", "--method.train.batch-size", "0"],
         "--method.train.batch-size 0: give 1 or more"),
        (["fit", "aee", "--films", "f", "--out", "o"], "fit aee: not a method; did you mean ae?"),
        (["scor", "f"], "scor: no such command; did you mean score?"),
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
    assert completed("fit", ["--help"]) == ["--help"]
    assert completed("score", options) == options


OPTIONS = ["--films", "table:films.csv", "--out", "model"]


@pytest.mark.parametrize(
    "line",
    [
        ["ae", *OPTIONS],
        [*OPTIONS, "ae"],
        ["--films", "table:films.csv", "ae", "--out", "model"],
        ["--out", "model", "--films", "table:films.csv", "ae"],
    ],
)
def test_the_method_stands_anywhere(line: list[str]) -> None:
    given = completed("fit", line)
    assert given[0] == "ae"
    parsed = parser_of("fit", "ae").parse_args(given)
    assert (parsed.method_name, parsed.films) == ("ae", ["table:films.csv"])
    assert parser_of("fit", "ae").instantiate(parsed).method == METHODS["ae"].PRESETS["small"]


def test_an_option_s_value_is_no_method() -> None:
    assert completed("fit", ["--films", "a:b", "--out", "ae"])[0] == "diff3m-f"
    assert completed("fit", ["--out", "ae", "vae", "--films", "a:b"])[0] == "vae"
    assert completed("fit", ["--out=m", "vae", "--films", "a:b"])[0] == "vae"
    assert completed("fit", ["--method.name", "ae", "--films", "a:b"])[0] == "diff3m-f"
    assert completed("fit", ["--resume", "ae", "--films", "a:b"])[0] == "ae"


@pytest.mark.parametrize(
    "line",
    [
        ["--films", "a:1", "b:2", "--out", "model"],
        ["--films", "a:1", "--films", "b:2", "--out", "model"],
        ["--films=a:1", "--out", "model", "--films=b:2"],
        ["--films", "a:1", "--out", "model", "--films", "b:2"],
    ],
)
def test_an_option_of_several_words_is_never_overwritten(line: list[str]) -> None:
    """Given once for each source, as in other programs: none is left out without a word."""
    assert parser_of("fit", "ae").parse_args(["ae", *line]).films == ["a:1", "b:2"]


def test_words_after_a_repeated_option_stay_its_own() -> None:
    words = ["f.png", "--films", "a:1", "--seed", "3", "--films", "b:2", "--out", "o"]
    parsed = parser_of("score").parse_args(words)
    assert (parsed.files, parsed.films, parsed.seed) == (["f.png"], ["a:1", "b:2"], 3)


def test_a_flag_turns_on_and_off() -> None:
    parser = parser_of("score")
    for words, maps in (([], True), (["--maps"], True), (["--no-maps"], False)):
        assert parser.parse_args(["f.png", "--out", "o", *words]).maps is maps
    assert parser.parse_args(["--no-maps", "--out", "o", "f.png"]).files == ["f.png"]


def test_no_option_has_an_underscore_and_no_flag_lacks_its_opposite() -> None:
    parsers = [parser_of(name) for name in COMMANDS]
    parsers += [parser_of("fit", name) for name in METHODS]
    for parser in parsers:
        for action in parser._actions:
            names = {name for name in action.option_strings if name != "--print_config"}
            assert not any("_" in name for name in names), names
            if getattr(action, "_typehint", None) is bool:
                assert len(names) == 2


@pytest.mark.parametrize("command", [name for name in COMMANDS if COMMANDS[name].options])
def test_help_begins_with_what_matters(command: str) -> None:
    parser = parser_of(command)
    shown = [group for group in parser.help_groups if group._group_actions]
    titles = [group.title for group in shown]
    first = next(group for group in shown if group.title == "what matters most")
    assert 1 <= len(first._group_actions) <= 5 and titles.index("what matters most") <= 1
    every = [action for group in shown for action in group._group_actions]
    assert sorted(map(id, every)) == sorted(map(id, parser._actions))  # each stands once


@pytest.mark.parametrize("option", ["--print_config", "--print-config"])
def test_a_printed_config_is_read_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
) -> None:
    line = ["score", "f.png", "--out", "o", "--batch-size", "3", "--no-maps"]
    with pytest.raises(SystemExit):
        main([*line, option])
    printed = capsys.readouterr().out
    assert "batch_size: 3" in printed and "maps: false" in printed
    file = tmp_path / "score.yaml"
    file.write_text(printed)
    parsed = parser_of("score").parse_args(["--config", str(file)])
    assert (parsed.batch_size, parsed.maps) == (3, False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("batch-size: 3", "batch-size: score has no such option; did you mean batch_size?"),
        ("batch_size: x", "--batch-size x: is not a whole number"),
    ],
)
def test_a_config_file_is_held_to_the_same_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "score.yaml"
    file.write_text(content)
    assert main(["score", "f.png", "--out", "o", "--config", str(file)]) == 2
    assert said in capsys.readouterr().err


def run_bash(body: str) -> list[str]:
    """What a line of bash prints, once the completion is there."""
    done = subprocess.run(
        ["bash", "-c", f"{script('bash')}\n{body}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def complete(*line: str) -> list[str]:
    """What bash offers for the last word of a line."""
    words = " ".join(f"'{word}'" for word in line)
    place = len(line) - 1
    return run_bash(
        f"COMP_WORDS=({words}); COMP_CWORD={place}; _nofinding; printf '%s\\n' ${{COMPREPLY[@]}}"
    )


def test_bash_completes_commands_options_choices_and_methods() -> None:
    assert complete("nofinding", "sco") == ["score"]
    assert set(complete("nofinding", "")) >= set(COMMANDS)
    assert complete("nofinding", "score", "--batch") == ["--batch-size"]
    assert complete("nofinding", "score", "--no-ma") == ["--no-maps"]
    assert complete("nofinding", "score", "--gate", "") == ["refuse", "flag", "off"]
    assert "patchcore" in complete("nofinding", "fit", "patch")
    assert complete("nofinding", "completion", "z") == ["zsh"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_names_every_command_and_option(shell: str) -> None:
    text = script(shell)
    for name in COMMANDS:
        assert name in text
        for option in words_of(name).options:
            shown = f"-l {option[2:]}" if shell == "fish" else option
            assert shown in text or not option.startswith("--")


def test_doctor_says_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for what in ("torch", "GPU", "OpenVINO", "threads", "OpenMP wait", "decoding", "cache"):
        assert what in shown
    assert all(f"weights {name} model" in shown for name in ("adult", "paediatric"))


def test_doctor_finds_damaged_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adult"
    shutil.copytree(model_folder("adult"), folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    monkeypatch.setattr(doctor, "model_folder", lambda name: folder)
    monkeypatch.setenv("NOFINDING_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    assert end.value.code == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "BROKEN weights adult model" in shown and "SHA-256 differs" in shown
