"""The use case `export`: scores of DICOM films as DICOM objects, for an archive and a viewer."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nofinding.clinical.network.delivery import Way, way_to
from nofinding.clinical.requirements import need_clinical, need_network
from nofinding.data.decoding.decode import FilmFile
from nofinding.datasets.local.single_files import file_name
from nofinding.errors import UserError
from nofinding.evaluation.report.gallery import array_file, read_array
from nofinding.progress import say, tracked
from nofinding.storage.atomic import whole_or_not, write_atomic

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from nofinding.clinical.result import Result

__all__ = ["ExportOptions", "export", "read_results"]

ATTENTION = "attention."


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Writes the scores of DICOM films as DICOM: a report (SR), a picture, the map."""

    scores: Path
    """Folder that `score` wrote."""
    out: Path
    """Folder for the objects, STEM.report.dcm and so on; it must be empty, or not be there."""
    segmentation: bool = False
    """Write a segmentation of the map above its threshold, too."""
    fhir: bool = False
    """Write STEM.fhir.json, too: a FHIR R4 transaction with report, numbers and model."""
    send_fhir: str | None = None
    """Base address of a FHIR server that those transactions are posted to."""
    patient_system: str | None = None
    """Identifier system that the films' patient ids are of, for FHIR; default: none is stated."""
    stow: str | None = None
    """Store the objects in this archive, too: base address of its DICOMweb services."""
    login: Path | None = None
    """For --stow, file with "bearer TOKEN" or "basic USER:PASSWORD" in it, readable by its owner
    alone; default: what NOFINDING_DICOMWEB_TOKEN or NOFINDING_DICOMWEB_BASIC says, if it is set."""
    ca: Path | None = None
    """For --stow, file of certificates (PEM) to trust in place of the machine's own."""
    peer: str | None = None
    """Send the objects by C-STORE to this application entity, too: TITLE@host:port."""
    title: str = "NOFINDING"
    """Our application entity title, for --peer."""

    def __post_init__(self) -> None:
        if self.stow is not None and self.peer is not None:
            raise UserError("--stow and --peer: give one of the two")


def export(files: Sequence[str], options: ExportOptions) -> list[Path]:
    """Writes the objects of every file, and gives their paths. Raises UserError, naming the file,
    before anything is written where one of them is no DICOM film or has no score."""
    need_clinical()
    from nofinding.clinical.dicom.objects import objects_of

    way = _way(options)
    if not files:
        raise UserError("export: name the DICOM files that were scored")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UserError(f"--out {options.out}: is not an empty folder")
    films = _films(files, options)
    bundles = _bundles(films, options)
    written = []
    with whole_or_not(options.out) as folder:
        for one in tracked(films, "writing DICOM"):
            of_film = objects_of(
                one.header, one.film(), one.result, segmentation=options.segmentation
            )
            for single in of_film:
                named = f"{one.name}.{single.kind}.dcm"
                single.dataset.save_as(folder / named, enforce_file_format=True)
                written.append(options.out / named)
            if options.fhir:
                named = f"{one.name}.fhir.json"
                text = json.dumps(bundles[one.name], indent=1, allow_nan=False)
                write_atomic(folder / named, text.encode())
                written.append(options.out / named)
    say(f"{options.out}: {len(written)} objects of {len(films)} films; research use only")
    if way is not None:
        objects = [path for path in written if path.suffix == ".dcm"]
        way(objects)
        say(f"{way.to}: {len(objects)} objects stored")
    if options.send_fhir is not None:
        _send(options.send_fhir, [*bundles.values()])
    return written


class _Scored(NamedTuple):
    name: str
    film: FilmFile
    header: "Dataset"
    result: "Result"


def _films(files: Sequence[str], options: ExportOptions) -> list[_Scored]:
    """Each film with its header and its result. Raises UserError, naming the file."""
    from nofinding.clinical.dicom.source import read_source

    results = read_results(options.scores)
    films = []
    for file in map(Path, files):
        film = FilmFile(file)
        film.check()
        name = file_name(file, film)
        if name not in results:
            raise UserError(f"{file}: {options.scores / 'scores.csv'} has no image_id {name!r}")
        films.append(_Scored(name, film, read_source(file), results[name]))
    return films


def _bundles(films: Sequence[_Scored], options: ExportOptions) -> dict[str, dict[str, Any]]:
    """The FHIR of each film, where it is asked for. Raises UserError for a film that has no
    patient id, and for an address that cannot be posted to."""
    if not options.fhir and options.send_fhir is None:
        return {}
    from nofinding.clinical.fhir.bundle import require_server, result_bundle

    if options.send_fhir is not None:
        require_server(options.send_fhir)
    bundles = {}
    for one in films:
        try:
            bundles[one.name] = result_bundle(one.result, one.header, system=options.patient_system)
        except UserError as error:
            raise UserError(f"{one.film.path}: {error}") from None
    return bundles


def _send(address: str, bundles: Sequence[dict[str, Any]]) -> None:
    from nofinding.clinical.fhir.bundle import send_result

    for number, bundle in enumerate(tracked(bundles, "sending FHIR")):
        try:
            send_result(address, bundle)
        except UserError as error:
            raise UserError(f"{error}; {number} of {len(bundles)} results were sent, the files are "
                            "written") from None  # fmt: skip
    say(f"{len(bundles)} results sent")


def _way(options: ExportOptions) -> Way | None:
    """Where the objects go beside the folder. Raises UserError for what is no address or peer."""
    if options.stow is None and options.peer is None:
        return None
    need_network()
    from nofinding.clinical.network.dicomweb import Archive

    archive = None
    if options.stow is not None:
        archive = Archive(options.stow, login=options.login, ca=options.ca, option="--stow")
    return way_to(archive, options.peer, options.title)


def read_results(folder: Path) -> Mapping[str, "Result"]:
    """What `score` wrote, by image_id; films that were refused are left out, maps are read when
    they are there. Raises UserError where the folder is not one of `score`."""
    try:
        run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        with (folder / "scores.csv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, restval=""))
        calibration = f"{run['calibration_n']} normal films of {run['calibration_from']}"
        by_id = {
            "calibration": calibration if run["calibration_n"] else "none",
            "method": str(run["method"]),
            "model": str(run.get("model") or run["method"]),
            "sha256": str(run["model_sha256"]),
            "version": str(run["versions"]["nofinding"]),
            "aspect": run["aspect"],
            "threshold": run["map_threshold"],
        }
        fields = tuple(run["fields"])
    except OSError as error:
        raise UserError(f"--scores {folder}: {Path(error.filename).name} cannot be read") from None
    except (ValueError, KeyError, TypeError, RecursionError, csv.Error):
        raise UserError(f"--scores {folder}: is not a folder that `score` wrote") from None
    results = {}
    for number, row in enumerate(rows, start=2):
        try:
            name, result = row["image_id"], _result(row, fields, by_id)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"--scores {folder / 'scores.csv'}: row {number}: `score` did not write it"
            ) from None
        if math.isfinite(result.score):
            file = array_file(folder / "maps", name)
            there = read_array(file) if file is not None else None
            results[name] = replace(result, anomaly_map=there)
    return results


def _result(row: Mapping[str, str], fields: Sequence[str], run: Mapping[str, Any]) -> "Result":
    """What a row of scores.csv says, without the map. Raises ValueError and the like."""
    from nofinding.clinical.result import Result

    shares = {
        key.removeprefix(ATTENTION): float(value)
        for key, value in row.items()
        if key.startswith(ATTENTION) and value
    }
    return Result(
        score=float(row["score"]) if row.get("score") else math.nan,
        p_value=float(row["p_value"]) if row.get("p_value") else None,
        fields=tuple(name for name in fields if not shares or shares.get(name)),
        attention={name: share for name, share in shares.items() if share},
        flags=tuple(part.strip() for part in (row.get("flags") or "").split(";") if part),
        anomaly_map=None,
        **run,
    )
