"""The command line: each command is a dataclass of options and one use case.

`nofinding COMMAND --help` is made from the docstrings under the dataclasses' fields.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nofinding import __version__
from nofinding.errors import UserError
from nofinding.storage.file_names import as_path, as_text, printed

if TYPE_CHECKING:  # a command imports what it needs, so that --help does not wait for torch
    from jsonargparse import ArgumentParser, Namespace
    from rich.text import Text

__all__ = ["COMMANDS", "completed", "main", "parser_of"]

DEFAULT = "diff3m-f"  # what `fit` fits where no method is named
SWITCHES = (
    "--resume",
    "--only_called",
    "--maps",
    "--overwrite",
    "--matched",
    "--pictures",
    "--follow_links",
    "--segmentation",
    "--fhir",
    "--store",
    "--keep_films",
    "--characteristics",
    "--dates",
)  # options that are true or false

WRONG_VALUE = re.compile(
    r'Parser key "([^"]+)": (?:Expected a (.*?)\. Got|Does not .*Subtypes: (.*?) Errors: .*Given)'
    r" value: (.*)"
)
KINDS = {"<class 'int'>": "a whole number", "<class 'float'>": "a number",
         "<class 'bool'>": "true or false"}  # fmt: skip

PEERS = "whom results are sent to by C-STORE, TITLE@host:port, one or more"

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
  nofinding deidentify FILE|FOLDER... --out FILMS            DICOM de-identified films
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


def _new(name: str, about: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(prog=f"nofinding {name}", description=about, exit_on_error=False)


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _with_options(parser: ArgumentParser, cls: type, lists: Sequence[str] = ()) -> None:
    """The dataclass's fields as options, and --config; `lists` take several values after one."""
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_class_arguments(cls, as_group=False, skip=set(lists))


def parser_of(command: str, method: str | None = None, preset: str | None = None) -> ArgumentParser:
    """The parser of one command; for fit, with the options of a method as a preset sets them."""
    parser = COMMANDS[command][1](method, preset)
    parser.allow_abbrev = False
    return parser


def _fit_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.methods import METHODS
    from nofinding.workflows.fit import FitOptions

    parser = _new("fit", _first_line(FitOptions))
    parser.add_argument(
        "method_name", metavar="METHOD", help=f"one of {', '.join(METHODS)}; default: {DEFAULT}"
    )
    several = {
        "films": "SOURCE:PATH, one or more (see `nofinding sources`)",
        "others": "films beside the normal ones, SOURCE:PATH, for methods that learn from such; "
        "default: those of split train that are not known to be normal",
        "fields": "record fields to use; default: every field recorded for some training film",
    }
    parser.add_argument("--films", nargs="+", type=str, required=True, help=several["films"])
    parser.add_argument("--others", nargs="+", type=str, help=several["others"])
    parser.add_argument("--fields", nargs="+", type=str, help=several["fields"])
    _with_options(parser, FitOptions, tuple(several))
    if method is not None:
        cls = METHODS[method]
        preset_values = cls.PRESETS[preset or "small"]
        parser.add_argument("--method", type=cls.Config, default=preset_values, help=f"of {method}")
    return parser


def _fit_gate_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.model.input_gate import FitGateOptions

    parser = _new("fit-gate", _first_line(FitGateOptions))
    several = "SOURCE:PATH, one or more: their normal films of split train"
    parser.add_argument("--films", nargs="+", type=str, required=True, help=several)
    _with_options(parser, FitGateOptions, ("films",))
    return parser


def _score_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.score import ScoreOptions

    parser = _new("score", _first_line(ScoreOptions))
    parser.add_argument("files", nargs="*", type=str, metavar="FILE", help="PNG, JPEG or DICOM")
    parser.add_argument("--films", nargs="+", type=str, default=[], help="SOURCE:PATH, or more")
    parser.add_argument(
        "--ehr", nargs="+", type=str, default=[], help='for FILEs: age=63 sex=M "weight=180 lb"'
    )
    _with_options(parser, ScoreOptions, ("films", "ehr"))
    return parser


def _evaluate_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.evaluate import EvaluateOptions

    parser = _new("evaluate", _first_line(EvaluateOptions))
    parser.add_argument(
        "--films", nargs="+", type=str, required=True, help="the labelled films, SOURCE:PATH"
    )
    _with_options(parser, EvaluateOptions, ("films",))
    return parser


def _bench_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.benchmark.options import BenchOptions

    parser = _new("bench", _first_line(BenchOptions))
    several = "SOURCE:PATH, one or more; each is a cohort of its own"
    parser.add_argument("--films", nargs="+", type=str, required=True, help=several)
    _with_options(parser, BenchOptions, ("films",))
    return parser


def _cohort_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.build_cohort import CohortOptions

    parser = _new("cohort", _first_line(CohortOptions))
    where = "the dataset's folder (see `nofinding sources`)"
    parser.add_argument("films", type=str, metavar="SOURCE:PATH", help=where)
    needed = "fields that must be recorded; films without are left out"
    parser.add_argument("--complete", nargs="+", type=str, default=[], help=needed)
    _with_options(parser, CohortOptions, ("complete",))
    return parser


def _example_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.datasets.examples import EXAMPLES
    from nofinding.workflows.example import ExampleOptions

    parser = _new("example", _first_line(ExampleOptions))
    one_of = f"one of {', '.join(EXAMPLES)}"
    parser.add_argument("source", type=str, metavar="SOURCE", help=one_of)
    _with_options(parser, ExampleOptions)
    return parser


def _export_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.export import ExportOptions

    parser = _new("export", _first_line(ExportOptions))
    scored = "the DICOM files that were scored"
    parser.add_argument("files", nargs="+", type=str, metavar="FILE", help=scored)
    _with_options(parser, ExportOptions)
    return parser


def _listen_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.clinical.requirements import need_clinical

    need_clinical()
    from nofinding.service.listen import ListenOptions

    parser = _new("listen", _first_line(ListenOptions))
    several = {
        "accept": "titles of those who may send, one or more; nobody else is let in",
        "peers": PEERS,
    }
    parser.add_argument("--accept", nargs="+", type=str, required=True, help=several["accept"])
    parser.add_argument("--peers", nargs="+", type=str, default=[], help=several["peers"])
    _with_options(parser, ListenOptions, tuple(several))
    return parser


def _study_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.study import StudyOptions

    parser = _new("study", _first_line(StudyOptions))
    known = "with --study or --patient, what is known of the patient beside the films' headers: " \
        'age=63 "weight=180 lb"'  # fmt: skip
    parser.add_argument("--ehr", nargs="+", type=str, default=[], help=known)
    _with_options(parser, StudyOptions, ("ehr",))
    return parser


def _deidentify_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.deidentify import DeidentifyOptions

    parser = _new("deidentify", _first_line(DeidentifyOptions))
    places = "DICOM files, or folders of them"
    parser.add_argument("places", nargs="+", type=str, metavar="PLACE", help=places)
    _with_options(parser, DeidentifyOptions)
    return parser


def _audit_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.service.audit import AuditOptions

    parser = _new("audit", _first_line(AuditOptions))
    does = "verify: whether the log is whole, and where it ends; show: its entries, as JSON lines"
    parser.add_argument("what", type=Literal["verify", "show"], metavar="WHAT", help=does)
    parser.add_argument("file", type=str, metavar="LOG", help="the log")
    _with_options(parser, AuditOptions)
    return parser


def _import_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.import_official import ImportOptions

    parser = _new("import-official", _first_line(ImportOptions))
    parser.add_argument("checkpoint", type=str, metavar="CHECKPOINT", help=".safetensors or .pt")
    parser.add_argument(
        "--films", nargs="+", type=str, help="SOURCE:PATH whose train normals scale the record"
    )
    _with_options(parser, ImportOptions, ("films",))
    return parser


def _cache_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.warm_cache import CacheOptions

    parser = _new("cache", _first_line(CacheOptions))
    several = "SOURCE:PATH, one or more"
    parser.add_argument("--films", nargs="+", type=str, required=True, help=several)
    sides = "pixels a side, one or more: those of the model, and 112 for its input gate"
    parser.add_argument("--size", nargs="+", type=int, default=[224], help=sides)
    _with_options(parser, CacheOptions, ("films", "size"))
    return parser


def _demo_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.demo import DemoOptions

    parser = _new("demo", _first_line(DemoOptions))
    _with_options(parser, DemoOptions)
    return parser


def _serve_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.service.options import ServeOptions

    parser = _new("serve", _first_line(ServeOptions))
    parser.add_argument("--peers", nargs="+", type=str, default=[], help=PEERS)
    _with_options(parser, ServeOptions, ("peers",))
    return parser


def _recipes_parser(method: str | None, preset: str | None) -> ArgumentParser:
    parser = _new("recipes", "Lists published protocols, or shows one whole, with its figures.")
    parser.add_argument("recipe", nargs="?", type=str, metavar="RECIPE", help="the one to show")
    return parser


def _listing_parser(name: str, about: str) -> Callable[[str | None, str | None], ArgumentParser]:
    return lambda method, preset: _new(name, about)


def _options(cls: type, parsed: Namespace, drop: Sequence[str]) -> Any:
    values = {k: v for k, v in vars(parsed).items() if k not in ("config", *drop)}
    return cls(**values)


def _fit(parser: ArgumentParser, parsed: Namespace) -> None:
    from jsonargparse import Namespace

    from nofinding.methods import METHODS
    from nofinding.workflows.fit import FitOptions, fit

    name = parsed.method_name
    if not isinstance(parsed.method, Namespace):
        raise UserError(f"--method: must map options of {name} to their values")
    config = parser.instantiate(parsed).method
    assert isinstance(config, METHODS[name].Config)
    fit(name, config, _options(FitOptions, parsed, ("method_name", "method")))


def _fit_gate(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.model.input_gate import FitGateOptions, fit_gate_alone

    fit_gate_alone(_options(FitGateOptions, parsed, ()))


def _score(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.workflows.score import ScoreOptions, score

    rows = score(parsed.files, _options(ScoreOptions, parsed, ("files",)))
    if parsed.files:
        table = Table("film", "score", "p-value", "flags", box=None)
        for row in rows:
            table.add_row(*_plain(row["image_id"], row["score"], row["p_value"], row["flags"]))
        Console().print(table)


def _plain(*cells: str) -> list[Text]:
    """The cells as they are: a bracket in a film's name is no markup."""
    from rich.text import Text

    return [Text(printed(cell)) for cell in cells]


def _evaluate(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.evaluate import EvaluateOptions, evaluate

    evaluate(_options(EvaluateOptions, parsed, ()))


def _bench(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.benchmark.grid import bench
    from nofinding.benchmark.options import BenchOptions

    print(bench(_options(BenchOptions, parsed, ())))


def _cohort(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.build_cohort import CohortOptions, assemble_cohort

    options = _options(CohortOptions, parsed, ("films",))
    print(assemble_cohort(parsed.films, replace(options, complete=tuple(options.complete))))


def _example(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.example import ExampleOptions, write_example

    print(write_example(parsed.source, _options(ExampleOptions, parsed, ("source",))))


def _export(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.export import ExportOptions, export

    for path in export(parsed.files, _options(ExportOptions, parsed, ("files",))):
        print(path)


def _study(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.workflows.study import StudyOptions, score_studies

    rows = score_studies(_options(StudyOptions, parsed, ()))
    for study in dict.fromkeys(row["study"] for row in rows):
        table = Table(
            "film", "score", "p-value", "flags", title=study, title_justify="left", box=None
        )
        for row in rows:
            if row["study"] == study:
                table.add_row(*_plain(row["film"], row["score"], row["p_value"], row["flags"]))
        Console().print(table)


def _deidentify(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.deidentify import DeidentifyOptions, deidentify

    print(deidentify(parsed.places, _options(DeidentifyOptions, parsed, ("places",))))


def _audit(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.service.audit import AuditOptions, audit

    options = _options(AuditOptions, parsed, ("what", "file"))
    for line in audit(parsed.what, Path(parsed.file), options):
        print(line)


def _import_official(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.import_official import ImportOptions, import_official

    import_official(Path(parsed.checkpoint), _options(ImportOptions, parsed, ("checkpoint",)))


def _listen(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.service.listen import ListenOptions, listen

    listen(_options(ListenOptions, parsed, ()))


def _cache(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.warm_cache import CacheOptions, cache_films

    cache_films(_options(CacheOptions, parsed, ()))


def _demo(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.demo import DemoOptions, demo

    print(demo(_options(DemoOptions, parsed, ())))


def _serve(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.service.options import ServeOptions
    from nofinding.service.serve import serve

    code = serve(_options(ServeOptions, parsed, ()))
    if code:
        raise SystemExit(code)


def _methods(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.methods import METHODS

    table = Table("method", "what it is", "learns from", "presets", box=None)
    for name, cls in METHODS.items():
        table.add_row(name, cls.summary, str(cls.supervision), " ".join(cls.PRESETS))
    Console().print(table)


def _sources(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.datasets import SOURCES

    table = Table("source", "what it reads", box=None)
    for name, source in SOURCES.items():
        table.add_row(f"{name}:", source.summary)
    Console().print(table)


def _recipes(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.recipes import recipe_of, recipes, shown

    if parsed.recipe is not None:
        print(shown(recipe_of(parsed.recipe)))
        return
    table = Table("recipe", "what it is", "figures", box=None)
    for name, recipe in recipes().items():
        table.add_row(name, recipe.summary, str(len(recipe.published)))
    Console().print(table)


Command = tuple[
    Callable[["ArgumentParser", "Namespace"], None],
    Callable[[str | None, str | None], "ArgumentParser"],
]
COMMANDS: dict[str, Command] = {
    "fit": (_fit, _fit_parser),
    "score": (_score, _score_parser),
    "cohort": (_cohort, _cohort_parser),
    "evaluate": (_evaluate, _evaluate_parser),
    "bench": (_bench, _bench_parser),
    "fit-gate": (_fit_gate, _fit_gate_parser),
    "import-official": (_import_official, _import_parser),
    "cache": (_cache, _cache_parser),
    "demo": (_demo, _demo_parser),
    "example": (_example, _example_parser),
    "export": (_export, _export_parser),
    "listen": (_listen, _listen_parser),
    "study": (_study, _study_parser),
    "deidentify": (_deidentify, _deidentify_parser),
    "audit": (_audit, _audit_parser),
    "serve": (_serve, _serve_parser),
    "methods": (_methods, _listing_parser("methods", "Lists what can be fitted.")),
    "sources": (_sources, _listing_parser("sources", "Lists where films can come from.")),
    "recipes": (_recipes, _recipes_parser),
}


def _method_and_preset(arguments: Sequence[str]) -> tuple[str | None, str | None]:
    """The method and preset of a fit, read ahead: they decide which further options there are."""
    from nofinding.methods import METHODS

    if {"-h", "--help"} & set(arguments) and arguments[0].startswith("-"):
        return None, None
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"fit: name the method first, one of {', '.join(METHODS)}")
    method = arguments[0]
    if method not in METHODS:
        raise UserError(f"fit {method}: not a method; there are {', '.join(METHODS)}")
    preset = "small"
    for file in _values_of("--config", arguments):
        preset = _preset_in(Path(file)) or preset
    for named in _values_of("--preset", arguments):
        preset = named
    if preset not in METHODS[method].PRESETS:
        presets = ", ".join(METHODS[method].PRESETS)
        raise UserError(f"--preset {preset}: {method} has {presets}")
    return method, preset


def _values_of(option: str, arguments: Sequence[str]) -> list[str]:
    """What was given to an option, as "--option value" or "--option=value"."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=False)
    values = [value for name, value in pairs if name == option]
    return values + [a.removeprefix(option + "=") for a in arguments if a.startswith(option + "=")]


def _preset_in(file: Path) -> str | None:
    """The preset that a config file names."""
    content = _config(file)
    return str(content["preset"]) if "preset" in content else None


def _config(file: Path) -> dict[Any, Any]:
    """What a config file holds. Raises UserError where it is absent or maps nothing: the parser
    would pass on whatever the YAML library raises."""
    from nofinding.storage.plain_yaml import read_yaml

    content = read_yaml(file)
    if not isinstance(content, dict):
        raise UserError(f"--config {file}: must map options to their values")
    return content


def _with_true(arguments: Sequence[str]) -> list[str]:
    """Lets a switch stand alone: --resume means --resume true."""
    out: list[str] = []
    for argument, after in zip(arguments, [*arguments[1:], "-"], strict=False):
        out.append(argument)
        if argument in SWITCHES and after.lower() not in ("true", "false", "yes", "no"):
            out.append("true")
    return out


def completed(command: str, arguments: Sequence[str]) -> list[str]:
    """What was given, with the default method before the options of a fit that names none."""
    if command != "fit" or not arguments or not arguments[0].startswith("--"):
        return list(arguments)
    from nofinding.methods import METHODS

    named = {"-h", "--help", *METHODS} & set(arguments)
    return list(arguments) if named else [DEFAULT, *arguments]


def _run(arguments: Sequence[str]) -> None:
    from jsonargparse import ArgumentError

    command = arguments[0]
    if command not in COMMANDS:
        raise UserError(f"{command}: no such command; there are {', '.join(COMMANDS)}")
    given = completed(command, _with_true(arguments[1:]))
    for file in _values_of("--config", given):
        _config(Path(file))
    method, preset = _method_and_preset(given) if command == "fit" else (None, None)
    parser = parser_of(command, method, preset)
    try:
        parsed = parser.parse_args([as_text(argument) for argument in given])
    except ArgumentError as error:
        raise UserError(as_path(_as_typed(_one_line(error), parser))) from None
    COMMANDS[command][0](parser, _with_paths(parsed))


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


def _as_typed(message: str, parser: ArgumentParser) -> str:
    """What the parser says of arguments, with their names as one types them: its own are those of
    Python's variables and types."""
    shown = {
        action.dest: action.option_strings[-1] if action.option_strings else str(action.metavar)
        for action in parser._actions
    }
    missing = "the following arguments are required: "
    if message.startswith(missing):
        names = message.removeprefix(missing).split(", ")
        return missing + ", ".join(shown.get(name, name) for name in names)
    if wrong := WRONG_VALUE.fullmatch(message):
        name, kind, value = wrong[1], wrong[2] or wrong[3], wrong[4]
        choices = re.findall(r"'([^']*)'", re.sub(r"<class '\w+'>", "", kind))
        kinds = [text for one, text in KINDS.items() if one in kind]
        allowed = f"one of {', '.join(choices)}" if choices else " or ".join(kinds) or kind
        return f"{shown.get(name, '--' + name)} {value}: is not {allowed}"
    return message


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)


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
        print(f"nofinding: {printed(_one_line(error))}", file=sys.stderr)
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
