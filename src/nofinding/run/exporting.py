"""The use case `export`: scores of DICOM films as DICOM objects, for an archive and a viewer."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nofinding.data.decode import FilmFile
from nofinding.errors import UserError
from nofinding.evaluate.gallery import array_file, read_array
from nofinding.run.progress import say, tracked
from nofinding.run.unfinished import whole_or_not
from nofinding.sources.files import file_name

if TYPE_CHECKING:
    from nofinding.clinical.result import Result

__all__ = ["ExportOptions", "export", "need_clinical", "read_results"]

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


def need_clinical() -> None:
    """Raises UserError where the extra is not installed."""
    if find_spec("highdicom") is None:
        raise UserError("DICOM out needs the extra: pip install 'nofinding[clinical]'")


def export(files: Sequence[str], options: ExportOptions) -> list[Path]:
    """Writes the objects of every file, and gives their paths. Raises UserError, naming the file,
    before anything is written where one of them is no DICOM film or has no score."""
    need_clinical()
    from nofinding.clinical.objects import objects_of
    from nofinding.clinical.source import read_source

    if not files:
        raise UserError("export: name the DICOM files that were scored")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UserError(f"--out {options.out}: is not an empty folder")
    results = read_results(options.scores)
    sources = []
    for file in map(Path, files):
        film = FilmFile(file)
        film.check()
        name = file_name(file, film)
        if name not in results:
            raise UserError(f"{file}: {options.scores / 'scores.csv'} has no image_id {name!r}")
        sources.append((name, film, read_source(file)))
    written = []
    with whole_or_not(options.out) as folder:
        for name, film, source in tracked(sources, "writing DICOM"):
            for made in objects_of(
                source, film(), results[name], segmentation=options.segmentation
            ):
                named = f"{name}.{made.kind}.dcm"
                made.dataset.save_as(folder / named, enforce_file_format=True)
                written.append(options.out / named)
    say(f"{options.out}: {len(written)} objects of {len(sources)} films; research use only")
    return written


def read_results(folder: Path) -> Mapping[str, "Result"]:
    """What `score` wrote, by image_id; films that were refused are left out, maps are read when
    they are there. Raises UserError where the folder is not one of `score`."""
    try:
        run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        with (folder / "scores.csv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, restval=""))
        calibration = f"{run['calibration_n']} normal films of {run['calibration_from']}"
        told = {
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
            name, result = row["image_id"], _result(row, fields, told)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"--scores {folder / 'scores.csv'}: row {number}: `score` did not write it"
            ) from None
        if math.isfinite(result.score):
            file = array_file(folder / "maps", name)
            there = read_array(file) if file is not None else None
            results[name] = replace(result, map=there)
    return results


def _result(row: Mapping[str, str], fields: Sequence[str], told: Mapping[str, Any]) -> "Result":
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
        map=None,
        **told,
    )
