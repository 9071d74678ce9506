"""Commands beside an archive: export, listen, serve, study, deidentify, audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nofinding.cli.parsing import first_line, new_parser, options_of, plain_cells, with_options

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from nofinding.cli.parsing import Command

__all__ = ["COMMANDS"]

PEERS = "whom results are sent to by C-STORE, TITLE@host:port, one or more"


def _export_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.export import ExportOptions

    parser = new_parser("export", first_line(ExportOptions))
    scored = "the DICOM files that were scored"
    parser.add_argument("files", nargs="+", type=str, metavar="FILE", help=scored)
    with_options(parser, ExportOptions)
    return parser


def _export(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.export import ExportOptions, export

    for path in export(parsed.files, options_of(ExportOptions, parsed, ("files",))):
        print(path)


def _listen_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.clinical.requirements import need_clinical

    need_clinical()
    from nofinding.service.listen import ListenOptions

    parser = new_parser("listen", first_line(ListenOptions))
    several = {
        "accept": "titles of those who may send, one or more; nobody else is let in",
        "peers": PEERS,
    }
    parser.add_argument("--accept", nargs="+", type=str, required=True, help=several["accept"])
    parser.add_argument("--peers", nargs="+", type=str, default=[], help=several["peers"])
    with_options(parser, ListenOptions, tuple(several))
    return parser


def _listen(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.service.listen import ListenOptions, listen

    listen(options_of(ListenOptions, parsed, ()))


def _study_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.study import StudyOptions

    parser = new_parser("study", first_line(StudyOptions))
    known = "with --study or --patient, what is known of the patient beside the films' headers: " \
        'age=63 "weight=180 lb"'  # fmt: skip
    parser.add_argument("--ehr", nargs="+", type=str, default=[], help=known)
    with_options(parser, StudyOptions, ("ehr",))
    return parser


def _study(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.workflows.study import StudyOptions, score_studies

    rows = score_studies(options_of(StudyOptions, parsed, ()))
    for study in dict.fromkeys(row["study"] for row in rows):
        table = Table(
            "film", "score", "p-value", "flags", title=study, title_justify="left", box=None
        )
        for row in rows:
            if row["study"] == study:
                table.add_row(*plain_cells(row["film"], row["score"], row["p_value"], row["flags"]))
        Console().print(table)


def _deidentify_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.deidentify import DeidentifyOptions

    parser = new_parser("deidentify", first_line(DeidentifyOptions))
    places = "DICOM files, or folders of them"
    parser.add_argument("places", nargs="+", type=str, metavar="PLACE", help=places)
    with_options(parser, DeidentifyOptions)
    return parser


def _deidentify(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.deidentify import DeidentifyOptions, deidentify

    print(deidentify(parsed.places, options_of(DeidentifyOptions, parsed, ("places",))))


def _audit_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.service.audit import AuditOptions

    parser = new_parser("audit", first_line(AuditOptions))
    does = "verify: whether the log is whole, and where it ends; show: its entries, as JSON lines"
    parser.add_argument("what", type=Literal["verify", "show"], metavar="WHAT", help=does)
    parser.add_argument("file", type=str, metavar="LOG", help="the log")
    with_options(parser, AuditOptions)
    return parser


def _audit(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.service.audit import AuditOptions, audit

    options = options_of(AuditOptions, parsed, ("what", "file"))
    for line in audit(parsed.what, Path(parsed.file), options):
        print(line)


def _serve_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.service.options import ServeOptions

    parser = new_parser("serve", first_line(ServeOptions))
    parser.add_argument("--peers", nargs="+", type=str, default=[], help=PEERS)
    with_options(parser, ServeOptions, ("peers",))
    return parser


def _serve(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.service.options import ServeOptions
    from nofinding.service.serve import serve

    code = serve(options_of(ServeOptions, parsed, ()))
    if code:
        raise SystemExit(code)


COMMANDS: dict[str, Command] = {
    "export": (_export, _export_parser),
    "listen": (_listen, _listen_parser),
    "study": (_study, _study_parser),
    "deidentify": (_deidentify, _deidentify_parser),
    "audit": (_audit, _audit_parser),
    "serve": (_serve, _serve_parser),
}
