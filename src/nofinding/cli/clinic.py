"""The commands beside a PACS: export, listen, serve, study, deidentify, audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nofinding.cli.command import Command, Positional, options_from

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from nofinding.cli.parser import Parser

__all__ = ["COMMANDS"]


def _export(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.export import ExportOptions, export

    for path in export(parsed.files, options_from(ExportOptions, parsed)):
        print(path)


def _need_clinical() -> None:
    from nofinding.clinical.requirements import need_clinical

    need_clinical()


def _listen(parser: Parser, parsed: Namespace) -> None:
    from nofinding.service.listen import ListenOptions, listen

    listen(options_from(ListenOptions, parsed))


def _serve(parser: Parser, parsed: Namespace) -> None:
    from nofinding.service.options import ServeOptions
    from nofinding.service.serve import serve

    code = serve(options_from(ServeOptions, parsed))
    if code:
        raise SystemExit(code)


def _study(parser: Parser, parsed: Namespace) -> None:
    from nofinding.cli.tables import print_table
    from nofinding.workflows.study import StudyOptions, score_studies

    rows = score_studies(options_from(StudyOptions, parsed))
    for study in dict.fromkeys(row["study"] for row in rows):
        cells = [
            (row["film"], row["score"], row["p_value"], row["flags"])
            for row in rows
            if row["study"] == study
        ]
        print_table(("film", "score", "p-value", "flags"), cells, title=study)


def _deidentify(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.deidentify import DeidentifyOptions, deidentify

    print(deidentify(parsed.places, options_from(DeidentifyOptions, parsed)))


def _audit(parser: Parser, parsed: Namespace) -> None:
    from nofinding.service.audit import AuditOptions, audit

    for line in audit(parsed.what, Path(parsed.file), options_from(AuditOptions, parsed)):
        print(line)


COMMANDS = {
    "export": Command(
        summary="scores as DICOM: report, picture, map",
        run=_export,
        options="nofinding.workflows.export:ExportOptions",
        positionals=(
            Positional(
                dest="files", metavar="FILE", nargs="+", help="the DICOM files that were scored"
            ),
        ),
        first=("scores", "out", "segmentation", "fhir", "stow"),
    ),
    "listen": Command(
        summary="films from scanners and archives, by DICOM",
        run=_listen,
        options="nofinding.service.listen:ListenOptions",
        first=("home", "accept", "port", "model", "peers"),
        required=("accept",),
        before=_need_clinical,
    ),
    "serve": Command(
        summary="films by HTTP, results in a browser",
        run=_serve,
        options="nofinding.service.options:ServeOptions",
        first=("home", "host", "port", "model", "token_file"),
    ),
    "study": Command(
        summary="score studies in an archive, and store the results there",
        run=_study,
        options="nofinding.workflows.study:StudyOptions",
        first=("archive", "out", "study", "date", "store"),
    ),
    "deidentify": Command(
        summary="de-identified copies of DICOM films",
        run=_deidentify,
        options="nofinding.workflows.deidentify:DeidentifyOptions",
        positionals=(
            Positional(
                dest="places", metavar="PLACE", nargs="+", help="DICOM files, or folders of them"
            ),
        ),
    ),
    "audit": Command(
        summary="whether an audit log is whole, and what it says",
        run=_audit,
        options="nofinding.service.audit:AuditOptions",
        positionals=(
            Positional(
                dest="what",
                metavar="WHAT",
                kind=Literal["verify", "show"],
                help="verify: whether the log is whole, and where it ends; show: its entries, as "
                "JSON lines",
            ),
            Positional(dest="file", metavar="LOG", help="the log"),
        ),
    ),
}
