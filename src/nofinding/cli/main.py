"""The command line: each command is a dataclass of options and one use case.

`nofinding COMMAND --help` is made from the docstrings under the dataclasses' fields. The commands
are in the other files of this folder, a group in each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from nofinding import __version__
from nofinding.cli import clinic, core, data, models
from nofinding.cli.core import completed, method_and_preset
from nofinding.cli.parsing import (
    Command,
    as_typed,
    config_in,
    one_line,
    values_of,
    with_paths,
    with_true,
)
from nofinding.errors import UserError
from nofinding.storage.file_names import as_path, as_text, printed

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["COMMANDS", "completed", "main", "parser_of"]

USAGE = """\
nofinding: how far a chest radiograph is from the normal ones, where, and with what confidence

  nofinding demo                                             see it work, on simulated films
  nofinding score FILE... --ehr age=63 sex=M --out DIR       by a model inside the package
  nofinding cohort SOURCE:PATH --out COHORT                  a dataset as its publisher ships it
  nofinding fit [METHOD] --films SOURCE:PATH --out MODEL     learn from normal films
  nofinding score --model MODEL --films SOURCE:PATH --out DIR
  nofinding score --model MODEL FILE... --ehr age=63 sex=M view=PA --out DIR
  nofinding evaluate --scores DIR/scores.csv --films SOURCE:PATH --out REPORT
  nofinding bench --films SOURCE:PATH... --out BENCH         every method on the same films
  nofinding export FILE... --scores DIR --out DICOM          scores as DICOM: report, picture, map
  nofinding listen --home HOME --accept TITLE...             films from scanners and archives
  nofinding serve --home HOME                                films by HTTP, results in a browser
  nofinding study --archive URL --study UID --out DIR        score in an archive, store it there
  nofinding deidentify FILE|FOLDER... --out FILMS            de-identified DICOM films
  nofinding audit verify LOG --key KEY                       whether an audit log is whole
  nofinding import-official CHECKPOINT --out MODEL           a published Diff3M checkpoint
  nofinding fit-gate --films SOURCE:PATH --out GATE          which films may be scored at all
  nofinding example SOURCE --out FOLDER                      a small copy of a dataset, to try
  nofinding cache --films SOURCE:PATH --size 224 112         decode films ahead, with every core
  nofinding methods                                          what can be fitted
  nofinding sources                                          where films can come from
  nofinding recipes [RECIPE]                                 published protocols and their figures

Each has --help, --config FILE.yaml and --print_config. Research use only: not a medical device.
"""

COMMANDS: dict[str, Command] = core.COMMANDS | data.COMMANDS | models.COMMANDS | clinic.COMMANDS


def parser_of(command: str, method: str | None = None, preset: str | None = None) -> ArgumentParser:
    """The parser of one command; for fit, with the options of a method as a preset sets them."""
    parser = COMMANDS[command][1](method, preset)
    parser.allow_abbrev = False
    return parser


def _run(arguments: Sequence[str]) -> None:
    from jsonargparse import ArgumentError

    command = arguments[0]
    if command not in COMMANDS:
        raise UserError(f"{command}: no such command; there are {', '.join(COMMANDS)}")
    given = completed(command, with_true(arguments[1:]))
    for file in values_of("--config", given):
        config_in(Path(file))
    method, preset = method_and_preset(given) if command == "fit" else (None, None)
    parser = parser_of(command, method, preset)
    try:
        parsed = parser.parse_args([as_text(argument) for argument in given])
    except ArgumentError as error:
        raise UserError(as_path(as_typed(one_line(error), parser))) from None
    COMMANDS[command][0](parser, with_paths(parsed))


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the accelerator has run out of memory. Only torch raises that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code: 0, or 2 for bad input, after one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if isinstance(sys.stdout, TextIOWrapper):  # a path may hold bytes that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    from jsonargparse import ArgumentError

    try:
        _run(arguments)
    except (UserError, ArgumentError) as error:
        print(f"nofinding: {printed(one_line(error))}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        print(
            "nofinding: the accelerator's memory is too small; give less --batch_size or "
            "--method.train.batch_size",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("nofinding: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        name = printed(str(error.filename or "file system"))
        print(f"nofinding: {name}: {error.strerror}", file=sys.stderr)
        return 2
    return 0
