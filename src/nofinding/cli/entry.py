"""From the arguments of the program to its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from nofinding import __version__
from nofinding.cli.method_name import completed, method_and_preset, read_config, values_of
from nofinding.cli.registry import COMMANDS, parser_of
from nofinding.cli.usage import usage
from nofinding.cli.wording import did_you_mean
from nofinding.errors import UserError
from nofinding.storage.file_names import as_path, as_text, printed

__all__ = ["main"]


def _run(arguments: Sequence[str]) -> None:
    name = arguments[0]
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        raise UserError(f"{name}: no such command{near}")
    given = completed(name, arguments[1:])
    configs = {file: read_config(Path(file)) for file in values_of("--config", given)}
    method, preset = method_and_preset(given) if name == "fit" else (None, None)
    parser = parser_of(name, method, preset)
    for file, content in configs.items():
        parser.require_known(content, f"--config {file}")
    try:
        parsed = parser.parse_args([as_text(argument) for argument in given])
    except UserError as error:
        raise UserError(as_path(str(error))) from None
    COMMANDS[name].run(parser, _with_paths(parsed))


def _with_paths(parsed: Any) -> Any:
    """What was parsed as text, with paths byte for byte: the parser knows UTF-8 alone."""
    from jsonargparse import Namespace

    if isinstance(parsed, Namespace):
        return Namespace(  # type: ignore[no-untyped-call]
            **{key: _with_paths(value) for key, value in vars(parsed).items()}
        )
    if isinstance(parsed, list):
        return [_with_paths(value) for value in parsed]
    if isinstance(parsed, Path):
        return Path(as_path(str(parsed)))
    return as_path(parsed) if isinstance(parsed, str) else parsed


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the accelerator has run out of memory. Only torch raises that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _fail(message: str, code: int = 2) -> int:
    print(f"nofinding: {message}", file=sys.stderr)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code: 0, or 2 for bad input, after one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    if isinstance(sys.stdout, TextIOWrapper):  # a path may hold bytes that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run(arguments)
    except UserError as error:
        return _fail(printed(_one_line(error)))
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        sizes = "--batch-size or --method.train.batch-size"
        return _fail(f"the accelerator's memory is too small; give less {sizes}")
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{printed(str(error.filename or 'file system'))}: {error.strerror}")
    return 0
